"""What a process says about itself before it becomes another program: prctl(2), ids, limits, names.

All of it is the calling process's own, and all of it raises KernelError.
"""

import ctypes
import os
import struct
from collections.abc import Sequence

from leafshim.kernel import syscalls

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

# Arguments of prctl(2), as data.
NOT_DUMPABLE = (_PR_SET_DUMPABLE, 0, 0, 0, 0)
"""As `set_dumpable`."""
KEEP_CAPABILITIES = (_PR_SET_KEEPCAPS, 1, 0, 0, 0)
"""Keep the permitted set when the last of our user ids stops being 0. execve forgets it."""
NO_NEW_PRIVILEGES = (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
"""From now on no execve grants anything. There is no way back."""

RLIM_INFINITY = 2**64 - 1
RLIMIT: dict[str, int] = {  # asm-generic/resource.h; the names are the runtime spec's
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}


def set_parent_death_signal(number: int) -> None:
    """Get this signal when the parent's thread that made us ends. Forgotten by a change of ids: set it after."""
    _prctl(_PR_SET_PDEATHSIG, number)


def set_dumpable(dumpable: bool) -> None:
    """Not dumpable: /proc/PID is root's, and nobody without CAP_SYS_PTRACE over us opens /proc/PID/exe or fd.

    execve makes it dumpable again.
    """
    _prctl(_PR_SET_DUMPABLE, dumpable)


def set_name(name: str) -> None:
    """The name in /proc/PID/comm; the kernel cuts it after 15 bytes."""
    text = ctypes.create_string_buffer(os.fsencode(name))
    syscalls.prctl(_PR_SET_NAME, ctypes.addressof(text), 0, 0, 0)


def set_child_subreaper(reap: bool) -> None:
    """Become the parent of descendants whose parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, reap)


def groups(gids: Sequence[int]) -> bytes:
    """setgroups(2)'s array: exactly these supplementary groups."""
    return struct.pack(f"{len(gids)}I", *gids)


def set_gid(gid: int) -> None:
    """Real, effective and saved group id."""
    syscalls.setresgid(gid, gid, gid)


def set_uid(uid: int) -> None:
    """Real, effective and saved user id. Capabilities go, see KEEP_CAPABILITIES."""
    syscalls.setresuid(uid, uid, uid)


def limit(soft: int, hard: int) -> bytes:
    """setrlimit(2)'s structure, in its units; RLIM_INFINITY for none."""
    return struct.pack("QQ", soft, hard)


def set_domain_name(name: str) -> None:
    """The NIS domain of our uts namespace."""
    encoded = os.fsencode(name)
    syscalls.setdomainname(encoded, len(encoded))


def _prctl(option: int, value: int) -> None:
    syscalls.prctl(option, value, 0, 0, 0)
