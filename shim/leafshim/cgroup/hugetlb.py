"""The hugetlb controller: bytes in huge pages, for each size of them (hugetlb.2MB.max).

A limit is written twice. `max` counts pages as they are touched, and a process that goes over it gets SIGBUS;
`rsvd.max` counts them as they are mapped, and mmap(2) fails instead, as a program expects
(Documentation/admin-guide/cgroup-v1/hugetlb.rst, "Reservation accounting and page faults").
"""

import os
from collections.abc import Iterator

from leafshim.cgroup.controller import Controller, InForce
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.values import MAX, File, Setting, size
from leafshim.errors import KernelError
from leafshim.spec.resources import Limits

_UNITS = {"KB": 10, "MB": 20, "GB": 30}


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

    def usage(self, cgroup: Cgroup) -> dict[str, int]:
        """`2MB current` and `2MB max`, for every size. Raises KernelError."""
        figures = {}
        try:
            names = sorted(os.listdir(cgroup.path))
        except OSError as error:
            raise KernelError.of(error, "read") from error
        for name in names:
            match name.split("."):
                case ["hugetlb", page_size, "current" | "max" as kind]:
                    figures[f"{page_size} {kind}"] = cgroup.read_number(name)
        return figures
