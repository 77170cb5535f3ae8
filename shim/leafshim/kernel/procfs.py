"""Writes that must reach the kernel, whatever is mounted over /proc or below it (CVE-2019-19921, CVE-2025-52881)."""

import os

from leafshim.errors import KernelError, Unsupported
from leafshim.kernel.paths import PROC_MAGIC, RESOLVE_BENEATH, RESOLVE_NO_XDEV, filesystem_magic, openat2


def write(path: str, value: str) -> None:
    """Write `value` to the file at `path`, relative to /proc, proven to be procfs's own.

    Raises KernelError (EXDEV: something is mounted over it); Unsupported where /proc is not a proc file system.
    """
    file = -1
    root = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if filesystem_magic(root) != PROC_MAGIC:
            raise Unsupported("/proc: is not a proc file system")
        file = openat2(root, path, os.O_WRONLY, resolve=RESOLVE_BENEATH | RESOLVE_NO_XDEV)
        os.write(file, value.encode())
    except OSError as error:
        raise KernelError("write", error.errno or 0, f"/proc/{path}") from error
    finally:
        os.close(root)
        if file >= 0:
            os.close(file)
