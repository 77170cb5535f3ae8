"""The launcher: a fork of the shim that reads, plans and clones, and is gone before the container runs.

    shim ──fork──▶ launcher ──clone3, CLONE_PARENT──▶ child of the shim ──execve──▶ the program

A shim lives as long as its container, and every page that it writes is its own from then on. Reading a description and
planning a launch writes many (in Python every use of an object counts references), so that is done in a process that
ends with it. CLONE_PARENT makes what it clones the shim's own child.

Rules:
1. The launcher says one thing on its line: born, with the pidfd, or failed, with the error. It undoes what it did
   before it failed. End of file without either means that it was killed.
2. What the child says comes on a channel of its own, which is read once it was born.
"""

import os
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from leafshim.errors import InternalError, KernelError, LeafError, StateError
from leafshim.kernel import fdpass, pidfd
from leafshim.kernel.clone import CLONE_PARENT, clone3
from leafshim.launch import handshake
from leafshim.launch.plan import Plan
from leafshim.launch.spawn import Child, Failed, clone

_LONGEST_MESSAGE = 1 << 20
_BORN = struct.Struct("=iQ?")  # pid, start time, whether it waits for a release


class Order(NamedTuple):
    """What to launch. `leaf`: the absolute path of the cgroup. `args`: the program's, for people."""

    plan: Plan
    leaf: str
    args: tuple[str, ...]


class Born(NamedTuple):
    """The child exists. `start_time` as in kernel/pidfd.py, 0 when it has ended already."""

    child: Child
    start_time: int
    leaf: str
    args: tuple[str, ...]


class Launcher:
    """A launch until its child is born. `line`: a descriptor to wait on for readability."""

    __slots__ = ("_channel", "_line", "_pidfd")

    def __init__(self, prepare: Callable[[], Order], stdio: tuple[int, int, int] | None) -> None:
        """Fork. `prepare()` is called there, and what it raises arrives as Failed. Raises KernelError."""
        self._line, line = handshake.pair()
        self._channel, channel = handshake.pair()
        try:
            pid, self._pidfd = clone3(0)
            if pid == 0:
                _launch(prepare, line, channel, stdio)
        finally:
            line.close()
            channel.close()
        self._line.setblocking(False)
        self._channel.setblocking(False)

    @property
    def line(self) -> int:
        """The descriptor; -1 after close."""
        return self._line.fileno()

    def advance(self) -> Born | Failed:
        """What became of it, once the line is readable. The caller owns the child from here on."""
        try:
            message, descriptors = fdpass.receive(self._line, _LONGEST_MESSAGE, 1)
        except LeafError as error:
            return Failed(error)
        if not message:
            return Failed(StateError("the launch was killed"))
        if message[:1] == handshake.FAILED:
            return Failed(handshake.failure(message))
        pid, start_time, waits = _BORN.unpack_from(message, 1)
        leaf, uid_map, gid_map, *args = message[1 + _BORN.size :].decode(errors="surrogateescape").split("\0")
        maps = (uid_map, gid_map) if uid_map else None
        return Born(Child(pid, descriptors[0], self._channel, maps=maps, waits=waits), start_time, leaf, tuple(args))

    def abort(self) -> None:
        """Kill it. A child that it has made ends by itself, for nobody will release it."""
        pidfd.send_signal(self._pidfd, 9)
        self._channel.close()

    def close(self) -> None:
        """Close the line. The channel is the child's now."""
        self._line.close()
        os.close(self._pidfd)


def _launch(
    prepare: Callable[[], Order], line: socket.socket, channel: socket.socket, stdio: tuple[int, int, int] | None
) -> NoReturn:
    try:
        order = prepare()
        pid, descriptor = clone(order.plan, order.leaf, channel, stdio, flags=CLONE_PARENT)
        fdpass.send(line, _born(order, pid), [descriptor])
    except LeafError as error:
        fdpass.send(line, handshake.failed(error), [])
    except BaseException as error:
        fdpass.send(line, handshake.failed(InternalError(f"{type(error).__name__}: {error}")), [])
    finally:
        os._exit(0)


def _born(order: Order, pid: int) -> bytes:
    try:
        start_time = pidfd.start_time(pid)
    except KernelError:
        start_time = 0
    texts = (order.leaf, *(order.plan.maps or ("", "")), *order.args)
    head = handshake.BORN + _BORN.pack(pid, start_time, order.plan.waits)
    return (head + "\0".join(texts).encode(errors="surrogateescape"))[:_LONGEST_MESSAGE]
