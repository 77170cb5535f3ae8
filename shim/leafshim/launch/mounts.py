"""The mounts of a spec: file systems made new, and trees of the host bound into the container.

A bind mount takes two steps. Its source is opened first, while the host's mounts are all there and nothing of the
container's is; later the copy is attached, complete with its attributes: there is no moment at which it is writable and
should not be.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence

from leafshim.errors import InputError
from leafshim.kernel import mounts, syscalls
from leafshim.kernel.paths import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, open_in_root, openat2
from leafshim.launch.operation import Operation, Setup, by_descriptor, name_descriptor
from leafshim.launch.rootfs import open_directory, open_file, opening, opening_directory
from leafshim.launch.steps import Step, python, step

_KERNEL_FILESYSTEMS = ("proc", "sysfs")

_ATTRIBUTE_OF_FLAG = {
    mounts.MS_RDONLY: mounts.MOUNT_ATTR_RDONLY,
    mounts.MS_NOSUID: mounts.MOUNT_ATTR_NOSUID,
    mounts.MS_NODEV: mounts.MOUNT_ATTR_NODEV,
    mounts.MS_NOEXEC: mounts.MOUNT_ATTR_NOEXEC,
    mounts.MS_NOSYMFOLLOW: mounts.MOUNT_ATTR_NOSYMFOLLOW,
    mounts.MS_NODIRATIME: mounts.MOUNT_ATTR_NODIRATIME,
}
_ACCESS_TIMES = {
    mounts.MS_RELATIME: 0,
    mounts.MS_NOATIME: mounts.MOUNT_ATTR_NOATIME,
    mounts.MS_STRICTATIME: mounts.MOUNT_ATTR_STRICTATIME,
}


def attributes(words: Sequence[str]) -> tuple[int, int]:
    """The MOUNT_ATTR_* that the option words of a bind mount set and clear; a later word overrides an earlier one.

    A bind mount starts with its source's attributes, so that "rw" has something to clear (unlike in a new mount).
    """
    set_ = clear = 0
    for word in words:
        on, off = mounts.FLAGS.get(word, (0, 0))
        for flag, attribute in _ATTRIBUTE_OF_FLAG.items():
            if on & flag:
                set_, clear = set_ | attribute, clear & ~attribute
            if off & flag:
                set_, clear = set_ & ~attribute, clear | attribute
        for flag, time in _ACCESS_TIMES.items():
            if on & flag:
                set_, clear = set_ & ~mounts.MOUNT_ATTR_ATIME | time, clear | mounts.MOUNT_ATTR_ATIME
    return set_, clear


class OpenSource(Operation):
    """A detached copy of a tree of the host, for AttachTree. `recursive`: with the mounts below it."""

    __slots__ = ("_recursive",)

    def __init__(self, path: str, *, recursive: bool) -> None:
        super().__init__("open", path)
        self._recursive = recursive

    def detail(self) -> str:
        return "with all mounts below it" if self._recursive else ""

    def execute(self, setup: Setup) -> None:
        flags = mounts.OPEN_TREE_CLONE | (mounts.AT_RECURSIVE if self._recursive else 0)
        setup.trees[self] = mounts.open_tree(self.path, flags)


class AttachTree(Operation):
    """Binds what OpenSource opened. Without a word on propagation the mount is a slave of the host's.

    So what the host unmounts, the container lets go of; and nothing goes the other way.
    """

    __slots__ = ("_options", "_set_clear", "_source")

    def __init__(self, path: str, source: OpenSource, words: Sequence[str]) -> None:
        super().__init__("bind", path)
        self._source = source
        self._options = mounts.parse_options(["bind", *words])
        self._set_clear = attributes(words)

    def detail(self) -> str:
        return f"from {self._source.path}"

    def execute(self, setup: Setup) -> None:
        tree = setup.trees[self._source]
        options = self._options
        for propagation in options.propagation or (mounts.MS_SLAVE | mounts.MS_REC,):
            _set_propagation(tree, propagation)
        set_, clear = self._set_clear
        if set_ | clear:
            mounts.mount_setattr("", set_=set_, clear=clear, directory=tree)
        _set_recursive(tree, options)
        is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        target = open_directory(setup.root, self.path) if is_directory else open_file(setup.root, self.path)
        mounts.move_mount(tree, "", directory=target)


class MountFilesystem(Operation):
    """A new mount of a file system, with mount(2)'s arguments."""

    __slots__ = ("_fstype", "_options", "_source")

    def __init__(self, path: str, fstype: str, source: str, words: Sequence[str]) -> None:
        super().__init__("mount", path)
        self._fstype = fstype
        self._source = source
        self._options = mounts.parse_options(list(words))
        if self._options.flags & mounts.MS_REMOUNT:
            raise InputError(f"mount {path}: remount: not supported yet")

    def detail(self) -> str:
        return f"{self._fstype} {self._options.data}".rstrip()

    def execute(self, setup: Setup) -> None:
        options = self._options
        target = open_directory(setup.root, self.path)
        if self._fstype in _KERNEL_FILESYSTEMS:
            # An image that makes /proc a symlink would choose where the kernel's files appear, and where masked paths
            # do not (CVE-2019-19921). Asked after open_directory, which makes a missing directory.
            target = openat2(setup.root, self.path, os.O_PATH, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
        mounts.mount(self._source, by_descriptor(target), self._fstype, options.flags, options.data)
        if options.propagation or options.set_attributes or options.clear_attributes:
            mounted = open_in_root(setup.root, self.path, os.O_PATH)
            for propagation in options.propagation:
                _set_propagation(mounted, propagation)
            _set_recursive(mounted, options)

    def steps(self, setup: Setup) -> Iterable[Step]:
        options = self._options
        if options.propagation or options.set_attributes or options.clear_attributes:
            return super().steps(setup)
        return self._usually(setup)

    def _usually(self, setup: Setup) -> Iterator[Step]:
        yield from opening_directory(setup, self.path)
        if self._fstype in _KERNEL_FILESYSTEMS:  # see execute
            yield opening(setup, self.path, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
        yield python(name_descriptor, setup.name, setup.target)
        source, fstype, data = map(os.fsencode, (self._source, self._fstype, self._options.data))
        yield step(syscalls.mount, source, setup.name, fstype, self._options.flags, data)
        if self._fstype == "tmpfs":
            setup.fresh.add(self.path)

    def otherwise(self, setup: Setup, call: str, number: int) -> None:
        self.execute(setup)


def _set_propagation(mount: int, propagation: int) -> None:
    recursive = mounts.AT_RECURSIVE if propagation & mounts.MS_REC else 0
    mounts.mount_setattr("", propagation=propagation & ~mounts.MS_REC, flags=recursive, directory=mount)


def _set_recursive(mount: int, options: mounts.MountOptions) -> None:
    if options.set_attributes or options.clear_attributes:
        mounts.mount_setattr(
            "",
            set_=options.set_attributes,
            clear=options.clear_attributes,
            flags=mounts.AT_RECURSIVE,
            directory=mount,
        )
