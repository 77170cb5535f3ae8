"""Interface files of figures: what the kernel counts, read as it is.

Rules:
1. A figure is where its file is, and of a file with several, by its keys: memory.swap.current is
   figures["memory"]["swap"]["current"], and `anon` of memory.stat is figures["memory"]["stat"]["anon"].
2. Units are the kernel's, `max` is UNLIMITED. Nothing is invented: what this kernel or host lacks has no entry.

Source: Documentation/admin-guide/cgroup-v2.rst, "Interface Files"; Documentation/accounting/psi.rst.
"""

import errno
from collections.abc import Callable, Mapping
from typing import TypeAlias

from leafshim.cgroup.hierarchy import UNLIMITED, Cgroup
from leafshim.cgroup.values import MAX
from leafshim.errors import KernelError

Figures: TypeAlias = "dict[str, int | float | Figures]"
Format: TypeAlias = Callable[[str], "int | float | Figures"]

# No such file; the cgroup went while it was read; PSI is compiled in and switched off.
_ABSENT = (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP)


def collect(cgroup: Cgroup, files: Mapping[str, Format]) -> Figures:
    """The figures of those files that are there, below the controller's name. Raises KernelError."""
    figures: Figures = {}
    for file, parse in files.items():
        try:
            content = cgroup.read(file)
        except KernelError as error:
            if error.errno not in _ABSENT:
                raise
            continue
        *path, last = file.split(".")[1:]
        place = figures
        for key in path:
            inner = place.setdefault(key, {})
            assert isinstance(inner, dict)
            place = inner
        place[last] = parse(content)
    return figures


def single(content: str) -> int:
    """A file of one number."""
    return UNLIMITED if content.strip() == MAX else int(content)


def flat(content: str) -> Figures:
    """One key and one number a line."""
    return {key: _value(value) for key, value in (line.split() for line in content.splitlines())}


def nested(content: str) -> Figures:
    """A key and `name=number` words a line, as io.stat and the pressure files have it."""
    rows = (line.partition(" ") for line in content.splitlines())
    return {key: pairs(rest) for key, _, rest in rows if rest}  # io.stat names devices before it counts any


def pairs(content: str) -> Figures:
    """`name=number` words."""
    return {name: _value(value) for name, _, value in (word.partition("=") for word in content.split())}


def _value(text: str) -> int | float:
    if text == MAX:
        return UNLIMITED
    return float(text) if "." in text else int(text)


def section(figures: Figures, *path: str) -> Figures:
    """What is below that path; empty where nothing is."""
    found = figures
    for key in path:
        inner = found.get(key)
        if not isinstance(inner, dict):
            return {}
        found = inner
    return found


def number(figures: Figures, *path: str) -> int:
    """The whole number at that path; 0 where there is none."""
    found = section(figures, *path[:-1]).get(path[-1])
    return found if isinstance(found, int) else 0
