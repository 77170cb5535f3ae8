"""The pids controller: how many processes and threads there may be. fork(2) fails with EAGAIN beyond.

Since Linux 6.11 a fork that fails is counted where the limit was hit; pids.events.local has those of this very cgroup.
Before, there was no such file, and pids.events counted where the fork was: in the leaf.
"""

from collections.abc import Iterator, Sequence

from leafshim.cgroup.controller import Controller, InForce
from leafshim.cgroup.figures import flat, single
from leafshim.cgroup.hierarchy import UNLIMITED, Cgroup
from leafshim.cgroup.layout import LEAF
from leafshim.cgroup.limitation import ANCESTOR, OWN, Counters, Limitation, Watch, counted, growth, lineage
from leafshim.cgroup.values import MAX, File, Setting, number
from leafshim.spec.resources import Limits

_MOST = 2**22  # PID_MAX_LIMIT (include/linux/threads.h); beyond, the kernel refuses

_FILES = ("pids.events.local", f"{LEAF}/pids.events")


class PidsController(Controller):
    """pids.max. 0 is refused: nothing could be cloned into the container."""

    name = "pids"
    figures = True
    files = {"pids.max": File(number(1, _MOST, unlimited=True), MAX)}
    gauges = {
        "pids.current": single,
        "pids.peak": single,
        "pids.max": single,
        "pids.events": flat,
        "pids.events.local": flat,
    }

    def settings(self, limits: Limits, in_force: InForce) -> Iterator[Setting]:
        """See docs/limits.md."""
        if limits.pids is not None:
            yield Setting("pids.max", MAX if limits.pids <= 0 or limits.pids > _MOST else str(limits.pids))

    def watch(self, cgroup: Cgroup) -> Sequence[Watch]:
        """The file that counts failed forks."""
        return [Watch(file) for file in _FILES if cgroup.has(file)][:1]

    def counters(self, cgroup: Cgroup) -> Counters:
        """`max`: forks that failed."""
        return next((found for file in _FILES if (found := counted(cgroup, file))), {})

    def judge(self, cgroup: Cgroup, before: Counters, now: Counters, fired: Watch | None) -> Iterator[Limitation]:
        """`pids`, when forks failed. Before Linux 6.11 the nearest limit is taken for the one that was hit."""
        failed = growth(before, now, "max")
        if not failed:
            return
        owner = cgroup
        if not cgroup.has(_FILES[0]):
            owner = next((each for each in lineage(cgroup) if _limit(each) != UNLIMITED), cgroup)
        figures = {"current": cgroup.read_number("pids.current"), "limit": _limit(owner), "failed": failed}
        whose = "its own limit" if owner == cgroup else f"the limit of {owner.path}"
        message = f"no more processes: {whose}; {failed} not made (current {figures['current']}, limit {_limit(owner)})"
        yield Limitation("pids", "pids", OWN if owner == cgroup else ANCESTOR, owner.path, message, figures)


def _limit(cgroup: Cgroup) -> int:
    return cgroup.read_number("pids.max") if cgroup.has("pids.max") else UNLIMITED
