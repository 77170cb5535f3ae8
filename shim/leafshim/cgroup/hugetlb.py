"""The hugetlb controller: bytes in huge pages, for each size of them (hugetlb.2MB.max).

A limit is written twice. `max` counts pages as they are touched, and a process that goes over it gets SIGBUS;
`rsvd.max` counts them as they are mapped, and mmap(2) fails instead, as a program expects
(Documentation/admin-guide/cgroup-v1/hugetlb.rst, "Reservation accounting and page faults").

What the kernel does that surprises: `max` of hugetlb.2MB.events is counted where the process is, in the leaf, whichever
cgroup's limit it was (mm/hugetlb_cgroup.c, __hugetlb_cgroup_charge_cgroup).
"""

import os
from collections.abc import Iterator, Sequence

from leafshim.cgroup.controller import Controller, InForce
from leafshim.cgroup.figures import Figures, Format, collect, flat, pairs, single
from leafshim.cgroup.hierarchy import UNLIMITED, Cgroup
from leafshim.cgroup.layout import LEAF
from leafshim.cgroup.limitation import ANCESTOR, OWN, Counters, Limitation, Watch, counted, growth, lineage
from leafshim.cgroup.values import LARGEST, MAX, File, Setting, size
from leafshim.errors import KernelError
from leafshim.spec.resources import Limits

_UNITS = {"KB": 10, "MB": 20, "GB": 30}


def _limit(content: str) -> int:
    """In some kernels an untouched limit reads as the number that others show as max."""
    value = single(content)
    return UNLIMITED if value >= LARGEST else value


_GAUGES: dict[str, Format] = {
    "current": single,
    "max": _limit,
    "events": flat,
    "events.local": flat,
    "rsvd.current": single,
    "rsvd.max": _limit,
    "numa_stat": pairs,
}


class HugetlbController(Controller):
    """Huge pages of every size that the host has."""

    name = "hugetlb"

    def rule(self, file: str) -> File | None:
        """Rounds down to whole huge pages, as the kernel does."""
        _, page_size, *kind = file.split(".")
        count, unit = page_size[:-2], page_size[-2:]
        if kind not in (["max"], ["rsvd", "max"]) or unit not in _UNITS or not (count.isascii() and count.isdecimal()):
            return None
        return File(size(max(1, int(count)) << _UNITS[unit]), MAX)

    def settings(self, limits: Limits, in_force: InForce) -> Iterator[Setting]:
        """See docs/limits.md."""
        for pages in limits.huge_pages:
            yield Setting(f"hugetlb.{pages.page_size}.rsvd.max", str(pages.limit))
            yield Setting(f"hugetlb.{pages.page_size}.max", str(pages.limit))

    def watch(self, cgroup: Cgroup) -> Sequence[Watch]:
        """The leaf's file of each page size."""
        return [Watch(f"{LEAF}/hugetlb.{page_size}.events") for page_size in _counted_sizes(cgroup.child(LEAF))]

    def counters(self, cgroup: Cgroup) -> Counters:
        """Pages that were refused, by their size."""
        leaf = cgroup.child(LEAF)
        return {size: counted(leaf, f"hugetlb.{size}.events").get("max", 0) for size in _counted_sizes(leaf)}

    def judge(self, cgroup: Cgroup, before: Counters, now: Counters, fired: Watch | None) -> Iterator[Limitation]:
        """`hugetlb`, when pages were refused; the nearest limit is taken for the one that was hit."""
        for page_size in now:
            if refused := growth(before, now, page_size):
                owner = next((each for each in lineage(cgroup) if _lowest(each, page_size) != UNLIMITED), cgroup)
                figures = {"limit": _lowest(owner, page_size), "refused": refused}
                whose = "its own limit" if owner == cgroup else f"the limit of {owner.path}"
                message = f"no more huge pages of {page_size}: {whose}; refused {refused} (limit {figures['limit']})"
                scope = OWN if owner == cgroup else ANCESTOR
                yield Limitation("hugetlb", f"hugetlb.{page_size}", scope, owner.path, message, figures)

    def usage(self, cgroup: Cgroup) -> Figures:
        """For every size (`2MB`). Raises KernelError."""
        sizes = _sizes(cgroup)
        return collect(cgroup, {f"hugetlb.{page}.{file}": parse for page in sizes for file, parse in _GAUGES.items()})

    def status(self, cgroup: Cgroup) -> dict[str, str]:
        """The limits of every size. Raises KernelError."""
        files = [f"hugetlb.{page}.{kind}" for page in _sizes(cgroup) for kind in ("max", "rsvd.max")]
        held = {file: cgroup.read(file).strip() for file in files if cgroup.has(file)}
        return {file: MAX if _limit(text) == UNLIMITED else text for file, text in held.items()}


def _lowest(cgroup: Cgroup, page_size: str) -> int:
    files = (f"hugetlb.{page_size}.max", f"hugetlb.{page_size}.rsvd.max")
    return min((_limit(cgroup.read(file)) for file in files if cgroup.has(file)), default=UNLIMITED)


def _counted_sizes(leaf: Cgroup) -> list[str]:
    """None where the controller is not enabled."""
    return [page for page in _sizes(leaf) if leaf.has(f"hugetlb.{page}.events")] if leaf.exists() else []


def _sizes(cgroup: Cgroup) -> list[str]:
    try:
        names = os.listdir(cgroup.path)
    except OSError as error:
        raise KernelError.of(error, "read") from error
    return sorted(name.split(".")[1] for name in names if name.startswith("hugetlb.") and name.endswith("B.current"))
