"""A pseudo-terminal of the container's own devpts: the slave for the process, the master for the parent.

No path of the container is trusted to be a terminal (CVE-2025-52565). The master is the multiplexer of a devpts, proven
by file system and device number; the slave comes from the master itself (ioctl_tty(2), TIOCGPTPEER, Linux 4.13); and
/dev/console is the slave's own descriptor, bound.
"""

import fcntl
import os
import struct
import termios

from leafshim.errors import Unsupported
from leafshim.kernel import mounts
from leafshim.kernel.paths import filesystem_magic, open_in_root
from leafshim.launch.operation import Operation, Setup, prove_device
from leafshim.launch.rootfs import open_file

_DEVPTS_MAGIC = 0x1CD1
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_INT = struct.Struct("i")
_WINSIZE = struct.Struct("4H")


class OpenTerminal(Operation):
    """A new pair. `size`: (rows, columns)."""

    __slots__ = ("_size",)

    def __init__(self, size: tuple[int, int] | None) -> None:
        super().__init__("open terminal", "/dev/pts/ptmx")
        self._size = size

    def execute(self, setup: Setup) -> None:
        # Opened O_PATH first: opening a device that is not what it claims to be can already do harm.
        found = open_in_root(setup.root, self.path, os.O_PATH | os.O_NOFOLLOW)
        prove_device(found, os.makedev(5, 2), self.path)
        if filesystem_magic(found) != _DEVPTS_MAGIC:
            raise Unsupported(f"{self.path}: is not on a devpts file system")
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
        setup.console = os.open(f"/proc/self/fd/{found}", flags)
        fcntl.ioctl(setup.console, _TIOCSPTLCK, _INT.pack(0))
        setup.terminal = fcntl.ioctl(setup.console, _TIOCGPTPEER, flags)
        if self._size is not None:
            fcntl.ioctl(setup.console, termios.TIOCSWINSZ, _WINSIZE.pack(*self._size, 0, 0))


class BindConsole(Operation):
    """The slave as /dev/console."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("bind terminal", "/dev/console")

    def execute(self, setup: Setup) -> None:
        target = open_file(setup.root, self.path)
        tree = mounts.open_tree("", mounts.OPEN_TREE_CLONE | mounts.AT_EMPTY_PATH, directory=setup.terminal)
        mounts.move_mount(tree, "", directory=target)


class TakeTerminal(Operation):
    """The slave as controlling terminal and standard streams, owned by the process's user."""

    __slots__ = ("_uid",)

    def __init__(self, uid: int) -> None:
        super().__init__("take terminal")
        self._uid = uid

    def execute(self, setup: Setup) -> None:
        os.fchown(setup.terminal, self._uid, -1)
        fcntl.ioctl(setup.terminal, termios.TIOCSCTTY, 0)
        for stream in (0, 1, 2):
            os.dup2(setup.terminal, stream)
