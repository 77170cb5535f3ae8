"""What follows when a limit is hit: an event, and where the container's policy says so, its end.

Rules:
1. The first limitation that ends it is the one that its exit tells.
2. An OOM kill of init ends the container; one of another process is an event, unless the policy is `kill`. Then the
   kernel kills all of them at once (memory.oom.group of the leaf), and what that spares is killed by us.
3. Who the OOM killer's victim was, the kernel does not say, so it is inferred: init or an exec that was killed by a
   SIGKILL which nobody asked for, not later than `DOUBT` after the event. The event comes before the signal.
"""

import signal as signals
import time
from collections.abc import Sequence

from leafshim import policy
from leafshim.api.shim import Figure, Limitation
from leafshim.cgroup import limitation as limits
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.layout import LEAF
from leafshim.errors import Unsupported
from leafshim.holding import Holding
from leafshim.process import Process
from leafshim.state import ISOLATING, RUNNING
from leafshim.watch import Packed, Watcher

DOUBT = 1.0  # seconds
KEPT = 64  # events that nobody has collected: then limits that were hit are counted on, and told when there is room


class Limiting(Holding):
    """A container that has limits."""

    def limit_time(self, deadline: float) -> None:
        """End it at `deadline` (seconds, time.monotonic())."""
        self.time_limit = deadline
        self._timeout = self._loop.call_at(deadline, self._timed_out)

    def _cancel_time_limit(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self.time_limit = 0.0

    def _timed_out(self) -> None:
        nanoseconds = self.options.timeout
        self.time_limit = 0.0
        self._hit(
            Limitation(
                kind="timeout",
                resource="time",
                scope=limits.OWN,
                message=f"time limit of {nanoseconds / 1e9:g} s",
                figures=[Figure(name="limit", value=nanoseconds)],
            ),
            kill=True,
        )

    # Watching.

    def watch_limits(self, cgroup: Cgroup) -> None:
        """Begin to watch, before init is released.

        Raises Unsupported for a policy whose controller is not there, KernelError.
        """
        watcher = self._watcher(cgroup)
        watcher.begin()
        self.watcher = watcher
        for kind, name in (("oom", "memory"), ("pids", "pids"), ("hugetlb", "hugetlb")):
            if policy.kills(self.policy, kind) and not watcher.watches(name):
                raise Unsupported(f"policy.{kind}: {policy.KILL}: the container has no cgroup2 controller {name}")
        if policy.kills(self.policy, "oom"):
            cgroup.child(LEAF).write("memory.oom.group", "1")

    def watch_on(self, cgroup: Cgroup, packed: Packed, descriptors: dict[str, int], rung: Sequence[int]) -> None:
        """Go on watching, from a snapshot."""
        self.watcher = self._watcher(cgroup)
        self.watcher.resume(packed, descriptors, rung)

    def unwatch_limits(self) -> None:
        """The watch is over."""
        if self.watcher is not None:
            self.watcher.close()
            self.watcher = None

    def _watcher(self, cgroup: Cgroup) -> Watcher:
        triggers = policy.triggers(self.policy)
        return Watcher(self._loop, cgroup, triggers, self._limit_hit, self._watch_broke, self._watch_restored)

    def _watch_broke(self, message: str) -> None:
        self.events.publish("watch-broken", message=message)

    def _watch_restored(self, name: str) -> None:
        self.events.publish("watch-restored", message=name)

    # A limit was hit.

    def _limit_hit(self, found: limits.Limitation) -> bool:
        limitation = Limitation(
            kind=found.kind,
            resource=found.resource,
            scope=found.scope,
            cgroup=found.cgroup,
            message=found.message,
            figures=[Figure(name=name, value=value) for name, value in found.figures.items()],
        )
        kill = policy.kills(self.policy, found.kind, found.resource, found.figures)
        if found.kind == "oom":
            self._blame(limitation)
        if not kill and self.state == RUNNING and len(self.events.kept) >= KEPT:
            return False
        self._hit(limitation, kill)
        return True

    def _hit(self, limitation: Limitation, kill: bool) -> None:
        init = self.init
        ending = kill and self.limitation is None and self.state in (ISOLATING, RUNNING)
        if ending and (init is None or init.oom is None):
            self.limitation = limitation
        self.events.publish(limitation.kind, limitation=limitation)
        if ending:
            self._kill_all()

    def explain(self, process: Process) -> None:
        """It has ended: see whether a limit is behind that, before its end is told."""
        if self.watcher is not None:
            self.watcher.look()
        if self.suspicion is not None and process.killed_by(signals.SIGKILL):
            process.oom = self.suspicion

    def _blame(self, limitation: Limitation) -> None:
        """Whom has the OOM killer killed? Who gets the signal only now is found out later."""
        if self.limitation is not None:
            return
        self._accuse(limitation)
        if self.suspicion is None:
            self._loop.call_at(time.monotonic() + DOUBT, self._clear)
        self.suspicion = limitation

    def _accuse(self, limitation: Limitation) -> None:
        for process in (self.init, *self.execs.values()):
            if process is not None and process.oom is None and process.killed_by(signals.SIGKILL):
                process.oom = limitation

    def _clear(self) -> None:
        if self.suspicion is not None:
            self._accuse(self.suspicion)
            self.suspicion = None
