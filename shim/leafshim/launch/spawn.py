"""The parent's side of a launch: one clone, and then a state that moves when the child says something.

Rules:
1. The caller has one thread, and its descriptors 0, 1 and 2 are open.
2. `spawn` never waits. When `Child.channel` is readable, `advance` is called and tells what happened.
3. The caller owns `pid` (it reaps) and `pidfd` (it closes it); `close` ends the conversation only.
"""

import errno
import os
import signal
import socket
from typing import TypeAlias

from leafshim.cgroup.hierarchy import find_mount
from leafshim.errors import InputError, KernelError, LeafError, StateError
from leafshim.kernel import fdpass, pidfd
from leafshim.kernel.clone import clone3
from leafshim.kernel.namespaces import CLONE_NEWPID, setns
from leafshim.launch import handshake
from leafshim.launch.child import run, write_script
from leafshim.launch.namespaces import open_namespace
from leafshim.launch.operation import Setup
from leafshim.launch.plan import Plan

_LONGEST_MESSAGE = 1 << 16


class Ready:
    """Everything is in place, the program was found; the child becomes that when it is released.

    `console`: a terminal's master, the caller's to close.
    """

    __slots__ = ("console",)

    def __init__(self, console: int | None) -> None:
        self.console = console


class Executed:
    """The child has become the program."""

    __slots__ = ()


class Failed:
    """It will not run; the child exits by itself."""

    __slots__ = ("error",)

    def __init__(self, error: LeafError) -> None:
        self.error = error


Progress: TypeAlias = Ready | Executed | Failed


class Child:
    """A child on its way to its program. `channel`: a descriptor to wait on for readability."""

    __slots__ = ("_end", "_maps", "_ready", "_released", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, end: socket.socket, maps: tuple[str, str] | None) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._end = end
        self._maps = maps
        self._ready = self._released = False

    @property
    def channel(self) -> int:
        """The descriptor; -1 after close."""
        return self._end.fileno()

    def advance(self) -> Progress | None:
        """What the child said; None when it is nothing for the caller. Raises KernelError."""
        try:
            message, descriptors = self._receive()
        except KernelError as error:
            if error.errno == errno.EAGAIN:
                return None
            raise
        if not message:
            started = self._ready and self._released
            return Executed() if started else Failed(StateError("the process ended before it was started"))
        kind = message[:1]
        if kind == handshake.READY:
            self._ready = True
            return Ready(descriptors[0] if descriptors else None)
        if kind == handshake.MAPS_WANTED:
            return self._write_maps()
        return Failed(handshake.failure(message))

    def _receive(self) -> tuple[bytes, list[int]]:
        try:
            return fdpass.receive(self._end, _LONGEST_MESSAGE, 1)
        except KernelError as error:
            if error.errno != errno.ECONNRESET:
                raise
        # It ended with our release unread. That is told first, and once; what it said is still there (unix(7)).
        return fdpass.receive(self._end, _LONGEST_MESSAGE, 1)

    def release(self) -> None:
        """Let the child become its program, now or once it is Ready."""
        self._released = True
        self._say(handshake.RELEASE)

    def abort(self) -> None:
        """Kill it. That it died is seen on `pidfd`."""
        pidfd.send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """End the conversation; a child that still waits for its release exits."""
        self._end.close()

    def _write_maps(self) -> Failed | None:
        assert self._maps is not None
        for name, content in zip(("uid_map", "gid_map"), self._maps, strict=True):
            path = f"/proc/{self.pid}/{name}"
            try:
                with open(path, "wb", buffering=0) as file:
                    file.write(content.encode())
            except OSError as error:
                self.abort()
                return Failed(KernelError("write", error.errno or 0, path))
        self._say(handshake.MAPPED)
        return None

    def _say(self, message: bytes) -> None:
        try:
            self._end.send(message, socket.MSG_NOSIGNAL)
        except OSError:
            pass  # it is gone; why is what the channel says next


def spawn(plan: Plan, *, leaf: str, stdio: tuple[int, int, int] | None, flags: int = 0) -> Child:
    """Start a child on the plan, born in the cgroup `leaf` (an absolute path), with these standard streams.

    `stdio` is None for a plan with a terminal. `flags`: beside the plan's own, CLONE_PARENT for one.
    Raises InputError, KernelError.
    """
    if (stdio is None) != plan.terminal:
        raise InputError("standard streams: needed without a terminal, and not with one")
    ours, theirs = handshake.pair()
    try:
        pid, descriptor = _clone(plan, leaf, theirs, stdio, flags | plan.clone_flags)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    ours.setblocking(False)
    return Child(pid, descriptor, ours, plan.maps)


def _clone(
    plan: Plan, leaf: str, end: socket.socket, stdio: tuple[int, int, int] | None, flags: int
) -> tuple[int, int]:
    try:
        return _clone_into(plan, leaf, end, stdio, flags)
    except KernelError as error:
        # Where the workload gave controllers to cgroups of its own, its leaf takes no process any more
        # (cgroups(7), "no internal processes"). A further process goes where init is now.
        if error.errno != errno.EBUSY or plan.init_pidfd is None:
            raise
    return _clone_into(plan, _cgroup_of(plan.init_pidfd), end, stdio, flags)


def _clone_into(
    plan: Plan, cgroup: str, end: socket.socket, stdio: tuple[int, int, int] | None, flags: int
) -> tuple[int, int]:
    opened: list[int] = []

    def opening(path: str, flags: int = os.O_RDONLY) -> int:
        opened.append(os.open(path, flags | os.O_CLOEXEC))
        return opened[-1]

    own = None
    setup = Setup(handshake.Channel(end))
    script = write_script(plan, setup, stdio)
    try:
        directory = opening(cgroup, os.O_PATH | os.O_DIRECTORY)
        if plan.pid_namespace is not None:
            namespace = plan.pid_namespace
            if isinstance(namespace, str):
                opened.append(open_namespace(namespace, plan.parent_started))
                namespace = opened[-1]
            own = opening("/proc/self/ns/pid")
            # This is for our children; we ourselves stay where we are (pid_namespaces(7)).
            setns(namespace, CLONE_NEWPID)
        pid, child = clone3(flags, cgroup=directory, brief=True)
        if pid == 0:
            run(plan, setup, script)
        return pid, child
    except OSError as error:
        raise KernelError.of(error, "open") from error
    finally:
        if own is not None:
            setns(own, CLONE_NEWPID)
        for descriptor in opened:
            os.close(descriptor)


def _cgroup_of(init_pidfd: int) -> str:
    pid = pidfd.pid_of(init_pidfd)
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            # cgroups(7): "0::PATH" is the unified hierarchy's line, with the path from its mount on.
            path = next(line.rstrip("\n").partition("::")[2] for line in file if line.startswith("0::"))
    except OSError as error:
        raise KernelError.of(error, "read") from error
    return f"{find_mount()}{path}"
