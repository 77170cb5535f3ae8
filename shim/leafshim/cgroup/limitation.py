"""Limits that were hit: what a controller says of one, and by what it finds out.

The kernel counts what happens at a limit, and marks the file with the counter. So a past event is told from a new one
by the counters of the last time.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.errors import KernelError

OWN, INSIDE, ANCESTOR, HOST = "own", "inside", "ancestor", "host"
"""Whose limit: the container's, that of a cgroup which the workload made below its leaf, of one above, or nobody's."""


class Limitation(NamedTuple):
    """A limit that was hit.

    `kind`: what happened, which is also the event's type. `resource`: of what there was not enough. `cgroup`: the one
    whose limit it is, "" for the host. `message`: for a person. `figures`: bytes, counts or µs, by their names.
    """

    kind: str
    resource: str
    scope: str
    cgroup: str
    message: str
    figures: dict[str, int]


class Watch(NamedTuple):
    """A file to wait on with POLLPRI. `file`: below the container's cgroup. `trigger`: to be written to it first."""

    file: str
    trigger: str = ""


Counters: TypeAlias = dict[str, int]
"""What the kernel has counted since a cgroup was made; a file that is missing has no counter here."""


def growth(before: Counters, now: Counters, name: str) -> int:
    """How far a counter has come. One that is below its former value began again, with its controller."""
    past, present = before.get(name, 0), now.get(name, 0)
    return present - past if present >= past else present


def lineage(cgroup: Cgroup) -> Iterator[Cgroup]:
    """The cgroup and those above it, the nearest first, without the mount's root, which has no limits."""
    root = find_mount().rstrip("/")
    path = cgroup.path
    while path.startswith(f"{root}/"):
        yield Cgroup(path)
        path = os.path.dirname(path)


def counted(cgroup: Cgroup, file: str) -> Counters:
    """A file of counters; empty where it is not there."""
    try:
        return cgroup.read_flat(file)
    except KernelError:
        return {}
