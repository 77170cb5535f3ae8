"""Device nodes. In a user namespace nobody may make one (mknod(2), EPERM): there the host's are bound instead."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator

from leafshim.errors import Unsupported
from leafshim.kernel import mounts, syscalls
from leafshim.launch.operation import Operation, Setup, prove_device
from leafshim.launch.rootfs import open_directory, open_file, opening_directory
from leafshim.launch.steps import Step, step
from leafshim.spec import Device

DEFAULT_DEVICES = tuple(
    Device(f"/dev/{name}", "c", major, minor, 0o666, 0, 0)
    for name, major, minor in (
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    )
)
"""What every container has (config-linux.md, "Default Devices"; Linux's Documentation/admin-guide/devices.txt)."""

_FILE_TYPE = {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


class MakeDevice(Operation):
    """A device node, or a fifo. One that is there already must be the very same device."""

    __slots__ = ("_device",)

    def __init__(self, device: Device) -> None:
        super().__init__("make device", device.path)
        self._device = device

    def detail(self) -> str:
        return f"{self._device.type} {self._device.major}:{self._device.minor} {self._device.mode:04o}"

    def execute(self, setup: Setup) -> None:
        device = self._device
        parent, name = os.path.split(self.path)
        directory = open_directory(setup.root, parent)
        number = os.makedev(device.major, device.minor)
        kind = _FILE_TYPE[device.type]
        try:
            os.mknod(name, kind | device.mode, number, dir_fd=directory)
        except FileExistsError:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_IFMT(status.st_mode) != kind or status.st_rdev != number:
                raise
        if device.uid or device.gid:
            os.chown(name, device.uid, device.gid, dir_fd=directory, follow_symlinks=False)

    def steps(self, setup: Setup) -> Iterable[Step]:
        device = self._device
        if device.uid or device.gid:
            return super().steps(setup)
        parent, name = os.path.split(self.path)
        kind, number = _FILE_TYPE[device.type], os.makedev(device.major, device.minor)
        making = step(syscalls.mknodat, setup.target, os.fsencode(name), kind | device.mode, number)
        return (*opening_directory(setup, parent), making)

    def otherwise(self, setup: Setup, call: str, number: int) -> None:
        self.execute(setup)


class BindDevice(Operation):
    """The host's own node of the same path, proven to be the device that is meant."""

    __slots__ = ("_number",)

    def __init__(self, device: Device) -> None:
        super().__init__("bind device", device.path)
        if device.type != "c":
            raise Unsupported(f"{device.path}: only character devices are supported in a user namespace")
        self._number = os.makedev(device.major, device.minor)

    def execute(self, setup: Setup) -> None:
        tree = mounts.open_tree(self.path, mounts.OPEN_TREE_CLONE)
        prove_device(tree, self._number, self.path)
        mounts.move_mount(tree, "", directory=open_file(setup.root, self.path))


class MakeLink(Operation):
    """A symbolic link; whatever is there already stays."""

    __slots__ = ("_target",)

    def __init__(self, path: str, target: str) -> None:
        super().__init__("link", path)
        self._target = target

    def detail(self) -> str:
        return f"to {self._target}"

    def execute(self, setup: Setup) -> None:
        parent, name = os.path.split(self.path)
        try:
            os.symlink(self._target, name, dir_fd=open_directory(setup.root, parent))
        except FileExistsError:
            pass

    def steps(self, setup: Setup) -> Iterator[Step]:
        parent, name = os.path.split(self.path)
        yield from opening_directory(setup, parent)
        target, over = os.fsencode(self._target), (errno.EEXIST,)
        yield step(syscalls.symlinkat, target, setup.target, os.fsencode(name), over=over)

    def otherwise(self, setup: Setup, call: str, number: int) -> None:
        self.execute(setup)
