"""Memory protection that holds: `memory.low` and `memory.min` in the container's leaf, and in all of ours above it.

The kernel protects no cgroup better than the one above it (cgroup-v2.rst, "memory.low"). That leaves two gaps around
what is written to a container's own cgroup:
- The memory is charged to the leaf, which has a protection of its own, 0. (Where cgroup2 is mounted with
  memory_recursiveprot it gets what its siblings leave; systemd does that, others do not.)
- Above it are the root of all containers and, for a nested one, its parent: with 0 there, everything below is void.

So what a container asks for is in its leaf, too; and each cgroup from the container up to our root holds the larger of
what its own leaf has and the sum of all others directly below it. All of it is in the kernel's files: whoever comes
next computes the same. Our root is the one that leafd has marked, with those levels above it that it made itself;
what was there before is the administrator's. Where there is no mark (another engine's tree) nothing above the container
is written.

Two shims may do this at once. Each looks again after it wrote, so the last to write has seen the sum that it wrote.
"""

import os
from collections.abc import Iterable, Iterator

from leafshim.cgroup.hierarchy import UNLIMITED, Cgroup
from leafshim.cgroup.layout import LEAF, is_root_of_ours
from leafshim.cgroup.values import MAX, Setting
from leafshim.errors import KernelError

FILES = ("memory.low", "memory.min")


def protect(mount: str, cgroup: Cgroup, settings: Iterable[Setting]) -> None:
    """After `settings` were written to a container's `cgroup`: make them hold. Raises KernelError."""
    wanted = [setting for setting in settings if setting.file in FILES]
    for setting in wanted:
        cgroup.child(LEAF).write(setting.file, setting.value)
    for level in _ours(mount, cgroup) if wanted else ():
        for setting in wanted:
            while (needed := _needed(level, setting.file)) != level.read_number(setting.file):
                level.write(setting.file, MAX if needed == UNLIMITED else str(needed))


def release(mount: str, path: str) -> None:
    """After the container at `path` has gone: take back what was there for it alone. Raises KernelError."""
    for level in _ours(mount, Cgroup(os.path.dirname(path))):
        for file in FILES:
            # Only less is needed than before: where nothing is protected, nobody below has to be asked.
            while _read(level, file) and (needed := _needed(level, file)) != _read(level, file):
                level.write(file, MAX if needed == UNLIMITED else str(needed))


def asked(cgroup: Cgroup, file: str) -> str:
    """What a file of a container's says without what it has for those nested in it. Raises KernelError."""
    leaf = cgroup.child(LEAF)
    return (leaf if file in FILES and leaf.has(file) else cgroup).read(file)


def _ours(mount: str, cgroup: Cgroup) -> Iterator[Cgroup]:
    """From the cgroup up to our root, and on through those levels that were made for it; none without a root."""
    levels: list[Cgroup] = []
    ours = 0
    path = cgroup.path
    while path.startswith(f"{mount}/"):
        levels.append(Cgroup(path))
        if is_root_of_ours(path):
            ours = len(levels)
        elif ours:
            break
        path = os.path.dirname(path)
    yield from levels[:ours]


def _needed(level: Cgroup, file: str) -> int:
    """A workload with the right to write in its leaf could claim there what it likes: its own counts as far as the
    cgroup above has it already."""
    leaf = level.child(LEAF)
    own = min(_read(leaf, file), _read(level, file))
    below = sum(_read(child, file) for child in level.children() if child != leaf)
    return min(max(own, below), UNLIMITED)


def _read(cgroup: Cgroup, file: str) -> int:
    """0 for what is not there: gone meanwhile, or without the controller."""
    try:
        return cgroup.read_number(file)
    except KernelError:
        return 0
