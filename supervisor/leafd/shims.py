"""The client of one shim: containerd's Task and leafd's Shim service, each call with a deadline.

Rules:
1. Calls raise the error tree: what the shim reports as its class, a broken connection as Unavailable, silence as
   DeadlineExceeded. None of them says that the shim is dead; `is_gone` does.
2. A shim that is connected to is awake, and costs memory. So there is a connection only while a call is under way, or
   while it is held for several (`hold`, `rest`).
3. A shim's end is seen on its pidfd (`watch`), with and without a connection.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from leafd.config import Config
from leafd.unattended import open_proven
from leafshim.api import shim, task
from leafshim.api.wellknown import Any
from leafshim.errors import LeafError, NotFound, Unavailable
from leafshim.kernel import fdpass, pidfd
from leafshim.ttrpc.aio import AsyncClient
from leafshim.ttrpc.service import Method, RequestT, ResponseT

SIGKILL = 9
_CONNECT_TIMEOUT = 0.01
"""s. Blocks everybody, but only for a stopped shim that 128 clients wait for; otherwise connecting takes no time."""


class ShimClient:
    """Of one container, whose shim listens at the socket `path`. The owner closes it. `gone`: its end was seen."""

    def __init__(self, container_id: str, path: str, config: Config) -> None:
        self.id = container_id
        self.gone = False
        self._path = path
        self._deadline = config.call_deadline
        self._config = config
        self._client: AsyncClient | None = None
        self._users = 0
        self._held = False
        self._pidfd = -1

    async def hold(self) -> None:
        """Connect, and stay connected until `rest`; holding twice is as good. Raises Unavailable when nobody listens,
        DeadlineExceeded when too many wait for a shim that does not accept."""
        if not self._held:
            await self._connect()
            self._held = True

    async def use(self, connection: socket.socket) -> None:
        """Hold this connection to it, made by other means; it is ours from here on."""
        self._client = await AsyncClient.connect(connection)
        self._users, self._held = 1, True

    def rest(self) -> None:
        """Let the shim sleep, once no call is under way."""
        if self._held:
            self._held = False
            self._disconnect()

    def watch(self, pid: int, start_time: int, ended: Callable[[], None]) -> None:
        """Have `ended()` called, with `gone` set, when this very process is no more. Raises Unavailable if it is."""
        self._unwatch()
        self._pidfd = open_proven(pid, start_time)
        if self._pidfd < 0:
            raise Unavailable(f"{self.id}: its shim is gone")

        def readable() -> None:
            self.gone = True
            self._unwatch()
            ended()

        asyncio.get_running_loop().add_reader(self._pidfd, readable)

    def close(self) -> None:
        """Close the connection; what is under way ends with Unavailable. The shim is not watched any more."""
        self._unwatch()
        if self._client is not None:
            self._client.close()
            self._client = None
        self._users, self._held = 0, False

    async def _connect(self) -> AsyncClient:
        self._users += 1
        try:
            if self._client is None or self._client.closed:
                self._client = await AsyncClient.connect(fdpass.connect(self._path, timeout=_CONNECT_TIMEOUT))
        except BaseException:
            self._users -= 1
            raise
        return self._client

    def _disconnect(self) -> None:
        self._users = max(0, self._users - 1)
        if not self._users and self._client is not None:
            self._client.close()
            self._client = None

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncClient]:
        client = await self._connect()
        try:
            yield client
        finally:
            self._disconnect()

    async def _call(self, method: Method[RequestT, ResponseT], request: RequestT, timeout: float) -> ResponseT:
        async with self._session() as client:
            return await client.call(method, request, timeout=timeout)

    def _unwatch(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    async def info(self, deadline: float | None = None) -> shim.InfoResponse:
        """All that the shim knows."""
        return await self._call(shim.INFO, shim.InfoRequest(), deadline or self._deadline)

    async def create(
        self, bundle: str, rootfs: Sequence[task.Mount], *, terminal: bool, stdin: bool, options: shim.CreateOptions
    ) -> int:
        """Make the container, up to init waiting for Start; the pid of init."""
        request = task.CreateTaskRequest(
            id=self.id,
            bundle=bundle,
            rootfs=list(rootfs),
            terminal=terminal,
            stdin="attach:" if stdin else "",
            stdout="log:",
            stderr="" if terminal else "log:",
            options=Any.pack(options),
        )
        response = await self._call(task.V3.create, request, self._config.launch_deadline)
        return response.pid

    async def start(self) -> None:
        """Let init go."""
        await self._call(task.V3.start, task.StartRequest(id=self.id), self._deadline)

    async def kill(self, signal: int, *, all_processes: bool = False) -> None:
        """Send a signal to init, or to every process. Raises NotFound when there is none."""
        request = task.KillRequest(id=self.id, signal=signal, all=all_processes)
        await self._call(task.V3.kill, request, self._deadline)

    async def pause(self) -> None:
        """Freeze it."""
        await self._call(task.V3.pause, task.PauseRequest(id=self.id), self._deadline)

    async def resume(self) -> None:
        """Thaw it."""
        await self._call(task.V3.resume, task.ResumeRequest(id=self.id), self._deadline)

    async def delete(self) -> None:
        """Have what is left of an ended container, its cgroups too, removed; gone already is as good."""
        try:
            request = task.DeleteRequest(id=self.id)
            await self._call(task.V3.delete, request, self._config.delete_deadline)
        except NotFound:
            return

    async def shutdown(self) -> None:
        """Have the shim end itself. It may be gone before it has answered."""
        try:
            await self._call(task.V3.shutdown, task.ShutdownRequest(id=self.id), self._deadline)
        except Unavailable:
            return

    async def collect(self, after: int) -> list[shim.Event]:
        """Events after number `after`; up to there they are in the journal, and the shim may forget them."""
        return (await self._call(shim.COLLECT, shim.EventsRequest(after=after), self._deadline)).events

    async def step_down(self) -> list[str]:
        """Have the shim leave its container to another; the names of the descriptors that the other one needs. Raises
        StateError where it cannot now. It may be gone before it has answered: Unavailable."""
        return (await self._call(shim.STEP_DOWN, shim.StepDownRequest(), self._deadline)).names


def is_gone(pid: int, start_time: int) -> bool:
    """Proof that the process `pid` that began at `start_time` (clock ticks after this very boot) is no more. There is
    none for pid 0, which is unknown."""
    if not pid:
        return False
    try:
        # Dead and not yet reaped by its parent, it holds nothing any more.
        return pidfd.start_time(pid) != start_time or _state(pid) in "ZX"
    except LeafError:
        return True


def is_stopped(pid: int) -> bool:
    """It would not answer, and is not dead: somebody stopped it, or traces it."""
    return pid != 0 and _state(pid) in "Tt"


def kill_proven(pid: int, start_time: int) -> None:
    """SIGKILL the process `pid` if, and only if, it is still the one that began at `start_time`."""
    fd = open_proven(pid, start_time)
    if fd < 0:
        return
    try:
        pidfd.send_signal(fd, SIGKILL)
    except LeafError:
        return
    finally:
        os.close(fd)


def parent_of(pid: int) -> int:
    """The pid of its parent; 0 for what is not there."""
    return int(_stat(pid)[1])


def _state(pid: int) -> str:
    return _stat(pid)[0]


def _stat(pid: int) -> tuple[str, str]:
    """State and parent, proc_pid_stat(5), fields 3 and 4; of what is not there ("X", "0")."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, parent, *_ = file.read().rpartition(b")")[2].decode().split()
            return state, parent
    except OSError:
        return "X", "0"
