"""The memory controller: protection (min, low), throttling (high), the limit (max), swap, and how the OOM killer acts.

What the kernel does that surprises:
- memory.max below what is in use is taken at once: the kernel reclaims, and where that is not enough it kills. So room
  is made before the write (`make_room`), and a limit that there is no room for is refused.
- memory.reclaim says EAGAIN when it freed less than was asked, and it may have freed much nevertheless.
- The events of a cgroup are told with each `max` and `high` as well, of which a container at its limit has thousands.
  The leaf has no limits, so its memory.events is quiet until one of its processes is killed: that is waited on.
- `oom` is counted where the limit was hit, `oom_kill` where the victim was, both before the victim gets its signal
  (mm/oom_kill.c, __oom_kill_process). Neither names the other, so whose limit it was follows from what has grown.
- memory.swap.max counts swap alone; the OCI specification's `swap`, from cgroups v1, counts memory and swap together.
"""

import errno
from collections.abc import Iterable, Iterator, Sequence

from leafshim.cgroup.controller import Controller, InForce
from leafshim.cgroup.figures import flat, nested, single
from leafshim.cgroup.hierarchy import UNLIMITED, Cgroup
from leafshim.cgroup.layout import LEAF
from leafshim.cgroup.limitation import (
    ANCESTOR,
    HOST,
    INSIDE,
    OWN,
    Counters,
    Limitation,
    Watch,
    counted,
    growth,
    lineage,
)
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

    def watch(self, cgroup: Cgroup) -> Sequence[Watch]:
        """The leaf's memory.events."""
        return [Watch(f"{LEAF}/memory.events")] if cgroup.child(LEAF).has("memory.events") else []

    def counters(self, cgroup: Cgroup) -> Counters:
        """`kills` in the leaf and below; `inside`, the limits hit there; and for this cgroup and each above it, by its
        path, how often its own limit was hit."""
        leaf = counted(cgroup.child(LEAF), "memory.events")
        found = {"kills": leaf["oom_kill"], "inside": leaf["oom"]} if leaf else {}
        return found | _hits(lineage(cgroup))

    def baseline(self, cgroup: Cgroup) -> Counters:
        """Those of the cgroups above."""
        above = lineage(cgroup)
        next(above)
        return _hits(above)

    def judge(self, cgroup: Cgroup, before: Counters, now: Counters, fired: Watch | None) -> Iterator[Limitation]:
        """`oom`, when processes of the leaf were killed; the nearest limit that was hit since is the one."""
        kills = growth(before, now, "kills")
        if not kills:
            return
        leaf = cgroup.child(LEAF)
        if growth(before, now, "inside"):
            scope, owner = INSIDE, leaf.path
        else:
            owner = next((each.path for each in lineage(cgroup) if growth(before, now, each.path)), "")
            scope = OWN if owner == cgroup.path else ANCESTOR if owner else HOST
        figures = _at_a_kill(cgroup, Cgroup(owner) if owner else None) | {"kills": kills}
        yield Limitation("oom", "memory", scope, owner, _out_of_memory(scope, owner, figures), figures)


def _hits(cgroups: Iterable[Cgroup]) -> Counters:
    """How often the limit of each was hit, by its path."""
    return {each.path: local["oom"] for each in cgroups if (local := counted(each, "memory.events.local"))}


def _swap(both: int, memory: str) -> str:
    """memory.swap.max, where memory and swap together may be `both`."""
    if both < 0:
        return MAX
    if memory == MAX:
        raise InputError("linux.resources.memory.swap: needs a limit of memory, which it includes")
    if both < int(memory):
        raise InputError(f"linux.resources.memory.swap: {both}: includes memory, so must not be below {memory}")
    return str(both - int(memory))


def _at_a_kill(cgroup: Cgroup, owner: Cgroup | None) -> dict[str, int]:
    """What is known right after a kill, when the victim's memory may be free already: only `peak` has that for sure."""
    stat = counted(cgroup, "memory.stat")
    figures: dict[str, int] = {name: stat[name] for name in ("anon", "file", "kernel") if name in stat}
    for name, file in (("current", "memory.current"), ("peak", "memory.peak")):
        if cgroup.has(file):
            figures[name] = cgroup.read_number(file)
    if owner is not None and owner.has("memory.max") and (most := owner.read_number("memory.max")) != UNLIMITED:
        figures["limit"] = most
    return figures


def _out_of_memory(scope: str, owner: str, figures: dict[str, int]) -> str:
    whose = {
        OWN: "its own limit",
        INSIDE: f"the limit of a cgroup that it made below {owner}",
        ANCESTOR: f"the limit of {owner}",
        HOST: "no limit: the host had none left",
    }[scope]
    told = ", ".join(f"{name} {value}" for name, value in figures.items() if name != "kills")
    return f"out of memory: {whose}; killed {figures['kills']} ({told})"


def _no_room(cgroup: Cgroup, wanted: int, used: int) -> str:
    stat = cgroup.read_flat("memory.stat")
    kinds = ", ".join(f"{name} {stat.get(name, 0)}" for name in ("anon", "file", "kernel"))
    return f"memory.max {wanted}: {used} bytes are in use and cannot be reclaimed ({kinds}); nothing was changed"
