"""Files by descriptor: paths that cannot leave a root, descriptors that do not leak, memory that cannot change.

A path below a container's root is the container's to race against us. Only the kernel resolves it safely: openat2 with
RESOLVE_IN_ROOT takes `..`, absolute symlinks and `/` to mean the root it was given, and no magic link of /proc leads
out (openat2(2), Linux 5.6). What has been opened is used by its descriptor, never by its path again.
"""

import ctypes
import errno
import fcntl
import os
import struct

from leafshim.errors import KernelError
from leafshim.kernel import syscalls

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS

CLOSE_RANGE_CLOEXEC = 1 << 2
LAST_DESCRIPTOR = 2**32 - 1

PROC_MAGIC = 0x9FA0  # statfs(2)
CGROUP2_MAGIC = 0x63677270
TMPFS_MAGIC = 0x01021994

_MFD_EXEC = 0x10
_OPEN_HOW = struct.Struct("QQQ")
ATTEMPTS = 1000


def open_how(flags: int, *, mode: int = 0, resolve: int = 0) -> bytes:
    """openat2(2)'s structure. Close-on-exec."""
    return _OPEN_HOW.pack(flags | os.O_CLOEXEC, mode, resolve)


def openat2(directory: int, path: str, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """Open `path` below the descriptor `directory`: a descriptor, close-on-exec. Raises KernelError.

    With RESOLVE_IN_ROOT or RESOLVE_BENEATH the kernel answers EAGAIN to a `..` that races with a rename anywhere on
    the host, and wants to be asked again. It gets many chances, not endless ones: the rename may be an attack.
    """
    how = open_how(flags, mode=mode, resolve=resolve)
    for _ in range(ATTEMPTS - 1):
        try:
            return syscalls.openat2(directory, os.fsencode(path), how, len(how), path=path)
        except KernelError as error:
            if error.errno != errno.EAGAIN:
                raise
    return syscalls.openat2(directory, os.fsencode(path), how, len(how), path=path)


def open_in_root(root: int, path: str, flags: int, *, mode: int = 0) -> int:
    """Open `path` with the directory descriptor `root` as `/`, through no magic link. Raises KernelError."""
    return openat2(root, path, flags, mode=mode, resolve=IN_ROOT)


def filesystem_magic(fd: int) -> int:
    """Which file system `fd` is on: PROC_MAGIC and so on (statfs(2)). Raises KernelError.

    A container can mount anything over /proc; a write that must reach the kernel is preceded by this question.
    """
    result = ctypes.create_string_buffer(256)  # struct statfs, 120 bytes, begins with a long f_type
    syscalls.fstatfs(fd, result)
    return ctypes.c_long.from_buffer(result).value


def close_range(first: int, last: int = LAST_DESCRIPTOR, flags: int = 0) -> None:
    """Close the descriptors `first` to `last`, or with CLOSE_RANGE_CLOEXEC mark them. Raises KernelError."""
    syscalls.close_range(first, last, flags)


def sealed_copy(path: str, name: str) -> int:
    """A descriptor of an executable copy of `path` in memory that nobody can write to, not even root.

    `name` is what /proc/PID/exe calls it. The descriptor is close-on-exec: `execve` of /proc/self/fd/N works for
    binaries, not for scripts (memfd_create(2)). Raises KernelError.
    """
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _seal(source, _memfd(name))
        finally:
            os.close(source)
    except OSError as error:
        raise KernelError.of(error, "sealed copy") from error


def _memfd(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_EXEC)  # must be said since 6.3 where vm.memfd_noexec is 1
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)


def _seal(source: int, memory: int) -> int:
    try:
        while os.sendfile(memory, source, None, 1 << 30):
            pass
        fcntl.fcntl(
            memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        )
    except OSError:
        os.close(memory)
        raise
    return memory
