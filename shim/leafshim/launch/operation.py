"""A step of a launch: what it is, before it happens; how to do it, in the child; what to say when it fails."""

import os
import stat

from leafshim.errors import KernelError, Unsupported
from leafshim.launch.handshake import Channel

NOWHERE = -1
"""A descriptor that nobody opened yet."""


class Setup:
    """What the steps leave for one another, in the child. Descriptors stay open: execve closes them all.

    `root`: the container's root directory. `trees`: detached copies of the host's mounts, by the step that made them.
    `namespaces`: those to join, by kind. `terminal`, `console`: a pseudo-terminal's slave, for the process, and its
    master, for the parent.
    """

    __slots__ = ("_null", "channel", "console", "namespaces", "root", "terminal", "trees")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.root = NOWHERE
        self.trees: dict[Operation, int] = {}
        self.namespaces: dict[str, int] = {}
        self.terminal = NOWHERE
        self.console = NOWHERE
        self._null = NOWHERE

    def null(self) -> int:
        """The host's /dev/null, proven by its device number (CVE-2025-31133). Raises OSError, Unsupported."""
        if self._null == NOWHERE:
            self._null = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
            prove_device(self._null, os.makedev(1, 3), "/dev/null")
        return self._null


class Operation:
    """One step. Made by the plan, executed by the child, in the plan's order.

    `action` and `path` name it, in the plan's print and in a failure: `mount /proc: Operation not permitted`.
    """

    __slots__ = ("action", "path")

    def __init__(self, action: str, path: str = "") -> None:
        self.action = action
        self.path = path

    def detail(self) -> str:
        """What `describe` adds to action and path."""
        return ""

    def describe(self) -> str:
        """The step in one line."""
        return " ".join(part for part in (self.action, self.path, self.detail()) if part)

    def execute(self, setup: Setup) -> None:
        """Do it. Raises LeafError or OSError."""
        raise NotImplementedError

    def failure(self, error: KernelError) -> KernelError:
        """The kernel's refusal as the caller is told: steps work on descriptors, people know paths."""
        return KernelError(self.action, error.errno, self.path)


def prove_device(fd: int, number: int, path: str) -> None:
    """Raises Unsupported unless `fd` is the character device of that number."""
    status = os.fstat(fd)
    if not (stat.S_ISCHR(status.st_mode) and status.st_rdev == number):
        raise Unsupported(f"{path}: is not character device {os.major(number)}:{os.minor(number)}")


def by_descriptor(fd: int) -> str:
    """A path that leads to what `fd` is open on, for the calls that take no descriptor."""
    return f"/proc/self/fd/{fd}"
