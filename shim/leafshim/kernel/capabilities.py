"""Capabilities (capabilities(7)): names, and the five sets. A set is an integer, bit N for capability N."""

import errno
import functools
import struct
from collections.abc import Iterator

from leafshim.errors import InputError, KernelError
from leafshim.kernel import syscalls

_VERSION_3 = 0x20080522
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4

# linux/capability.h: the index is the number.
NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)


def to_set(names: list[str]) -> int:
    """The set of these names ("CAP_KILL"). Raises InputError for an unknown one."""
    result = 0
    for name in names:
        if name not in NAMES:
            raise InputError(f"{name}: no such capability")
        result |= 1 << NAMES.index(name)
    return result


def structures(effective: int, permitted: int, inheritable: int) -> tuple[bytes, bytes]:
    """capset(2)'s two, for the calling thread's three sets."""
    sets = (effective, permitted, inheritable)
    low, high = ([bits >> shift & 0xFFFFFFFF for bits in sets] for shift in (0, 32))
    return struct.pack("Ii", _VERSION_3, 0), struct.pack("6I", *low, *high)


def limit_bounding(keep: int) -> None:
    """Drop from the bounding set, for good, what is not in `keep`; those unknown to NAMES too. Raises KernelError.

    Dropping what is not there succeeds, for whoever may drop at all; the first number that the kernel does not know is
    EINVAL.
    """
    number = 0
    while True:
        if not keep >> number & 1:
            try:
                syscalls.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
            except KernelError as error:
                if error.errno == errno.EINVAL:
                    return
                if syscalls.prctl(_PR_CAPBSET_READ, number, 0, 0, 0):
                    raise
        number += 1


def setting_ambient(ambient: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Exactly these in the ambient set, as arguments of prctl(2); each must be permitted and inheritable (EPERM)."""
    yield _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0
    for number in range(ambient.bit_length()):
        if ambient >> number & 1:
            yield _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0


def limiting_bounding(keep: int) -> Iterator[tuple[int, int, int, int, int]]:
    """`limit_bounding` as arguments of prctl(2), for the capabilities that this kernel has."""
    for number in range(_last() + 1):
        if not keep >> number & 1:
            yield _PR_CAPBSET_DROP, number, 0, 0, 0


@functools.cache
def _last() -> int:
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())
