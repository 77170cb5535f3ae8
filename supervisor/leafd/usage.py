"""What containers use: the kernel's own figures, read where they are.

Rules:
1. Whoever asks reads the files of the cgroups himself. No shim is woken for it, one that hangs holds nothing up, and it
   goes on while leafd is down. (Task.Stats of the shim is for containerd, and says the same.)
2. leafd is asked only which containers there are and where; while it does not answer, their checkpoints say so.
3. A rate needs two readings: a `Meter` is one container between two moments.
"""

import errno
import os
import resource
import time
from collections.abc import Sequence
from typing import NamedTuple

from leafd.client import Client
from leafshim.api.containers import Container
from leafshim.bundle import Bundle, id_of
from leafshim.cgroup import perf_event
from leafshim.cgroup.figures import Figures
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.cgroup.isolator import Isolator
from leafshim.checkpoint import Checkpoint
from leafshim.errors import DeadlineExceeded, KernelError, LeafError, NotFound, StateError, Unavailable
from leafshim.kernel import network
from leafshim.state import ISOLATING, RUNNING

_ALIVE = (ISOLATING, RUNNING, "UNKNOWN")
_PATIENCE = 2.0  # s, for leafd to answer before the checkpoints are read


class Target(NamedTuple):
    """A container to look at: the absolute path of its non-leaf, or of the one whose figures it shares; and the pid of
    its init, 0 where that is unknown."""

    id: str
    cgroup: str
    pid: int


class Usage(NamedTuple):
    """What one container uses. `time`: ns since the epoch. `percent`: of one CPU between the two readings, None without
    a first one. `figures`: as Isolator.usage. `network`: as network.interfaces. `limits`: interface file → what
    it holds. `events`: what was counted in `seconds`."""

    id: str
    time: int
    seconds: float
    percent: float | None
    figures: Figures
    network: dict[str, dict[str, int]]
    limits: dict[str, str]
    events: dict[str, int]


def targets(socket: str, containers: Sequence[str] = ()) -> list[Target]:
    """The containers of the leafd at `socket` that live: all of them by id, or those that are named.

    Raises NotFound, StateError for a named one that does not live, Unavailable where there is no leafd at all.
    """
    found = _listed(socket)
    if not containers:
        return [target for _, (state, target) in sorted(found.items()) if state in _ALIVE]
    chosen = []
    for container_id in dict.fromkeys(containers):
        if container_id not in found:
            raise NotFound(f"{container_id}: no such container")
        state, target = found[container_id]
        if state not in _ALIVE:
            raise StateError(f"{container_id} is {state}")
        chosen.append(target)
    return chosen


def _listed(socket: str) -> dict[str, tuple[str, Target]]:
    try:
        with Client(socket, timeout=_PATIENCE) as client:
            return {each.id: (each.state, _target(each)) for each in client.list()}
    except (Unavailable, DeadlineExceeded):
        root = os.path.dirname(os.path.abspath(socket))
        try:
            names = os.listdir(os.path.join(root, "containers"))
        except OSError:
            names = []
        if not names:
            raise
    found = {}
    for container_id in map(id_of, names):
        try:
            noted = Checkpoint.read(Bundle.of(root, container_id).checkpoint)
        except LeafError:  # none yet, or not ours to judge
            continue
        found[container_id] = (noted.state, Target(container_id, noted.shared_cgroup or noted.cgroup, noted.pid))
    return found


def _target(listed: Container) -> Target:
    return Target(listed.id, listed.shared_cgroup or listed.cgroup, listed.pid)


class Meter:
    """Measures one container from now until `finish`, with these perf events, if any. Close it."""

    def __init__(self, target: Target, events: tuple[str, ...] = ()) -> None:
        """Raises InputError, Unsupported, KernelError for events that cannot be counted."""
        self._target = target
        self._cgroup = Cgroup(target.cgroup)
        self._counters = perf_event.start(self._cgroup, events) if events else None
        self._begin = _cpu_time(self._cgroup)

    def finish(self) -> Usage | None:
        """What it uses, and has used since; None when it is gone."""
        end = _cpu_time(self._cgroup)
        events = self._counters.read() if self._counters is not None else {}
        isolator = Isolator(find_mount(), self._cgroup)
        figures = isolator.usage()
        if end is None or not figures:
            return None
        seconds = (end.clock - self._begin.clock) / 1e9 if self._begin is not None else 0.0
        percent = None
        if self._begin is not None and seconds > 0:
            percent = (end.usage - self._begin.usage) / 1e4 / seconds  # µs
        interfaces = network.interfaces(self._target.pid)
        return Usage(self._target.id, time.time_ns(), seconds, percent, figures, interfaces, isolator.status(), events)

    def close(self) -> None:
        """Stop counting."""
        if self._counters is not None:
            self._counters.close()


class _CpuTime(NamedTuple):
    """`usage` in µs, at `clock` (ns, time.monotonic_ns())."""

    clock: int
    usage: int


def _cpu_time(cgroup: Cgroup) -> _CpuTime | None:
    try:
        return _CpuTime(time.monotonic_ns(), cgroup.read_flat("cpu.stat")["usage_usec"])
    except KernelError:
        return None


def meters(found: Sequence[Target], events: tuple[str, ...] = ()) -> list[Meter]:
    """A meter of each; what ended meanwhile is left out. Raises as Meter does, and has closed all of them then."""
    if events:
        _raise_limit_of_files()
    started: list[Meter] = []
    try:
        for target in found:
            try:
                started.append(Meter(target, events))
            except KernelError as error:
                if error.errno != errno.ENOENT:
                    raise
    except BaseException:
        for meter in started:
            meter.close()
        raise
    return started


def _raise_limit_of_files() -> None:
    """A counter is a descriptor for each event, CPU and container."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
