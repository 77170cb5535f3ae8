"""The rdma controller: handles and objects of InfiniBand devices (rdma.max, a line for each device)."""

from collections.abc import Iterator

from leafshim.cgroup.controller import Controller, InForce
from leafshim.cgroup.figures import nested
from leafshim.cgroup.values import MAX, File, Setting, number, pairs
from leafshim.spec.resources import Limits

_COUNT = number(0, 2**31 - 1, unlimited=True)  # the kernel's int
_KEYS = {"hca_handle": _COUNT, "hca_object": _COUNT}


def _check(file: str, value: str) -> str:
    device, _, rest = value.partition(" ")
    return f"{device} {pairs(file, rest, _KEYS)}"


class RdmaController(Controller):
    """Handles and objects."""

    name = "rdma"
    files = {"rdma.max": File(_check, f"hca_handle={MAX} hca_object={MAX}", keyed=True)}
    gauges = {"rdma.current": nested, "rdma.max": nested}

    def settings(self, limits: Limits, in_force: InForce) -> Iterator[Setting]:
        """See docs/limits.md."""
        for each in limits.rdma:
            counts = {"hca_handle": each.handles, "hca_object": each.objects}
            wanted = " ".join(f"{key}={count}" for key, count in counts.items() if count is not None)
            yield Setting("rdma.max", f"{each.device} {wanted}")
