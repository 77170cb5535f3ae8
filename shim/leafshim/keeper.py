"""The shim's line to the nursery, which keeps copies of the descriptors that a new shim would need.

Nothing here may fail the container: with the nursery gone, the shim goes on alone and nothing is kept.
"""

import socket
from collections.abc import Callable, Iterable

from leafshim import loop as loops
from leafshim.api import nursery
from leafshim.errors import Code, LeafError
from leafshim.kernel import fdpass
from leafshim.loop import Loop


class Keeper:
    """Owns the shim's end of the socket; None where the shim was started without a nursery."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._connection: socket.socket | None = None
        self._wanted: dict[int, Callable[[int | None], None]] = {}
        """pid → who wants to know how it ended."""

    def connect(self, connection: socket.socket | None) -> None:
        """Use this line, which is ours from now on; None: there is no nursery."""
        self._connection = connection
        if connection is not None:
            connection.setblocking(False)
            self._loop.add(connection.fileno(), loops.READ, lambda _mask: self._reply())

    def keep(self, container_id: str, descriptors: dict[str, int]) -> None:
        """Have copies of these kept under their names, until they are forgotten."""
        self._ask(nursery.Request(keep=nursery.Keep(id=container_id, names=list(descriptors))), descriptors.values())

    def forget(self, container_id: str, names: list[str]) -> None:
        """Have the copies of these closed."""
        self._ask(nursery.Request(forget=nursery.Forget(id=container_id, names=names)), ())

    def find_end(self, pid: int, start_time: int, found: Callable[[int | None], None]) -> None:
        """Ask how a process ended that the nursery may have reaped: `found(wait_status)`, None if it does not know."""
        self._wanted[pid] = found
        self._ask(nursery.Request(ended=nursery.Ended(pid=pid, start_time=start_time)), ())
        if self._connection is None:
            self._loop.call_later(0, self._give_up)

    def _ask(self, request: nursery.Request, descriptors: Iterable[int]) -> None:
        if self._connection is not None:
            try:
                fdpass.send(self._connection, request.encode(), list(descriptors))
            except LeafError:  # the nursery is gone or does not read: no reason to hold up the container
                self.close()

    def _reply(self) -> None:
        """Every request is answered. The line may still hold answers to a worker before us: only what names a process
        that we asked for is ours."""
        assert self._connection is not None
        try:
            packet = self._connection.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self.close()
            return
        reply = nursery.Packet.decode(packet).reply
        if reply is not None and reply.pid in self._wanted:
            self._wanted.pop(reply.pid)(reply.wait_status if reply.code == Code.OK else None)

    def _give_up(self) -> None:
        wanted, self._wanted = self._wanted, {}
        for found in wanted.values():
            found(None)

    def close(self) -> None:
        """Let go of the line; descriptors that are kept stay kept."""
        if self._connection is not None:
            self._loop.remove(self._connection.fileno())
            self._connection.close()
            self._connection = None
            self._loop.call_later(0, self._give_up)
