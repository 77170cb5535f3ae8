"""A step of a launch: what it is, before it happens; how to do it, in the child; what to say when it fails."""

import ctypes
import errno
import os
import stat
from collections.abc import Iterable

from leafshim.errors import KernelError, Unsupported
from leafshim.kernel.paths import ATTEMPTS
from leafshim.launch.handshake import Channel
from leafshim.launch.steps import Slot, Step, python, run

NOWHERE = -1
"""A descriptor that nobody opened yet."""


class Setup:
    """What the steps leave for one another, in the child. Descriptors stay open: execve closes them all.

    `root`: the container's root directory. `trees`: detached copies of the host's mounts, by the step that made them.
    `namespaces`: those to join, by kind. `terminal`, `console`: a pseudo-terminal's slave, for the process, and its
    master, for the parent.

    For `steps`: `root_slot` is `root`; `target`, `tree` and `name` are for each operation to use, `null_slot` and
    `null_name` for what `null` gives. `fresh`: directories of new file systems, in which nothing is yet.
    """

    __slots__ = (
        "_null",
        "channel",
        "console",
        "fresh",
        "name",
        "namespaces",
        "null_name",
        "null_slot",
        "root_slot",
        "target",
        "terminal",
        "tree",
        "trees",
    )

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.root_slot, self.target, self.tree, self.null_slot = (Slot(NOWHERE) for _ in range(4))
        self.name, self.null_name = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
        self.fresh: set[str] = set()
        self.trees: dict[Operation, int] = {}
        self.namespaces: dict[str, int] = {}
        self.terminal = NOWHERE
        self.console = NOWHERE
        self._null = NOWHERE

    @property
    def root(self) -> int:
        """The descriptor of the container's root directory."""
        return self.root_slot.value

    @root.setter
    def root(self, descriptor: int) -> None:
        self.root_slot.value = descriptor

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

    def steps(self, setup: Setup) -> Iterable[Step]:
        """It as system calls, put together before the clone (see steps.py); or one call of `execute`."""
        return (python(self._execute, setup),)

    def _execute(self, setup: Setup) -> int:
        self.execute(setup)
        return 0

    def execute(self, setup: Setup) -> None:
        """Do it, the long way. Raises LeafError or OSError."""
        raise NotImplementedError

    def otherwise(self, setup: Setup, call: str, number: int) -> None:
        """The call of this name, one of `steps`, was refused with that errno: fail, or go the long way.

        Raises LeafError or OSError.
        """
        attempts = ATTEMPTS if call == "openat2" else 0
        while number == errno.EAGAIN and attempts:  # see kernel/paths.py
            attempts -= 1
            try:
                return run(self.steps(setup))
            except KernelError as error:
                call, number = error.syscall, error.errno
        raise KernelError(call, number)

    def failure(self, error: KernelError) -> KernelError:
        """The kernel's refusal as the caller is told: steps work on descriptors, people know paths."""
        return KernelError(self.action, error.errno, self.path)


def prove_device(fd: int, number: int, path: str) -> None:
    """Raises Unsupported unless `fd` is the character device of that number."""
    status = os.fstat(fd)
    if not (stat.S_ISCHR(status.st_mode) and status.st_rdev == number):
        raise Unsupported(f"{path}: is not character device {os.major(number)}:{os.minor(number)}")


def name_descriptor(name: "ctypes.Array[ctypes.c_char]", slot: Slot, below: bytes = b"") -> int:
    """As a step: put the path of `by_descriptor`, and what is `below` it, into the buffer `name`."""
    name.value = b"/proc/self/fd/%d%b" % (slot.value, below)
    return 0


def by_descriptor(fd: int) -> str:
    """A path that leads to what `fd` is open on, for the calls that take no descriptor."""
    return f"/proc/self/fd/{fd}"
