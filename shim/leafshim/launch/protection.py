"""Paths of the kernel's file systems that a container must not read, or not write."""

import errno
import os
import stat

from leafshim.errors import KernelError
from leafshim.kernel import mounts
from leafshim.kernel.paths import open_in_root
from leafshim.launch.operation import Operation, Setup, by_descriptor


def _open_if_there(root: int, path: str) -> int | None:
    """None where the kernel was built without it: what is not there needs no protection."""
    try:
        return open_in_root(root, path, os.O_PATH)
    except KernelError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        return None


class Mask(Operation):
    """Hide a file behind /dev/null, a directory behind an empty file system."""

    __slots__ = ()

    def __init__(self, path: str) -> None:
        super().__init__("mask", path)

    def execute(self, setup: Setup) -> None:
        target = _open_if_there(setup.root, self.path)
        if target is None:
            return
        if stat.S_ISDIR(os.fstat(target).st_mode):
            mounts.mount("tmpfs", by_descriptor(target), "tmpfs", mounts.MS_RDONLY)
        else:
            mounts.mount(by_descriptor(setup.null()), by_descriptor(target), flags=mounts.MS_BIND)


class MakeReadonly(Operation):
    """Bind a path onto itself, read-only with all below it. It is read-only before it is there."""

    __slots__ = ()

    def __init__(self, path: str) -> None:
        super().__init__("make read-only", path)

    def execute(self, setup: Setup) -> None:
        target = _open_if_there(setup.root, self.path)
        if target is None:
            return
        flags = mounts.OPEN_TREE_CLONE | mounts.AT_RECURSIVE | mounts.AT_EMPTY_PATH
        tree = mounts.open_tree("", flags, directory=target)
        mounts.mount_setattr("", set_=mounts.MOUNT_ATTR_RDONLY, flags=mounts.AT_RECURSIVE, directory=tree)
        mounts.move_mount(tree, "", directory=target)
