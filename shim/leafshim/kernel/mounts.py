"""Mounts: the old calls, the new mount API, and the option words of the OCI runtime spec.

Rules:
1. An option word has one meaning, that of the runtime spec's table ("Linux mount options"). A word that is not in it
   belongs to the file system and becomes its data, except where there is no file system to judge it: in a bind mount
   the kernel drops data without a word, so it is an error.
2. Targets are bytes or paths of the caller's choosing; who mounts below a root gives /proc/self/fd/N.
"""

import os
import struct
from typing import NamedTuple

from leafshim.errors import InputError, Unsupported
from leafshim.kernel import syscalls

MS_RDONLY = 1 << 0
MS_NOSUID = 1 << 1
MS_NODEV = 1 << 2
MS_NOEXEC = 1 << 3
MS_SYNCHRONOUS = 1 << 4
MS_REMOUNT = 1 << 5
MS_DIRSYNC = 1 << 7
MS_NOSYMFOLLOW = 1 << 8
MS_NOATIME = 1 << 10
MS_NODIRATIME = 1 << 11
MS_BIND = 1 << 12
MS_MOVE = 1 << 13
MS_REC = 1 << 14
MS_SILENT = 1 << 15
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

MNT_DETACH = 1 << 1
UMOUNT_NOFOLLOW = 1 << 3

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_ATIME = 0x70  # the field of the next three, of which relatime is 0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

_MOUNT_ATTR = struct.Struct("4Q")

# Word → (flags it sets, flags it clears).
FLAGS: dict[str, tuple[int, int]] = {
    "async": (0, MS_SYNCHRONOUS),
    "atime": (0, MS_NOATIME),
    "bind": (MS_BIND, 0),
    "defaults": (0, 0),
    "dev": (0, MS_NODEV),
    "diratime": (0, MS_NODIRATIME),
    "dirsync": (MS_DIRSYNC, 0),
    "exec": (0, MS_NOEXEC),
    "iversion": (MS_I_VERSION, 0),
    "lazytime": (MS_LAZYTIME, 0),
    "loud": (0, MS_SILENT),
    "noatime": (MS_NOATIME, 0),
    "nodev": (MS_NODEV, 0),
    "nodiratime": (MS_NODIRATIME, 0),
    "noexec": (MS_NOEXEC, 0),
    "noiversion": (0, MS_I_VERSION),
    "nolazytime": (0, MS_LAZYTIME),
    "norelatime": (0, MS_RELATIME),
    "nostrictatime": (0, MS_STRICTATIME),
    "nosuid": (MS_NOSUID, 0),
    "nosymfollow": (MS_NOSYMFOLLOW, 0),
    "rbind": (MS_BIND | MS_REC, 0),
    "relatime": (MS_RELATIME, 0),
    "remount": (MS_REMOUNT, 0),
    "ro": (MS_RDONLY, 0),
    "rw": (0, MS_RDONLY),
    "silent": (MS_SILENT, 0),
    "strictatime": (MS_STRICTATIME, 0),
    "suid": (0, MS_NOSUID),
    "symfollow": (0, MS_NOSYMFOLLOW),
    "sync": (MS_SYNCHRONOUS, 0),
}

PROPAGATION: dict[str, int] = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "rshared": MS_SHARED | MS_REC,
    "rslave": MS_SLAVE | MS_REC,
    "runbindable": MS_UNBINDABLE | MS_REC,
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "unbindable": MS_UNBINDABLE,
}

# Word → (attributes it sets, attributes it clears) in the mount and all below it, for mount_setattr(2). To set one of
# the times, or to unset it, the kernel wants the whole field cleared first.
RECURSIVE: dict[str, tuple[int, int]] = {
    "ratime": (0, MOUNT_ATTR_ATIME),
    "rdev": (0, MOUNT_ATTR_NODEV),
    "rdiratime": (0, MOUNT_ATTR_NODIRATIME),
    "rexec": (0, MOUNT_ATTR_NOEXEC),
    "rnoatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME),
    "rnodev": (MOUNT_ATTR_NODEV, 0),
    "rnodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "rnoexec": (MOUNT_ATTR_NOEXEC, 0),
    "rnorelatime": (0, MOUNT_ATTR_ATIME),
    "rnostrictatime": (0, MOUNT_ATTR_ATIME),
    "rnosuid": (MOUNT_ATTR_NOSUID, 0),
    "rnosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "rrelatime": (0, MOUNT_ATTR_ATIME),
    "rro": (MOUNT_ATTR_RDONLY, 0),
    "rrw": (0, MOUNT_ATTR_RDONLY),
    "rstrictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME),
    "rsuid": (0, MOUNT_ATTR_NOSUID),
    "rsymfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
}

_NOT_YET = ("idmap", "ridmap", "tmpcopyup")


class MountOptions(NamedTuple):
    """What a list of option words asks for.

    flags:        MS_* for mount(2)
    propagation:  for a mount call of its own, in the order they were given
    data:         the file system's own options, comma-separated
    set_attributes, clear_attributes: MOUNT_ATTR_* for a recursive mount_setattr(2), where either is not 0
    """

    flags: int = 0
    propagation: tuple[int, ...] = ()
    data: str = ""
    set_attributes: int = 0
    clear_attributes: int = 0


def parse_options(words: list[str]) -> MountOptions:
    """What the words of `mounts[].options` mean; a later word overrides an earlier one.

    Raises InputError (a file system's option for a bind mount), Unsupported (idmap, ridmap, tmpcopyup).
    """
    flags = set_attributes = clear_attributes = 0
    propagation: list[int] = []
    data: list[str] = []
    for word in words:
        if word in FLAGS:
            on, off = FLAGS[word]
            flags = flags & ~off | on
        elif word in PROPAGATION:
            propagation.append(PROPAGATION[word])
        elif word in RECURSIVE:
            on, off = RECURSIVE[word]
            set_attributes = set_attributes & ~off | on
            clear_attributes = clear_attributes & ~on | off
        elif word in _NOT_YET:
            raise Unsupported(f"mount option {word}: not supported yet")
        else:
            data.append(word)
    if data and flags & MS_BIND:
        raise InputError(f"mount option {data[0]}: means nothing for a bind mount")
    return MountOptions(flags, tuple(propagation), ",".join(data), set_attributes, clear_attributes)


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises KernelError with the target."""
    syscalls.mount(os.fsencode(source), os.fsencode(target), os.fsencode(fstype), flags, os.fsencode(data), path=target)


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2): MNT_DETACH, UMOUNT_NOFOLLOW. Raises KernelError."""
    syscalls.umount2(os.fsencode(target), flags, path=target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2); (".", ".") stacks the old root over the new, for umount2 to take away. Raises KernelError."""
    syscalls.pivot_root(os.fsencode(new_root), os.fsencode(put_old), path=new_root)


def open_tree(path: str, flags: int = 0, *, directory: int = AT_FDCWD) -> int:
    """A descriptor of the mount at `path`; with OPEN_TREE_CLONE of a detached copy, with AT_RECURSIVE too of all below.

    open_tree(2), Linux 5.2. Close-on-exec. Raises KernelError.
    """
    return syscalls.open_tree(directory, os.fsencode(path), flags | OPEN_TREE_CLOEXEC, path=path)


def move_mount(tree: int, target: str, *, directory: int = AT_FDCWD) -> None:
    """Attach the detached mount `tree` at `target`; "" is the descriptor `directory` itself. Raises KernelError."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if target else MOVE_MOUNT_T_EMPTY_PATH)
    syscalls.move_mount(tree, b"", directory, os.fsencode(target), flags, path=target)


def mount_setattr(
    path: str, *, set_: int = 0, clear: int = 0, propagation: int = 0, flags: int = 0, directory: int = AT_FDCWD
) -> None:
    """Change a mount's attributes, with AT_RECURSIVE of all below it too; all change or none (mount_setattr(2), Linux
    5.12). "" is the descriptor `directory` itself. Raises KernelError.
    """
    flags |= 0 if path else AT_EMPTY_PATH
    attributes = mount_attributes(set_, clear, propagation)
    syscalls.mount_setattr(directory, os.fsencode(path), flags, attributes, len(attributes), path=path)


def mount_attributes(set_: int = 0, clear: int = 0, propagation: int = 0) -> bytes:
    """mount_setattr(2)'s structure."""
    return _MOUNT_ATTR.pack(set_, clear, propagation, 0)


def new_filesystem(fstype: str, options: dict[str, str | None], attributes: int = 0) -> int:
    """A detached mount of a new instance of `fstype`: fsopen, fsconfig, fsmount (Linux 5.2). Raises KernelError.

    An option without a value is None. Unlike mount(2), a refused option is named in the error.
    """
    context = syscalls.fsopen(os.fsencode(fstype), FSOPEN_CLOEXEC, path=fstype)
    try:
        for key, value in options.items():
            command = FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING
            encoded = None if value is None else os.fsencode(value)
            syscalls.fsconfig(context, command, os.fsencode(key), encoded, 0, path=f"{fstype} {key}")
        syscalls.fsconfig(context, FSCONFIG_CMD_CREATE, None, None, 0, path=fstype)
        return syscalls.fsmount(context, FSMOUNT_CLOEXEC, attributes, path=fstype)
    finally:
        os.close(context)
