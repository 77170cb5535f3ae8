"""The controller that every container has: its processes and threads. It needs nothing of the kernel's controllers."""

from collections.abc import Iterator

from leafshim.cgroup.controller import Controller
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.layout import LEAF
from leafshim.errors import StateError


class Core(Controller):
    """Counts what is in the leaf and in the workload's own cgroups below it; nested containers count for themselves."""

    name = ""

    def isolate(self, cgroup: Cgroup, pid: int) -> None:
        """Prove that the process is in the leaf. Raises StateError, KernelError."""
        if pid not in cgroup.child(LEAF).processes():
            raise StateError(f"process {pid} is not in {cgroup.child(LEAF).path}")

    def usage(self, cgroup: Cgroup) -> dict[str, int]:
        """`processes` and `threads`. Raises KernelError."""
        processes = threads = 0
        for own in _own(cgroup):
            processes += len(own.processes())
            threads += len(own.threads())
        return {"processes": processes, "threads": threads}

    def status(self, cgroup: Cgroup) -> dict[str, str]:
        """`populated` and `frozen`, of the leaf. Raises KernelError."""
        return {key: str(value) for key, value in cgroup.child(LEAF).events().items()}

    def recover(self, cgroup: Cgroup) -> None:
        """The leaf must be there. Raises StateError."""
        if not cgroup.child(LEAF).exists():
            raise StateError(f"{cgroup.child(LEAF).path} is gone")


def _own(cgroup: Cgroup) -> Iterator[Cgroup]:
    leaf = cgroup.child(LEAF)
    yield from leaf.descendants()
    yield leaf
