"""The container's root file system: bring it, open it, make it the root.

It is assembled in the child's own mount namespace, on a directory of the bundle. That namespace first becomes a slave
of the host's: what is mounted in it stays in it.
"""

import errno
import os

from leafshim.errors import KernelError
from leafshim.kernel import mounts
from leafshim.kernel.paths import open_in_root
from leafshim.launch.operation import Operation, Setup, by_descriptor


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


class LeaveHostMounts(Operation):
    """Mounts of the host still arrive; ours do not leave."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("make slave", "/")

    def execute(self, setup: Setup) -> None:
        mounts.mount("", "/", flags=mounts.MS_REC | mounts.MS_SLAVE)


class OpenRootDirectory(Operation):
    """The directory that the root file system will be mounted on; or that is the root file system, for UseDirectory."""

    __slots__ = ()

    def __init__(self, path: str) -> None:
        super().__init__("open", path)

    def execute(self, setup: Setup) -> None:
        setup.root = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


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

    def execute(self, setup: Setup) -> None:
        limit: dict[str, str | None] = {} if self._size is None else {"size": str(self._size)}
        changes = mounts.new_filesystem("tmpfs", {"mode": "0755", **limit})
        # overlayfs takes its layers from attached mounts only.
        mounts.move_mount(changes, "", directory=setup.root)
        os.mkdir("upper", 0o755, dir_fd=changes)
        os.mkdir("work", 0o755, dir_fd=changes)
        top = by_descriptor(changes)
        overlay = mounts.new_filesystem(
            "overlay", {"lowerdir": self._lower, "upperdir": f"{top}/upper", "workdir": f"{top}/work"}
        )
        mounts.move_mount(overlay, "", directory=changes)
        setup.root = overlay


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

    def execute(self, setup: Setup) -> None:
        os.fchdir(setup.root)
        # The old root ends up on top of the new one; "." is then the old one (pivot_root(2), NOTES).
        mounts.pivot_root(".", ".")
        mounts.umount2(".", mounts.MNT_DETACH)
        os.chdir("/")


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
