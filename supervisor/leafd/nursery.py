"""The client of the nursery: the process that forks shims and keeps descriptors for them.

Rules:
1. The nursery outlives leafd. It is started in a session of its own and in the cgroup agent/leaf, and leafd only ever
   connects to it; the next leafd connects to the same one.
2. The socket listens before the nursery runs: it is bound here and inherited, so nobody waits for a process to start.
3. One packet a request, one reply each, in order (nursery.proto). So a list of futures is all the bookkeeping. Up to
   32 requests are under way, the others queue here: the nursery cuts off whoever does not read its replies, and a
   socket's buffer holds some 200 small packets only (unix(7), SO_SNDBUF).
4. A reply that does not come in time breaks the connection, as nothing after it could be told apart. The next request
   connects again, and starts a new nursery if nobody listens.
"""

import asyncio
import errno
import os
import select
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from leafd.removal import readable
from leafshim.api.nursery import Forget, Keep, Notice, Packet, Renew, Reply, Request, Spawn, Survey, Take
from leafshim.errors import (
    DeadlineExceeded,
    KernelError,
    LeafError,
    ProtocolError,
    StateError,
    Unavailable,
    from_status,
)
from leafshim.kernel import fdpass

_PACKET = 64 << 10
_WINDOW = 32


class Spawned(NamedTuple):
    """A new shim without a container. `pidfd` and `line`, for its order, are the owner's; `start_time` in clock ticks
    after boot."""

    pid: int
    start_time: int
    pidfd: int
    line: socket.socket

    def order(self, container_id: str, bundle: str, descriptors: list[int], kept: Mapping[str, int]) -> None:
        """Make it the shim of a container whose directory is `bundle`; `descriptors`: its listening socket, and
        a connection to serve; `kept`: what the nursery kept, where it takes a container over. Raises KernelError when
        it is gone."""
        if self._ended():  # its worker may live on for a moment, and keep the line open
            raise KernelError("order shim", errno.ESRCH)
        packet = "\0".join((container_id, bundle, *kept))
        fdpass.send(self.line, packet.encode(), [*descriptors, *kept.values()])

    async def try_out(self, container_id: str, bundle: str, kept: Mapping[str, int], deadline: float) -> None:
        """See whether it could take over a container whose shim is in charge; the order may follow. Raises StateError
        that says why it could not, DeadlineExceeded; KernelError where it was gone before."""
        if self._ended():
            raise KernelError("try_out", errno.ESRCH, f"shim {self.pid}")
        packet = "\0".join(("?", container_id, bundle, *kept))  # leafshim/succession.py
        fdpass.send(self.line, packet.encode(), list(kept.values()))
        try:
            async with asyncio.timeout(deadline):
                await readable(self.line.fileno())
        except TimeoutError:
            raise DeadlineExceeded(f"{container_id}: the next shim did not answer within {deadline:g} s") from None
        try:
            answer, _ = fdpass.receive(self.line, _PACKET)
        except KernelError:  # what it has not read resets the line (unix(7))
            answer = b""
        if self._ended():
            answer = b""
        if answer != b"able":
            why = answer.decode(errors="replace") or "it died"
            raise StateError(f"{container_id}: the next shim cannot take it over: {why}")

    def _ended(self) -> bool:
        """Its sleeper is gone: a worker that is left will answer, and end with the first order. (select(2) knows no
        descriptor above 1023, and a thousand containers have more.)"""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Let go of it. One that has had no order ends."""
        self.line.close()
        os.close(self.pidfd)


class _Answer(NamedTuple):
    reply: Reply
    descriptors: list[int]


class Nursery:
    """One supervisor's connection. `cgroup`: absolute path of the cgroup that a new nursery joins."""

    def __init__(self, path: str, cgroup: str, deadline: float) -> None:
        self.path = path
        self.cgroup = cgroup
        self.deadline = deadline
        self.on_notice: Callable[[Notice], None] = lambda _: None
        """Called when a shim that it forked has ended."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called when it went away, and all that it kept with it."""
        self._socket: socket.socket | None = None
        self._waiting: deque[asyncio.Future[_Answer]] = deque()
        self._queue: deque[tuple[bytes, list[int], asyncio.Future[_Answer]]] = deque()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def started(self) -> bool:
        """Whether it was started by us: then it has nothing of the containers that there were before us."""
        return self._process is not None

    def connect(self) -> None:
        """Have a connection, to a nursery that is started if need be. Does not wait for it. Raises KernelError."""
        if self._socket is not None:
            return
        try:
            connection = fdpass.connect(self.path, kind=socket.SOCK_SEQPACKET, timeout=self.deadline)
        except Unavailable:
            self._start()
            connection = fdpass.connect(self.path, kind=socket.SOCK_SEQPACKET, timeout=self.deadline)
        connection.setblocking(False)
        asyncio.get_running_loop().add_reader(connection, self._receive)
        self._socket = connection

    def close(self) -> None:
        """Let go of the connection; the nursery stays."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(Unavailable("the nursery went away"))

    async def spawn(self, cgroup: str) -> Spawned:
        """Fork a shim into `cgroup`."""
        reply, descriptors = await self._call(Request(spawn=Spawn(cgroup=cgroup)))
        if len(descriptors) != 2:
            _close(descriptors)
            raise ProtocolError(f"the nursery sent {len(descriptors)} descriptors with a new shim")
        pidfd, line = descriptors
        return Spawned(reply.pid, reply.start_time, pidfd, socket.socket(fileno=line))

    async def keep(self, container_id: str, held: dict[str, int]) -> None:
        """Give copies of descriptors, by name, into keeping for a container."""
        request = Request(keep=Keep(id=container_id, names=list(held)))
        await self._call(request, list(held.values()))

    async def take(self, container_id: str) -> dict[str, int]:
        """Copies, by name, of what is kept for a container; they belong to the caller."""
        reply, descriptors = await self._call(Request(take=Take(id=container_id)))
        if len(reply.names) != len(descriptors):
            _close(descriptors)
            raise ProtocolError("the nursery sent descriptors without names")
        return dict(zip(reply.names, descriptors, strict=True))

    async def forget(self, container_id: str) -> None:
        """Close what is kept for a container."""
        await self._call(Request(forget=Forget(id=container_id)))

    async def survey(self) -> Reply:
        """Who the nursery is, and what it keeps. Whatever was asked of it before is done when this returns."""
        reply, _ = await self._call(Request(survey=Survey()))
        return reply

    async def renew(self, patience: float) -> Reply:
        """Have it go on with the code that our own interpreter finds installed: as `survey`, by that code. `patience`:
        seconds for its trial. Raises StateError that says why it goes on as before.

        On a connection of its own, as nothing else is answered there meanwhile.
        """
        aside = Nursery(self.path, self.cgroup, patience + self.deadline)
        request = Request(renew=Renew(interpreter=sys.executable, patience=int(patience * 1e9)))
        try:
            reply, _ = await aside._call(request)
        finally:
            aside.close()
        return reply

    async def _call(self, request: Request, descriptors: Sequence[int] = ()) -> _Answer:
        """One request, one reply. Raises what the reply says, Unavailable, DeadlineExceeded."""
        return await self._answer(self._send(request, list(descriptors)))

    def _send(self, request: Request, descriptors: list[int]) -> "asyncio.Future[_Answer]":
        waiting: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._queue.append((request.encode(), descriptors, waiting))
        self._pump()
        return waiting

    def _pump(self) -> None:
        """Send what is queued, as far as the window allows."""
        while self._queue and len(self._waiting) < _WINDOW:
            data, descriptors, waiting = self._queue.popleft()
            if waiting.done():  # whoever asked was cancelled
                continue
            try:
                self._deliver(data, descriptors)
            except LeafError as error:
                waiting.set_exception(error)
            else:
                self._waiting.append(waiting)

    def _deliver(self, data: bytes, descriptors: list[int]) -> None:
        try:
            fdpass.send(self._connected(), data, descriptors)
        except KernelError:
            # It died since the last request, so this one has not reached it: the next nursery gets it.
            self.close()
            self.on_lost()
            fdpass.send(self._connected(), data, descriptors)

    def _connected(self) -> socket.socket:
        self.connect()
        assert self._socket is not None
        return self._socket

    async def _answer(self, waiting: "asyncio.Future[_Answer]") -> _Answer:
        try:
            async with asyncio.timeout(self.deadline):
                answer = await waiting
        except TimeoutError:
            if waiting in self._waiting:
                self.close()
            raise DeadlineExceeded(f"the nursery did not answer within {self.deadline:g} s") from None
        if answer.reply.code:
            _close(answer.descriptors)
            raise from_status(answer.reply.code, f"nursery: {answer.reply.message}")
        return answer

    def _receive(self) -> None:
        try:
            while self._socket is not None:
                data, descriptors = fdpass.receive(self._socket, _PACKET)
                if not data:
                    raise Unavailable("the nursery ended")
                self._handle(Packet.decode(data), descriptors)
        except LeafError as error:
            if not (isinstance(error, KernelError) and error.errno == errno.EAGAIN):
                self.close()
                self.on_lost()
                self._pump()

    def _handle(self, packet: Packet, descriptors: list[int]) -> None:
        if packet.notice is not None:
            self.on_notice(packet.notice)
        waiting = self._waiting.popleft() if packet.reply is not None and self._waiting else None
        if packet.reply is not None and waiting is not None and not waiting.done():
            waiting.set_result(_Answer(packet.reply, descriptors))
        else:  # whoever asked was cancelled
            _close(descriptors)
        self._pump()

    def _start(self) -> None:
        """Start a nursery on a socket that listens already."""
        if self._process is not None:
            self._process.poll()  # reap the one that we started before, if it ended
        with fdpass.listen(self.path, kind=socket.SOCK_SEQPACKET) as listener:
            fd = listener.fileno()
            command = [sys.executable, "-I", "-m", "leafshim.nursery", "--fd", str(fd), "--cgroup", self.cgroup]
            command += ["--socket", self.path]
            try:
                with open(f"{self.path.removesuffix('.sock')}.log", "ab") as log:  # what a dying shim has to say
                    self._process = subprocess.Popen(
                        command,
                        pass_fds=(fd,),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
            except OSError as error:
                raise KernelError.of(error, "start nursery") from error


def _close(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)
