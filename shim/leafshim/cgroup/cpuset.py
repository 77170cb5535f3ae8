"""The cpuset controller: which CPUs and memory nodes may be used.

An empty list means those of the cgroup above. What is offline or not the parent's is not refused by the kernel; the
.effective files say what is left of a wish.
"""

from collections.abc import Iterator

from leafshim.cgroup.controller import Controller, InForce
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.values import File, Setting, choice, refuse
from leafshim.spec.resources import Limits


def check_list(file: str, value: str) -> str:
    """A list as 0-3,8 in ascending order without overlaps, the way the kernel shows it (cpuset(7), "List format")."""
    numbers: set[int] = set()
    for part in value.strip().split(",") if value.strip() else ():
        first, dash, last = part.partition("-")
        if not all(end.isascii() and end.isdecimal() and len(end) < 5 for end in (first, last if dash else first)):
            raise refuse(file, value, "a list such as 0-3 or 0,2")
        if dash and int(last) < int(first):
            raise refuse(file, value, f"a list such as 0-3, with {part} the other way round")
        numbers.update(range(int(first), int(last if dash else first) + 1))
    return _as_list(numbers)


def _as_list(numbers: set[int]) -> str:
    runs: list[list[int]] = []
    for each in sorted(numbers):
        if runs and runs[-1][-1] == each - 1:
            runs[-1] = [runs[-1][0], each]
        else:
            runs.append([each])
    return ",".join("-".join(map(str, run)) for run in runs)


class CpusetController(Controller):
    """CPUs, memory nodes, partition."""

    name = "cpuset"
    files = {
        "cpuset.cpus": File(check_list, ""),
        "cpuset.mems": File(check_list, ""),
        "cpuset.cpus.exclusive": File(check_list, ""),
        "cpuset.cpus.partition": File(choice("member", "root", "isolated"), "member"),
    }

    def settings(self, limits: Limits, in_force: InForce) -> Iterator[Setting]:
        """See docs/limits.md."""
        if limits.cpu.cpus:
            yield Setting("cpuset.cpus", limits.cpu.cpus)
        if limits.cpu.mems:
            yield Setting("cpuset.mems", limits.cpu.mems)

    def status(self, cgroup: Cgroup) -> dict[str, str]:
        """The lists, and what they come to. Raises KernelError."""
        effective = [f"{file}.effective" for file in ("cpuset.cpus", "cpuset.mems")]
        return super().status(cgroup) | {file: cgroup.read(file).strip() for file in effective if cgroup.has(file)}
