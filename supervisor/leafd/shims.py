"""The client of one shim: containerd's Task and leafd's Shim service over one connection, each call with a deadline.

Rules:
1. Calls raise the error tree: what the shim reports as its class, a broken connection as Unavailable, silence as
   DeadlineExceeded. None of them says that the shim is dead; `is_gone` does.
2. A connection is made once. When it ends the object is of no more use than to be closed.
"""

import os
from collections.abc import AsyncIterator, Sequence

from leafd.config import Config
from leafd.unattended import open_proven
from leafshim.api import shim, task
from leafshim.api.wellknown import Any
from leafshim.errors import LeafError, NotFound, Unavailable
from leafshim.kernel import fdpass, pidfd
from leafshim.ttrpc.aio import AsyncClient

SIGKILL = 9
_CONNECT_TIMEOUT = 0.01
"""s. Blocks everybody, but only for a stopped shim that 128 clients wait for; otherwise connecting takes no time."""


class ShimClient:
    """Of one container. `connect` makes it; the owner closes it."""

    def __init__(self, container_id: str, client: AsyncClient, config: Config) -> None:
        self.id = container_id
        self._client = client
        self._deadline = config.call_deadline
        self._config = config

    @classmethod
    async def connect(cls, container_id: str, path: str, config: Config) -> "ShimClient":
        """Connect to the socket `path`. Raises Unavailable when nobody listens, DeadlineExceeded when too many wait for
        a shim that does not accept."""
        connection = fdpass.connect(path, timeout=_CONNECT_TIMEOUT)
        return cls(container_id, await AsyncClient.connect(connection), config)

    def close(self) -> None:
        """Close the connection; what is under way ends with Unavailable."""
        self._client.close()

    async def info(self, deadline: float | None = None) -> shim.InfoResponse:
        """All that the shim knows."""
        return await self._client.call(shim.INFO, shim.InfoRequest(), timeout=deadline or self._deadline)

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
        response = await self._client.call(task.V3.create, request, timeout=self._config.launch_deadline)
        return response.pid

    async def start(self) -> None:
        """Let init go."""
        await self._client.call(task.V3.start, task.StartRequest(id=self.id), timeout=self._deadline)

    async def kill(self, signal: int, *, all_processes: bool = False) -> None:
        """Send a signal to init, or to every process. Raises NotFound when there is none."""
        request = task.KillRequest(id=self.id, signal=signal, all=all_processes)
        await self._client.call(task.V3.kill, request, timeout=self._deadline)

    async def pause(self) -> None:
        """Freeze it."""
        await self._client.call(task.V3.pause, task.PauseRequest(id=self.id), timeout=self._deadline)

    async def resume(self) -> None:
        """Thaw it."""
        await self._client.call(task.V3.resume, task.ResumeRequest(id=self.id), timeout=self._deadline)

    async def delete(self) -> None:
        """Have what is left of an ended container, its cgroups too, removed; gone already is as good."""
        try:
            request = task.DeleteRequest(id=self.id)
            await self._client.call(task.V3.delete, request, timeout=self._config.delete_deadline)
        except NotFound:
            return

    async def shutdown(self) -> None:
        """Have the shim end itself. It may be gone before it has answered."""
        try:
            await self._client.call(task.V3.shutdown, task.ShutdownRequest(id=self.id), timeout=self._deadline)
        except Unavailable:
            return

    async def acknowledge(self, sequence: int) -> None:
        """Events up to `sequence` are in the journal."""
        request = shim.AcknowledgeRequest(sequence=sequence)
        await self._client.call(shim.ACKNOWLEDGE, request, timeout=self._deadline)

    async def events(self, after: int) -> AsyncIterator[shim.Event]:
        """Events after number `after`, for ever. Raises Unavailable when the connection ends."""
        async with self._client.stream(shim.EVENTS, shim.EventsRequest(after=after)) as events:
            async for event in events:
                yield event
        raise Unavailable(f"{self.id}: the shim ended its events")


def is_gone(pid: int, start_time: int) -> bool:
    """Proof that the process `pid` that began at `start_time` (clock ticks after this very boot) is no more. There is
    none for pid 0, which is unknown."""
    if not pid:
        return False
    try:
        return pidfd.start_time(pid) != start_time or _is_zombie(pid)
    except LeafError:
        return True


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


def _is_zombie(pid: int) -> bool:
    """Dead, and not yet reaped by its parent: it holds nothing any more (proc_pid_stat(5), field 3)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True
