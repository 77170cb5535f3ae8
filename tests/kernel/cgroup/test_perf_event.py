"""Counting what a cgroup's processes do, by software events, which every kernel has."""

import os
import time
from collections.abc import Callable, Iterator

import pytest

from leafshim.cgroup import perf_event
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.perf_event import Counters
from leafshim.errors import InputError, KernelError, Unsupported

Spawn = Callable[..., tuple[int, int]]
Start = Callable[..., Counters]

HARDWARE = ("cycles", "instructions", "cache-references", "cache-misses", "branches", "branch-misses")
SOFTWARE = tuple(event for event in perf_event.EVENTS if event not in HARDWARE)
MEMORY = 400  # pages


@pytest.fixture
def start() -> Iterator[Start]:
    """perf_event.start; what it opens is closed at the end."""
    opened: list[Counters] = []

    def begin(cgroup: Cgroup, *events: str) -> Counters:
        opened.append(perf_event.start(cgroup, events))
        return opened[-1]

    yield begin
    for counters in opened:
        counters.close()


def fault() -> None:
    """Touch pages that were not there."""
    memory = bytearray(MEMORY * os.sysconf("SC_PAGESIZE"))
    assert len(memory) > 0


def run(spawn: Spawn, body: Callable[[], object], cgroup: Cgroup | None) -> None:
    pid, _ = spawn(body, cgroup=cgroup)
    assert os.waitpid(pid, 0)[1] == 0


def test_software_events_are_always_there() -> None:
    assert set(SOFTWARE) <= set(perf_event.supported())


def test_perf_sample(cgroup: Cgroup, spawn: Spawn, start: Start) -> None:
    """PERF_Sample: the cgroup's processes count, and those below it; others do not."""
    counters = start(cgroup, *SOFTWARE)
    assert counters.read() == dict.fromkeys(SOFTWARE, 0)
    run(spawn, fault, None)
    assert counters.read() == dict.fromkeys(SOFTWARE, 0)
    run(spawn, fault, cgroup)
    first = counters.read()
    assert first["page-faults"] >= MEMORY
    assert first["page-faults"] == first["minor-faults"] + first["major-faults"]
    assert first["task-clock"] > 0
    assert first["cpu-clock"] > 0
    nested = cgroup.child("nested")
    nested.create()
    run(spawn, fault, nested)
    second = counters.read()
    assert second["page-faults"] >= first["page-faults"] + MEMORY
    assert counters.read() == second, "nobody is left to count"


def test_context_switches(cgroup: Cgroup, spawn: Spawn, start: Start) -> None:
    counters = start(cgroup, "context-switches")
    run(spawn, lambda: time.sleep(0.001), cgroup)
    assert counters.read()["context-switches"] > 0


def test_what_is_not_counted_is_named(cgroup: Cgroup) -> None:
    with pytest.raises(InputError, match="perf event no-such: must be one of cycles, "):
        perf_event.start(cgroup, ("task-clock", "no-such"))
    for event in set(perf_event.EVENTS) - set(perf_event.supported()):
        with pytest.raises(Unsupported, match=f"perf event {event}: this kernel"):
            perf_event.start(cgroup, ("task-clock", event))
    with pytest.raises(KernelError, match=r"open .*gone: No such file"):
        perf_event.start(cgroup.child("gone"), ("task-clock",))


def test_nothing_is_left_open(cgroup: Cgroup) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    perf_event.start(cgroup, perf_event.supported()).close()
    with pytest.raises(InputError):
        perf_event.start(cgroup, ("no-such",))
    for event in set(perf_event.EVENTS) - set(perf_event.supported()):
        with pytest.raises(Unsupported):
            perf_event.start(cgroup, ("task-clock", event))
    assert sorted(os.listdir("/proc/self/fd")) == before
