"""Tests of Mesos's cgroups2_tests.cpp that no test of ours had the subject of, by its names (docs/mesos-tests.md)."""

import json
import mmap
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from leafshim.cgroup.figures import number, section
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.cgroup.isolator import Isolator
from leafshim.spec import load_resources
from leafshim.spec.resources import Limits

Spawn = Callable[..., tuple[int, int]]
MiB = 1 << 20

pytestmark = pytest.mark.vm


@pytest.fixture
def web(cgroup: Cgroup) -> Isolator:
    """A container with its leaf, and nothing limited."""
    made = cgroup.child("web")
    made.child("leaf").create()
    isolator = Isolator(find_mount(), made)
    isolator.prepare(())
    return isolator


def limits(**resources: Any) -> Limits:
    return load_resources(json.dumps(resources).encode()).limits


def update(web: Isolator, **resources: Any) -> None:
    for _ in web.update(limits(**resources)):
        pass


def test_available_subsystems(cgroup: Cgroup) -> None:
    """AvailableSubsystems: the root has them all; what is below, those that are enabled above."""
    assert Cgroup(find_mount()).controllers() >= {"cpu", "cpuset", "io", "memory", "pids", "hugetlb"}
    Cgroup(find_mount()).enable({"cpu"})
    assert "cpu" in cgroup.controllers()
    child = cgroup.child("web")
    child.create()
    assert child.controllers() == frozenset()


def test_assign_processes(cgroup: Cgroup, spawn: Spawn) -> None:
    """AssignProcesses: a process is in one cgroup, and its children are born there."""
    one, other = cgroup.child("one"), cgroup.child("other")
    one.create()
    other.create()
    reader, writer = os.pipe()

    def body() -> None:
        os.read(reader, 1)
        if os.fork() == 0:
            os.write(writer, b"x")
        signal.pause()

    pid, _ = spawn(body, cgroup=one)
    assert one.processes() == [pid]
    other.write("cgroup.procs", str(pid))
    assert one.processes() == []
    assert other.processes() == [pid]
    os.write(writer, b"x")
    assert other.wait("populated", 1, 10)
    other.freeze()
    assert other.wait("frozen", 1, 60)
    assert pid in other.processes()


def test_enable_and_disable(cgroup: Cgroup) -> None:
    """EnableAndDisable: a controller's files come and go with it, in the cgroups below."""
    child = cgroup.child("web")
    child.create()
    Cgroup(find_mount()).enable({"cpu"})
    cgroup.enable({"cpu"})
    assert cgroup.enabled() == {"cpu"}
    assert child.has("cpu.max")
    cgroup.write("cgroup.subtree_control", "-cpu")
    assert cgroup.enabled() == frozenset()
    assert not child.has("cpu.max")


def test_cpu_stats(web: Isolator, spawn: Spawn) -> None:
    """CpuStats: what a process of the container spends is counted."""

    def spend() -> None:
        while os.times().user < 0.1:
            pass

    pid, _ = spawn(spend, cgroup=web.cgroup.child("leaf"))
    assert os.waitpid(pid, 0)[1] == 0
    figures = section(web.usage(), "cpu", "stat")
    assert number(figures, "usage_usec") >= 90_000
    assert number(figures, "usage_usec") >= number(figures, "user_usec") > 0


def test_cpu_bandwidth_limit(web: Isolator) -> None:
    """CpuBandwidthLimit, CFS without a limit, with one, with a big one, without one again."""

    def held() -> str:
        return web.cgroup.read("cpu.max").strip()

    assert held() == "max 100000"
    update(web, cpu={"quota": 50_000, "period": 100_000})
    assert held() == "50000 100000"
    update(web, cpu={"quota": 100 * 100_000})
    assert held() == "10000000 100000"
    update(web, cpu={"quota": -1})
    assert held() == "max 100000"


def test_memory_usage_and_stats(web: Isolator, spawn: Spawn) -> None:
    """MemoryUsage, MemoryStats: what a process of the container holds is counted, and by kind."""
    ready, told = os.pipe()

    def hold() -> None:
        area = mmap.mmap(-1, 16 * MiB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area[:: mmap.PAGESIZE] = b"x" * (16 * MiB // mmap.PAGESIZE)
        os.write(told, b"x")
        signal.pause()

    before = number(web.usage(), "memory", "current")
    spawn(hold, cgroup=web.cgroup.child("leaf"))
    assert os.read(ready, 1) == b"x"
    figures = web.usage()
    assert number(figures, "memory", "current") - before >= 16 * MiB
    assert number(figures, "memory", "stat", "anon") >= 15 * MiB
    assert number(figures, "memory", "stat", "kernel") > 0
    assert number(figures, "memory", "stat", "file") >= 0


@pytest.mark.parametrize(
    ("file", "none"),
    [("memory.low", "0"), ("memory.min", "0"), ("memory.high", "max"), ("memory.max", "max")],
    ids=["MemoryLow", "MemoryMinimum", "MemorySoftMaximum", "MemoryMaximum"],
)
def test_memory_limits(web: Isolator, file: str, none: str) -> None:
    assert web.cgroup.read(file).strip() == none
    for size in ("64M", "16M"):
        update(web, unified={file: size})
        assert web.cgroup.read_number(file) == int(size[:-1]) * MiB
    update(web, unified={file: "default"})
    assert web.cgroup.read(file).strip() == none


def test_memory_bytes_rounding(web: Isolator) -> None:
    """MemoryBytesRounding: whole pages, down."""
    page = mmap.PAGESIZE
    for size, expected in ((16 * MiB + 1, 16 * MiB), (16 * MiB + page - 1, 16 * MiB), (16 * MiB + page, None)):
        update(web, memory={"limit": size})
        assert web.cgroup.read_number("memory.max") == (expected or size)
