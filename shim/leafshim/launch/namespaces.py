"""Namespaces that clone3 cannot give, and what belongs to a new one: its maps, names, sysctls and loopback device."""

import fcntl
import os
import socket
import struct
from collections.abc import Iterator

from leafshim.errors import InputError
from leafshim.kernel import mounts, pidfd, process, procfs, syscalls
from leafshim.kernel.namespaces import CLONE_NEWCGROUP, FLAG, NAME, setns
from leafshim.launch.handshake import MAPPED, MAPS_WANTED
from leafshim.launch.operation import Operation, Setup
from leafshim.launch.steps import Step, step

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_IFREQ = struct.Struct("16sh22x")


class OpenNamespace(Operation):
    """One to join, at a path of the host: all are opened before the first is joined, while the host's paths are there.

    `started`: as for `open_namespace`.
    """

    __slots__ = ("_kind", "_started")

    def __init__(self, kind: str, path: str, started: int) -> None:
        super().__init__(f"open {kind} namespace", path)
        self._kind = kind
        self._started = started

    def execute(self, setup: Setup) -> None:
        setup.namespaces[self._kind] = open_namespace(self.path, self._started)


class Join(Operation):
    """What OpenNamespace opened. With a mount namespace comes its root."""

    __slots__ = ("_kind",)

    def __init__(self, kind: str, path: str) -> None:
        super().__init__(f"join {kind} namespace", path)
        self._kind = kind

    def execute(self, setup: Setup) -> None:
        namespace = setup.namespaces[self._kind]
        if self._kind == "mount":
            _refuse_our_own(namespace, self.path)
        setns(namespace, FLAG[self._kind])
        if self._kind == "mount":
            setup.root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def open_namespace(path: str, started: int) -> int:
    """A descriptor of the namespace at `path`. `started`, in clock ticks after boot, is when the process of a
    `/proc/PID/ns` path has to have begun, so that no later one with that number is taken for it; 0: not asked.

    Raises OSError, KernelError (ESRCH: it is another process).
    """
    _, proc, number, *rest = path.split("/")
    if not started or proc != "proc" or not number.isdecimal():
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    process = pidfd.open_process(int(number), started)
    try:
        return os.open("/".join(rest), os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    finally:
        os.close(process)


def _refuse_our_own(namespace: int, path: str) -> None:
    """The shim's mounts are the host's, and the container would have them all."""
    ours, theirs = os.stat("/proc/self/ns/mnt"), os.fstat(namespace)
    if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino):
        raise InputError(f"linux.namespaces: {path} is the host's mount namespace")


class JoinContainer(Operation):
    """All namespaces of a container's init but the pid namespace, which its parent gave us; and so its root."""

    __slots__ = ("_flags", "_pidfd")

    def __init__(self, pidfd: int, flags: int) -> None:
        super().__init__("join container")
        self._pidfd = pidfd
        self._flags = flags

    def detail(self) -> str:
        return ", ".join(name for flag, name in NAME.items() if flag & self._flags)

    def steps(self, setup: Setup) -> Iterator[Step]:
        yield step(syscalls.setns, self._pidfd, self._flags)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        yield step(syscalls.openat, mounts.AT_FDCWD, b"/", flags, 0, into=setup.root_slot)


class NewCgroupNamespace(Operation):
    """By the child itself: clone3 would make the parent's cgroup the namespace's root, not the one it moves us to."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("unshare cgroup namespace")

    def steps(self, setup: Setup) -> Iterator[Step]:
        yield step(syscalls.unshare, CLONE_NEWCGROUP)


class WaitForMaps(Operation):
    """The parent writes uid_map and gid_map: more than one line takes rights outside (user_namespaces(7))."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("wait for id maps")

    def execute(self, setup: Setup) -> None:
        setup.channel.send(MAPS_WANTED)
        setup.channel.wait(MAPPED)


class BecomeRoot(Operation):
    """Id 0 of the user namespace. Until here we are an id that it does not map, which can open the host's paths as
    before but own no file of the container's (EOVERFLOW).
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("become root of the user namespace")

    def execute(self, setup: Setup) -> None:
        process.set_gid(0)
        process.set_uid(0)
        process.set_dumpable(False)


class SetHostName(Operation):
    """The name of the new UTS namespace."""

    __slots__ = ()

    def __init__(self, name: str) -> None:
        super().__init__("set host name", name)

    def steps(self, setup: Setup) -> Iterator[Step]:
        encoded = os.fsencode(self.path)
        yield step(syscalls.sethostname, encoded, len(encoded))


class SetDomainName(Operation):
    """The NIS domain of the new UTS namespace."""

    __slots__ = ()

    def __init__(self, name: str) -> None:
        super().__init__("set domain name", name)

    def execute(self, setup: Setup) -> None:
        process.set_domain_name(self.path)


class SetSysctl(Operation):
    """A kernel parameter of a new namespace, through the host's /proc: it shows the namespaces of who opens it."""

    __slots__ = ("_value",)

    def __init__(self, name: str, value: str) -> None:
        super().__init__("set sysctl", name)
        self._value = value

    def detail(self) -> str:
        return f"to {self._value}"

    def execute(self, setup: Setup) -> None:
        procfs.write(f"sys/{self.path}", self._value)


class StartLoopback(Operation):
    """A new network namespace has one device, and that is down."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("start device", "lo")

    def execute(self, setup: Setup) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", _IFF_UP))
