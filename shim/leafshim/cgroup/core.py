"""What every container has: its processes and threads. It needs nothing of the kernel's controllers."""

from collections.abc import Iterator

from leafshim.cgroup.controller import Controller
from leafshim.cgroup.figures import Figures, flat
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.layout import LEAF
from leafshim.errors import StateError


class Core(Controller):
    """Counts what is in the leaf and in the workload's own cgroups below it; nested containers count for themselves."""

    name = ""
    gauges = {"cgroup.events": flat, "cgroup.stat": flat}

    def isolate(self, cgroup: Cgroup, pid: int) -> None:
        """Prove that the process is in the leaf. Raises StateError, KernelError."""
        if pid not in cgroup.child(LEAF).processes():
            raise StateError(f"process {pid} is not in {cgroup.child(LEAF).path}")

    def usage(self, cgroup: Cgroup) -> Figures:
        """`procs` and `threads`, how many there are, beside the files'. Raises KernelError."""
        processes = threads = 0
        for own in _own(cgroup):
            processes += len(own.processes())
            threads += len(own.threads())
        return {"procs": processes, "threads": threads, **super().usage(cgroup)}

    def recover(self, cgroup: Cgroup) -> None:
        """The leaf must be there. Raises StateError."""
        if not cgroup.child(LEAF).exists():
            raise StateError(f"{cgroup.child(LEAF).path} is gone")


def _own(cgroup: Cgroup) -> Iterator[Cgroup]:
    leaf = cgroup.child(LEAF)
    yield from leaf.descendants()
    yield leaf
