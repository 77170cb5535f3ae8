"""Paths of the kernel's file systems that a container must not read, or not write."""

import errno
import functools
import os
import stat
from collections.abc import Iterator

from leafshim.errors import KernelError
from leafshim.kernel import mounts, syscalls
from leafshim.kernel.paths import open_in_root
from leafshim.launch.operation import Operation, Setup, by_descriptor, name_descriptor
from leafshim.launch.rootfs import moving, opening
from leafshim.launch.steps import Step, python, step

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)
_CLONE = mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC | mounts.AT_RECURSIVE | mounts.AT_EMPTY_PATH
_READONLY = mounts.mount_attributes(mounts.MOUNT_ATTR_RDONLY)


def _open_if_there(root: int, path: str) -> int | None:
    """None where the kernel was built without it: what is not there needs no protection."""
    try:
        return open_in_root(root, path, os.O_PATH)
    except KernelError as error:
        if error.errno not in _NOT_THERE:
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

    def steps(self, setup: Setup) -> Iterator[Step]:
        yield opening(setup, self.path, over=_NOT_THERE)
        yield python(name_descriptor, setup.name, setup.target)
        # A guess: the kernel mounts no directory on a file, nor a file on a directory (ENOTDIR).
        if _is_directory(self.path):
            yield step(syscalls.mount, b"tmpfs", setup.name, b"tmpfs", mounts.MS_RDONLY, b"")
        else:
            yield python(setup.null, into=setup.null_slot)
            yield python(name_descriptor, setup.null_name, setup.null_slot)
            yield step(syscalls.mount, setup.null_name, setup.name, b"", mounts.MS_BIND, b"")

    def otherwise(self, setup: Setup, call: str, number: int) -> None:
        self.execute(setup)


class MakeReadonly(Operation):
    """Bind a path onto itself, read-only with all below it. It is read-only before it is there."""

    __slots__ = ()

    def __init__(self, path: str) -> None:
        super().__init__("make read-only", path)

    def steps(self, setup: Setup) -> Iterator[Step]:
        yield opening(setup, self.path, over=_NOT_THERE)
        yield step(syscalls.open_tree, setup.target, b"", _CLONE, into=setup.tree)
        flags = mounts.AT_RECURSIVE | mounts.AT_EMPTY_PATH
        yield step(syscalls.mount_setattr, setup.tree, b"", flags, _READONLY, len(_READONLY))
        yield moving(setup.tree, setup.target)


@functools.cache
def _is_directory(path: str) -> bool:
    return os.path.isdir(path)
