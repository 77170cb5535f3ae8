"""What a controller does for a container: the interface, and how controllers are enabled for one.

A controller keeps no state of its own: everything is in the kernel's files, so that whoever comes next can go on. Its
limits are data: `settings` says what is to be written where, and one writer (isolator.py) writes it, to the container's
non-leaf; the processes are in the leaf below. The methods are called in this order (Apache Mesos, "Using Mesos on
systems with Cgroups2 enabled"):

    settings   nothing exists yet; again at each update
    prepare    the cgroups exist, the settings are written, no process is there yet
    isolate    the process exists, in the leaf, and has not been released
    watch      which files to wait on, from now on; counters, judge   whenever one of them says that there is news
    make_room, update  any number of times; the settings are written in between
    usage, status
    recover    instead of prepare and isolate, after a restart of ours
    cleanup    the processes are gone, the cgroups are not: the last chance to read
"""

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from leafshim.cgroup.figures import Figures, Format, collect
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.limitation import Counters, Limitation, Watch
from leafshim.cgroup.values import File, Setting
from leafshim.errors import KernelError, StateError
from leafshim.spec.resources import Limits

if TYPE_CHECKING:
    from leafshim.spec.model import Resources

InForce: TypeAlias = Callable[[str], str]
"""What an interface file holds now; for a container that does not exist yet, what a new cgroup has in it."""


class Controller:
    """One controller. A subclass overrides what it has something to do in; all methods may raise KernelError.

    `name`: as cgroup.controllers lists it, "" for what needs no controller of the kernel. `figures`: it has some worth
    having, so it is enabled for every container; others are for those that it limits. `files`: those that limits are
    written to. `gauges`: those that figures are read from.
    """

    name: ClassVar[str]
    figures: ClassVar[bool] = False
    files: ClassVar[Mapping[str, File]] = {}
    gauges: ClassVar[Mapping[str, Format]] = {}

    def rule(self, file: str) -> File | None:
        """How an interface file is written; None for one that is no limit's."""
        return self.files.get(file)

    def settings(self, limits: Limits, in_force: InForce) -> Iterable[Setting]:
        """What to write for these limits, in this order, unchecked. Raises InputError for limits at odds."""
        return ()

    def prepare(self, cgroup: Cgroup, limits: "Resources") -> None:
        """Set up what is no interface file. Raises Unsupported for what the kernel does not have."""

    def isolate(self, cgroup: Cgroup, pid: int) -> None:
        """Do what needs the process, or prove that it is where it should be."""

    def watch(self, cgroup: Cgroup) -> Sequence[Watch]:
        """What to wait on; nothing where the controller is not enabled."""
        return ()

    def counters(self, cgroup: Cgroup) -> Counters:
        """What to compare with: a past event is none."""
        return {}

    def baseline(self, cgroup: Cgroup) -> Counters:
        """`counters` to begin with, for a cgroup that is new: its own began at 0, and were not read yet."""
        return {}

    def judge(self, cgroup: Cgroup, before: Counters, now: Counters, fired: Watch | None) -> Iterator[Limitation]:
        """The limits that were hit between two `counters`. `fired`: the watch that has news; None, just a look."""
        yield from ()

    def make_room(self, cgroup: Cgroup, settings: Sequence[Setting]) -> Iterator[None]:
        """Bring use below what is about to be allowed, giving way between steps. Raises StateError if that fails."""
        yield from ()

    def update(self, cgroup: Cgroup, limits: "Resources") -> None:
        """Change what is no interface file while the container runs, or refuse and change nothing."""

    def usage(self, cgroup: Cgroup) -> Figures:
        """Figures, as they are now; empty where the controller has none to tell."""
        return collect(cgroup, self.gauges)

    def status(self, cgroup: Cgroup) -> dict[str, str]:
        """What is in force, in the kernel's words: the files of limits, those that are there."""
        return {file: cgroup.read(file).strip() for file in self.files if cgroup.has(file)}

    def recover(self, cgroup: Cgroup) -> None:
        """Check that what a former process of ours set up is still there."""

    def cleanup(self, cgroup: Cgroup) -> None:
        """Undo what does not go away with the cgroup."""


def enable_down(mount: str, cgroup: Cgroup, controllers: Iterable[str]) -> None:
    """Enable the controllers from the mount's root down to `cgroup`, so that it and those below have their files.

    In every level's subtree_control, never in the leaf's: that holds processes, and may not ("no internal process
    constraint"). A level that has them enabled is not written to; those above a delegated root are not ours to write.
    Raises Unsupported, which names a missing controller and where it is missing; StateError, which names processes that
    stand in the way; KernelError.
    """
    names = frozenset(controllers)
    level = Cgroup(mount)
    _enable(level, names)
    for part in cgroup.path.removeprefix(mount).strip("/").split("/"):
        level = level.child(part)
        _enable(level, names)


def _enable(cgroup: Cgroup, names: frozenset[str]) -> None:
    try:
        cgroup.enable(names)
    except KernelError as error:
        held = error.errno == errno.EBUSY and cgroup.processes()
        if not held:
            raise
        raise StateError(
            f"{cgroup.path} holds processes ({', '.join(map(str, held[:5]))}): controllers can be enabled only below a "
            "cgroup without any"
        ) from error
