"""What a controller does for a container: the interface, and how controllers are enabled for one.

A controller keeps no state of its own: everything is in the kernel's files, so that whoever comes next can go on. All
methods take the container's non-leaf, where limits are written; its processes are in the leaf below. They are called in
this order (Apache Mesos, "Using Mesos on systems with Cgroups2 enabled"):

    prepare    the cgroups exist, no process does yet
    isolate    the process exists, in the leaf, and has not been released
    watch      what may end the container, from now on
    update     any number of times
    usage, status
    recover    instead of prepare and isolate, after a restart of ours
    cleanup    the processes are gone, the cgroups are not: the last chance to read
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.layout import Layout

if TYPE_CHECKING:
    from leafshim.spec.model import Resources


class Limitation(NamedTuple):
    """Why a limit wants to end a container. `resource`: the controller's name; `message`: for a person."""

    resource: str
    message: str


class Watch(NamedTuple):
    """A file of the container's to wait on with EPOLLPRI; on each event `check` says whether a limit was hit."""

    file: str
    check: Callable[[], Limitation | None]


class Controller:
    """One controller. A subclass overrides what it has something to do in; all methods may raise KernelError.

    `name`: as cgroup.controllers lists it, "" for what needs no controller of the kernel.
    """

    name: str

    def prepare(self, cgroup: Cgroup, limits: "Resources") -> None:
        """Write the limits. Raises Unsupported for one that the kernel does not have."""

    def isolate(self, cgroup: Cgroup, pid: int) -> None:
        """Do what needs the process, or prove that it is where it should be."""

    def watch(self, cgroup: Cgroup) -> tuple[Watch, ...]:
        """What to wait on. A past event is none: counters are compared with their values now."""
        return ()

    def update(self, cgroup: Cgroup, limits: "Resources") -> None:
        """Change the limits of a running container, or refuse and change nothing."""

    def usage(self, cgroup: Cgroup) -> dict[str, int]:
        """Figures, as they are now."""
        return {}

    def status(self, cgroup: Cgroup) -> dict[str, str]:
        """What is in force, in the kernel's words."""
        return {}

    def recover(self, cgroup: Cgroup) -> None:
        """Check that what a former process of ours set up is still there."""

    def cleanup(self, cgroup: Cgroup) -> None:
        """Undo what does not go away with the cgroup."""


def enable_down(layout: Layout, container_id: str, controllers: Iterable[str]) -> None:
    """Enable the controllers from the mount's root down to the container, so that it and its leaf have their files.

    In every level's subtree_control, never in the leaf's: that holds processes, and may not ("no internal process
    constraint"). A level that has them enabled is not written to; those above a delegated root are not ours to write.
    Raises Unsupported, which names a missing controller and where it is missing; InputError, KernelError.
    """
    names = frozenset(controllers)
    cgroup = Cgroup(layout.mount)
    cgroup.enable(names)
    for level in layout.name(container_id).strip("/").split("/"):
        cgroup = cgroup.child(level)
        cgroup.enable(names)
