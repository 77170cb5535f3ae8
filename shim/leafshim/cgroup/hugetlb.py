"""The hugetlb controller: bytes in huge pages, for each size of them (hugetlb.2MB.max).

A limit is written twice. `max` counts pages as they are touched, and a process that goes over it gets SIGBUS;
`rsvd.max` counts them as they are mapped, and mmap(2) fails instead, as a program expects
(Documentation/admin-guide/cgroup-v1/hugetlb.rst, "Reservation accounting and page faults").
"""

import os
from collections.abc import Iterator

from leafshim.cgroup.controller import Controller, InForce
from leafshim.cgroup.figures import Figures, Format, collect, flat, pairs, single
from leafshim.cgroup.hierarchy import UNLIMITED, Cgroup
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

    def usage(self, cgroup: Cgroup) -> Figures:
        """For every size (`2MB`). Raises KernelError."""
        sizes = _sizes(cgroup)
        return collect(cgroup, {f"hugetlb.{page}.{file}": parse for page in sizes for file, parse in _GAUGES.items()})

    def status(self, cgroup: Cgroup) -> dict[str, str]:
        """The limits of every size. Raises KernelError."""
        files = [f"hugetlb.{page}.{kind}" for page in _sizes(cgroup) for kind in ("max", "rsvd.max")]
        held = {file: cgroup.read(file).strip() for file in files if cgroup.has(file)}
        return {file: MAX if _limit(text) == UNLIMITED else text for file, text in held.items()}


def _sizes(cgroup: Cgroup) -> list[str]:
    try:
        names = os.listdir(cgroup.path)
    except OSError as error:
        raise KernelError.of(error, "read") from error
    return sorted(name.split(".")[1] for name in names if name.startswith("hugetlb.") and name.endswith("B.current"))
