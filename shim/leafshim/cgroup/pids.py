"""The pids controller: how many processes and threads there may be. fork(2) fails with EAGAIN beyond."""

from collections.abc import Iterator

from leafshim.cgroup.controller import Controller, InForce
from leafshim.cgroup.figures import flat, single
from leafshim.cgroup.values import MAX, File, Setting, number
from leafshim.spec.resources import Limits

_MOST = 2**22  # PID_MAX_LIMIT (include/linux/threads.h); beyond, the kernel refuses


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
