"""Namespaces: the flag of each, and its two names.

The OCI runtime spec and /proc/PID/ns name them differently (`network` is `net`, `mount` is `mnt`). Everything here goes
by the spec's name; PROC_NAME translates (namespaces(7), runtime-spec config-linux.md).
"""

import os

from leafshim.errors import KernelError
from leafshim.kernel import syscalls

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# In the order in which they may be joined: the user namespace first, because it gives the rights to join the others.
FLAG: dict[str, int] = {
    "user": CLONE_NEWUSER,
    "pid": CLONE_NEWPID,
    "network": CLONE_NEWNET,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
    "mount": CLONE_NEWNS,
}
NAME: dict[int, str] = {flag: name for name, flag in FLAG.items()}
PROC_NAME: dict[str, str] = {**{name: name for name in FLAG}, "network": "net", "mount": "mnt"}


def unshare(flags: int) -> None:
    """Leave the shared namespaces of `flags` for new ones (unshare(2)). Raises KernelError.

    A new pid or time namespace takes the caller's later children, not the caller.
    """
    syscalls.unshare(flags)


def setns(fd: int, flags: int) -> None:
    """Join the namespace that `fd` is, which must be of the type `flags`; or, where `fd` is a pidfd, all of the types
    in `flags` of that process (setns(2), Linux 5.8). Raises KernelError.
    """
    syscalls.setns(fd, flags)


def namespace_id(path: str) -> tuple[int, int]:
    """What tells the namespace at `path` (/proc/PID/ns/net, or a bind mount of one) from all others: device and inode
    number (namespaces(7)). Raises KernelError.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise KernelError.of(error, "stat") from error
    return status.st_dev, status.st_ino
