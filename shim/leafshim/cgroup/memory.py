"""The memory controller: protection (min, low), throttling (high), the limit (max), swap, and how the OOM killer acts.

What the kernel does that surprises:
- memory.max below what is in use is taken at once: the kernel reclaims, and where that is not enough it kills. So room
  is made before the write (`make_room`), and a limit that there is no room for is refused.
- memory.reclaim says EAGAIN when it freed less than was asked, and it may have freed much nevertheless.
- memory.swap.max counts swap alone; the OCI specification's `swap`, from cgroups v1, counts memory and swap together.
"""

import errno
from collections.abc import Iterator, Sequence

from leafshim.cgroup.controller import Controller, InForce
from leafshim.cgroup.figures import flat, nested, single
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.values import MAX, PAGE, File, Setting, choice, limit, size
from leafshim.errors import InputError, KernelError, StateError
from leafshim.spec.resources import Limits

_STEP = 32 << 20  # bytes to reclaim in one call, which is how long nothing else is done
_REFUSED = (errno.EAGAIN, errno.ENOENT)  # nothing more to free; no memory.reclaim before Linux 5.19


class MemoryController(Controller):
    """Memory, swap, compressed swap."""

    name = "memory"
    figures = True
    files = {
        "memory.min": File(size(), "0"),
        "memory.low": File(size(), "0"),
        "memory.high": File(size(least=PAGE), MAX),
        "memory.max": File(size(least=PAGE), MAX),
        "memory.swap.high": File(size(), MAX),
        "memory.swap.max": File(size(), MAX),
        "memory.zswap.max": File(size(), MAX),
        "memory.zswap.writeback": File(choice("0", "1"), "1"),
        "memory.oom.group": File(choice("0", "1"), "0"),
    }
    gauges = {
        "memory.current": single,
        "memory.peak": single,
        "memory.max": single,
        "memory.stat": flat,
        "memory.numa_stat": nested,
        "memory.events": flat,
        "memory.events.local": flat,
        "memory.swap.current": single,
        "memory.swap.peak": single,
        "memory.swap.max": single,
        "memory.swap.events": flat,
        "memory.zswap.current": single,
        "memory.zswap.max": single,
        "memory.pressure": nested,
    }

    def settings(self, limits: Limits, in_force: InForce) -> Iterator[Setting]:
        """See docs/limits.md. Raises InputError."""
        memory = limits.memory
        if memory.reservation is not None:
            yield Setting("memory.low", limit(memory.reservation))
        if memory.swap is not None:
            total = in_force("memory.max") if memory.limit is None else limit(memory.limit)
            yield Setting("memory.swap.max", _swap(memory.swap, total))
        if memory.limit is not None:
            yield Setting("memory.max", limit(memory.limit))

    def make_room(self, cgroup: Cgroup, settings: Sequence[Setting]) -> Iterator[None]:
        """Reclaim until what is in use fits a lower memory.max, a step at a time.

        Raises StateError, with the figures, when no more can be freed; KernelError.
        """
        wanted = next((setting.value for setting in settings if setting.file == "memory.max"), MAX)
        if wanted == MAX or not cgroup.has("memory.current"):
            return
        while (used := cgroup.read_number("memory.current")) > int(wanted):
            try:
                cgroup.write("memory.reclaim", str(min(used - int(wanted), _STEP)))
            except KernelError as error:
                if error.errno not in _REFUSED:
                    raise
                left = cgroup.read_number("memory.current")
                # The counter lags behind by a batch of pages for each CPU, so the very last bytes prove nothing.
                if left > int(wanted) and left > used - PAGE:
                    raise StateError(_no_room(cgroup, int(wanted), left)) from error
            yield


def _swap(both: int, memory: str) -> str:
    """memory.swap.max, where memory and swap together may be `both`."""
    if both < 0:
        return MAX
    if memory == MAX:
        raise InputError("linux.resources.memory.swap: needs a limit of memory, which it includes")
    if both < int(memory):
        raise InputError(f"linux.resources.memory.swap: {both}: includes memory, so must not be below {memory}")
    return str(both - int(memory))


def _no_room(cgroup: Cgroup, wanted: int, used: int) -> str:
    stat = cgroup.read_flat("memory.stat")
    kinds = ", ".join(f"{name} {stat.get(name, 0)}" for name in ("anon", "file", "kernel"))
    return f"memory.max {wanted}: {used} bytes are in use and cannot be reclaimed ({kinds}); nothing was changed"
