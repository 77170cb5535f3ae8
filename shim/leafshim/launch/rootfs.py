"""The container's root file system: bring it, open it, make it the root.

It is assembled in the child's own mount namespace, on a directory of the bundle. That namespace first becomes a slave
of the host's: what is mounted in it stays in it.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from typing import TypeAlias

from leafshim.errors import KernelError
from leafshim.kernel import mounts, syscalls
from leafshim.kernel.paths import IN_ROOT, open_how, open_in_root
from leafshim.launch.operation import Operation, Setup, by_descriptor, name_descriptor
from leafshim.launch.steps import Slot, Step, python, step

StepValue: TypeAlias = "bytes | ctypes.Array[ctypes.c_char]"

_DIRECTORY = os.O_PATH | os.O_DIRECTORY


def open_directory(root: int, path: str) -> int:
    """The directory `path` below `root`, made with its parents where there is none: an O_PATH descriptor.

    Raises KernelError, OSError; ENOENT for a symlink that leads nowhere, which mkdir(2) does not follow.
    """
    try:
        return open_in_root(root, path, os.O_PATH | os.O_DIRECTORY)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
    parent, name = os.path.split(path.rstrip("/"))
    try:
        os.mkdir(name, 0o755, dir_fd=open_directory(root, parent))
    except FileExistsError:
        pass
    return open_in_root(root, path, os.O_PATH | os.O_DIRECTORY)


def open_file(root: int, path: str) -> int:
    """Whatever is at `path` below `root`, or a new empty file: an O_PATH descriptor. Raises KernelError, OSError."""
    try:
        return open_in_root(root, path, os.O_PATH)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
    parent, name = os.path.split(path)
    flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY
    os.close(os.open(name, flags, 0o644, dir_fd=open_directory(root, parent)))
    return open_in_root(root, path, os.O_PATH)


def opening(
    setup: Setup, path: str, flags: int = os.O_PATH, *, resolve: int = IN_ROOT, over: tuple[int, ...] = ()
) -> Step:
    """`open_in_root` as a step, into `setup.target`."""
    how = open_how(flags, resolve=resolve)
    return step(syscalls.openat2, setup.root_slot, os.fsencode(path), how, len(how), into=setup.target, over=over)


def opening_directory(setup: Setup, path: str) -> Iterator[Step]:
    """`open_directory` as steps, into `setup.target`. Where it surely is not there yet it is made first."""
    parent, name = os.path.split(path.rstrip("/"))
    if parent in setup.fresh:
        yield opening(setup, parent, _DIRECTORY)
        yield step(syscalls.mkdirat, setup.target, os.fsencode(name), 0o755)
    yield opening(setup, path, _DIRECTORY)


class LeaveHostMounts(Operation):
    """Mounts of the host still arrive; ours do not leave."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("make slave", "/")

    def steps(self, setup: Setup) -> Iterator[Step]:
        yield step(syscalls.mount, b"", b"/", b"", mounts.MS_REC | mounts.MS_SLAVE, b"")


class OpenRootDirectory(Operation):
    """The directory that the root file system will be mounted on; or that is the root file system, for UseDirectory."""

    __slots__ = ()

    def __init__(self, path: str) -> None:
        super().__init__("open", path)

    def steps(self, setup: Setup) -> Iterator[Step]:
        flags = _DIRECTORY | os.O_CLOEXEC
        yield step(syscalls.openat, mounts.AT_FDCWD, os.fsencode(self.path), flags, 0, into=setup.root_slot)


class MountOverHost(Operation):
    """An overlay over `lower` whose changes go to a tmpfs of at most `size` bytes, and die with the namespace.

    Mounts of the host below `lower` are not part of it: overlayfs shows one file system.
    """

    __slots__ = ("_lower", "_size")

    def __init__(self, lower: str, size: int | None, path: str) -> None:
        super().__init__("mount overlay", path)
        self._lower = lower
        self._size = size

    def detail(self) -> str:
        return f"over {self._lower}, changes on a tmpfs of {self._size or 'the default'} bytes"

    def steps(self, setup: Setup) -> Iterator[Step]:
        limit: dict[bytes, StepValue] = {} if self._size is None else {b"size": b"%d" % self._size}
        changes = Slot()
        yield from _new_filesystem(setup, b"tmpfs", {b"mode": b"0755", **limit}, changes)
        yield moving(changes, setup.root_slot)
        yield step(syscalls.mkdirat, changes, b"upper", 0o755)
        yield step(syscalls.mkdirat, changes, b"work", 0o755)
        upper, work = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
        yield python(name_descriptor, upper, changes, b"/upper")
        yield python(name_descriptor, work, changes, b"/work")
        layers: dict[bytes, StepValue] = {b"lowerdir": os.fsencode(self._lower), b"upperdir": upper, b"workdir": work}
        yield from _new_filesystem(setup, b"overlay", layers, setup.root_slot)
        yield moving(setup.root_slot, changes)


class MountRoot(Operation):
    """Any other file system as the root, with mount(2)'s arguments."""

    __slots__ = ("_fstype", "_options", "_source")

    def __init__(self, fstype: str, source: str, options: mounts.MountOptions, path: str) -> None:
        super().__init__("mount", path)
        self._fstype = fstype
        self._source = source
        self._options = options

    def detail(self) -> str:
        return f"{self._fstype} from {self._source} {self._options.data}".rstrip()

    def execute(self, setup: Setup) -> None:
        options = self._options
        mounts.mount(self._source, by_descriptor(setup.root), self._fstype, options.flags, options.data)
        # The descriptor is of the directory below; its path now leads to what was mounted.
        setup.root = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


class UseDirectory(Operation):
    """A directory of the host as the root: bound onto itself, because pivot_root(2) wants a mount."""

    __slots__ = ("_attributes",)

    def __init__(self, path: str, attributes: int = 0) -> None:
        super().__init__("bind root", path)
        self._attributes = attributes

    def execute(self, setup: Setup) -> None:
        flags = mounts.OPEN_TREE_CLONE | mounts.AT_RECURSIVE | mounts.AT_EMPTY_PATH
        tree = mounts.open_tree("", flags, directory=setup.root)
        if self._attributes:
            mounts.mount_setattr("", set_=self._attributes, directory=tree)
        mounts.move_mount(tree, "", directory=setup.root)
        setup.root = tree


class PivotRoot(Operation):
    """The container's root becomes "/", and the host's file systems are gone."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("pivot_root")

    def steps(self, setup: Setup) -> Iterator[Step]:
        yield step(syscalls.fchdir, setup.root_slot)
        yield step(syscalls.pivot_root, b".", b".")
        yield step(syscalls.umount2, b".", mounts.MNT_DETACH)
        yield step(syscalls.chdir, b"/")


class ChangeRootMount(Operation):
    """Attributes (MOUNT_ATTR_*) or propagation (MS_*) of the root mount alone, or with MS_REC of all below it too."""

    __slots__ = ("_attributes", "_propagation")

    def __init__(self, action: str, *, attributes: int = 0, propagation: int = 0) -> None:
        super().__init__(action, "/")
        self._attributes = attributes
        self._propagation = propagation

    def execute(self, setup: Setup) -> None:
        recursive = mounts.AT_RECURSIVE if self._propagation & mounts.MS_REC else 0
        mounts.mount_setattr(
            "",
            set_=self._attributes,
            propagation=self._propagation & ~mounts.MS_REC,
            flags=recursive,
            directory=setup.root,
        )


def _new_filesystem(setup: Setup, fstype: bytes, options: dict[bytes, StepValue], into: Slot) -> Iterator[Step]:
    """`mounts.new_filesystem` as steps."""
    context = setup.tree
    yield step(syscalls.fsopen, fstype, mounts.FSOPEN_CLOEXEC, into=context)
    for key, value in options.items():
        yield step(syscalls.fsconfig, context, mounts.FSCONFIG_SET_STRING, key, value, 0)
    yield step(syscalls.fsconfig, context, mounts.FSCONFIG_CMD_CREATE, None, None, 0)
    yield step(syscalls.fsmount, context, mounts.FSMOUNT_CLOEXEC, 0, into=into)


def moving(tree: Slot, target: Slot) -> Step:
    """`mounts.move_mount` as a step, onto a descriptor."""
    flags = mounts.MOVE_MOUNT_F_EMPTY_PATH | mounts.MOVE_MOUNT_T_EMPTY_PATH
    return step(syscalls.move_mount, tree, b"", target, b"", flags)
