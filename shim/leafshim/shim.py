"""A shim: a sleeper that is the container's parent, and a worker whenever there is something to do.

Rules:
1. It depends on nothing alive but the kernel: supervisor, nursery and clients may all be gone.
2. It has a session of its own and drops the signals that a terminal or an impatient operator sends; only Shutdown,
   or SIGKILL, ends it. A SIGKILL ends no container.
3. What does not depend on the container is made before the fork, so that it is made once for all shims.
4. A worker lives while a client is connected or something is under way, and `Streams.LINGER` after the last output.
"""

import os
import select
import signal as signal_numbers
import socket
import sys
from typing import NoReturn

from leafshim import loop as loops
from leafshim import sleeper, snapshot, succession
from leafshim.bundle import Bundle
from leafshim.checkpoint import Checkpoint
from leafshim.container import Container
from leafshim.crashes import crash
from leafshim.errors import KernelError
from leafshim.keeper import Keeper
from leafshim.kernel import fdpass, pidfd
from leafshim.kernel.memory import own_heap
from leafshim.loop import Loop
from leafshim.rehearsal import rehearse
from leafshim.service import Service
from leafshim.sleeper import Sleeper
from leafshim.ttrpc.server import Server
from leafshim.ttrpc.service import MethodTable

SIGNALS = frozenset({signal_numbers.SIGCHLD, signal_numbers.SIGTERM, signal_numbers.SIGINT, signal_numbers.SIGHUP})
"""What a shim's signalfd takes: children, and what it drops."""


class Shim:
    """A shim that has no container yet, nor any descriptor."""

    def __init__(self) -> None:
        self.loop = Loop(self._note_defect)
        self.keeper = Keeper(self.loop)
        self.container = Container(self.loop, self.keeper)
        self.methods = MethodTable(Service(self.loop, self.container).handlers())
        self._boot_id = pidfd.boot_id()
        self._taken_in = 0
        self._assignment = b"", -1
        """The container's id and directory and its listener, until the sleeper has them."""

    def live(self, nursery: int, orders: int, arrivals: int) -> None:
        """Wait for a container, and serve it until Shutdown.

        All three are descriptors; `arrivals` is a signalfd of `SIGNALS`. The one packet that comes on `orders` is the
        container's id, NUL and its directory, with the listening socket attached, and a connection on which its maker
        calls; an end of file instead ends the shim. For a container whose shim died, the names of what the nursery kept
        follow, each after a NUL, and those descriptors. Before it there may be trials of that (succession.py).
        """
        os.setsid()
        _set_name(b"leafd-shim")
        rest = Sleeper(arrivals)
        crashes = 0
        going_on = True
        while going_on:
            if rest.identity and crashes in (0, sleeper.CRASHES):
                rest.sleep()
                crashes = 0
            line, workers_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            worker = os.fork()
            if worker == 0:
                line.close()
                self._work(rest, nursery, orders, workers_end)
            workers_end.close()
            line.setblocking(False)
            going_on = rest.supervise(worker, line) and rest.identity != b""
            line.close()
            crashes = crashes + 1 if rest.crashed else 0

    def _work(self, rest: Sleeper, nursery: int, orders: int, line: socket.socket) -> NoReturn:
        """A worker's life."""
        status = 1
        try:
            _set_name(b"leafd-worker")
            shim = os.getppid()
            identity = shim, pidfd.start_time(shim)
            caller, taken_over = -1, dict[str, int]()
            if not rest.identity:
                caller, taken_over = self._await_order(rest, socket.socket(fileno=orders))
                self._assignment = rest.identity, rest.listener
            container_id, _, directory = rest.identity.decode().partition("\0")
            self.container.begin(container_id, Bundle(directory), rest.listener, identity, self._boot_id)
            self.keeper.connect(socket.socket(fileno=nursery))
            server = Server(self.loop, socket.socket(fileno=rest.listener), self.methods, authorized, self._note_defect)
            if caller >= 0:
                server.serve(socket.socket(fileno=caller))
            line.setblocking(False)
            self.loop.add(line.fileno(), loops.READ, lambda _mask: self._hear(line))
            self.container.pack = lambda: snapshot.content_of(self.container)
            if rest.snapshot:
                named = dict(zip(snapshot.names(rest.snapshot), rest.descriptors, strict=True))
                snapshot.restore(self.container, self.loop, rest.snapshot, named, rest.rung)
            self.container.on_change = lambda: self._hand_over(line, sleeper.GOING_ON)
            if taken_over:
                noted = Checkpoint.read(self.container.bundle.checkpoint)
                snapshot.restore(self.container, self.loop, noted.snapshot, taken_over)
                self.container.adopt()
            for pid, wait_status in rest.reaped:
                self._reaped(pid, wait_status)
            if not rest.snapshot:
                self.container.foresee()
            # What woke us is taken up in the first round, which does not wait; only then may we rest.
            self.loop.call_later(0, lambda: self._rest_when_idle(server))
            self.loop.run()
            last = sleeper.LEAVING if self.container.leaving else sleeper.RESTING
            self._hand_over(line, sleeper.DONE if self.container.finished else last)
            status = 0
        except Exception as error:
            self._note_defect(error)
        finally:
            os._exit(status)

    def _await_order(self, rest: Sleeper, orders: socket.socket) -> tuple[int, dict[str, int]]:
        """Learn whose shim we are: the connection of who gave the order, -1 if none came with it, and what we take over
        from a shim that died."""
        if not _readable(orders):  # else there is no time to lose
            rehearse()
            own_heap()
        order, descriptors = fdpass.receive(orders, sleeper.PACKET_MAX)
        while order.startswith(succession.TRIAL):
            fdpass.send(orders, succession.try_out(self.container, self.loop, order, descriptors), [])
            order, descriptors = fdpass.receive(orders, sleeper.PACKET_MAX)
        if not order:
            os._exit(0)
        crash("order-received")
        orders.close()
        container_id, directory, *names = order.split(b"\0")
        rest.identity = container_id + b"\0" + directory
        rest.listener, caller, *inherited = (*descriptors, -1)[: max(2, len(descriptors))]
        return caller, dict(zip(map(os.fsdecode, names), inherited, strict=True))

    def _rest_when_idle(self, server: Server) -> None:
        """Before each wait from now on: is there anything to wait for that the sleeper cannot wait for as well?"""

        def rest() -> None:
            if not server.links and self.container.at_rest:
                self.loop.stop()

        self.loop.before_wait = rest

    def _hear(self, line: socket.socket) -> None:
        """What the sleeper reaped. Without a sleeper the container has lost its shim, and we are nobody."""
        try:
            packet = line.recv(64)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            os._exit(1)
        pid, wait_status = packet.split()
        self._reaped(int(pid), int(wait_status))

    def _reaped(self, pid: int, wait_status: int) -> None:
        self.container.reaped(pid, wait_status)
        self._taken_in += 1

    def _hand_over(self, line: socket.socket, verdict: int) -> None:
        """Give the sleeper what is known now."""
        content, descriptors, masks = snapshot.NOTHING
        if self.container.init is not None and not self.container.finished:
            content, descriptors, masks = snapshot.take(self.container)
        header = sleeper.HEADER.pack(self._taken_in, self.container.deadline, verdict, len(masks))
        (identity, listener), self._assignment = self._assignment, (b"", -1)
        line.setblocking(True)
        try:
            if identity:
                fdpass.send(line, sleeper.HEADER.pack(0, 0, sleeper.ASSIGNED, 0) + identity, [listener])
            fdpass.send(line, header + masks + content, descriptors)
        except KernelError:
            os._exit(1)  # without a sleeper, as in `_hear`
        line.setblocking(False)
        self._taken_in = 0

    def _note_defect(self, error: BaseException) -> None:
        """A bug of ours must not end the shim, and must not vanish either."""
        if not self.container.bundle.path:  # nobody's shim yet: the nursery's log will do
            sys.excepthook(type(error), error, error.__traceback__)
            return
        import traceback  # only here: it costs more than the shim's other imports together

        try:
            with open(os.path.join(self.container.bundle.path, "defects"), "a", encoding="utf-8") as file:
                file.write("".join(traceback.format_exception(error)))
        except OSError:  # a full disk must not end us on top of it
            sys.excepthook(type(error), error, error.__traceback__)


def _readable(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def authorized(pid: int, uid: int, gid: int) -> bool:
    """Root, and whoever the shim runs as, may control it (SO_PEERCRED, unix(7))."""
    return uid in (0, os.geteuid())


def _set_name(name: bytes) -> None:
    """The name in /proc/PID/comm. (prctl through ctypes would write a hundred pages of the sleeper's.)"""
    fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, name)
    os.close(fd)
