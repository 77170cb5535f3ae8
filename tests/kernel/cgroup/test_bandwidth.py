"""What limits of CPU time and of memory mean, as the kernel counts it: Mesos's tests of them, for ours."""

import json
import mmap
import os
from collections.abc import Callable
from time import CLOCK_PROCESS_CPUTIME_ID, clock_gettime
from typing import Any

import pytest

from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.cgroup.isolator import Isolator, rule
from leafshim.spec import load_resources

Spawn = Callable[..., tuple[int, int]]
MiB = 1 << 20

pytestmark = pytest.mark.vm


def isolate(cgroup: Cgroup, name: str = "web", **resources: Any) -> Isolator:
    container = cgroup.child(name)
    container.child("leaf").create()
    isolator = Isolator(find_mount(), container)
    isolator.prepare(isolator.plan(load_resources(json.dumps(resources).encode()).limits))
    return isolator


def update(isolator: Isolator, **resources: Any) -> None:
    for _ in isolator.update(load_resources(json.dumps(resources).encode()).limits):
        pass


def spin(seconds: float, cpu: int | None = None) -> None:
    """Use that much CPU time."""
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    while clock_gettime(CLOCK_PROCESS_CPUTIME_ID) < seconds:
        pass


def run(spawn: Spawn, isolator: Isolator, seconds: float) -> dict[str, int]:
    """cpu.stat's growth while a process uses that much CPU time there."""
    before = isolator.cgroup.read_flat("cpu.stat")
    pid, _ = spawn(lambda: spin(seconds), cgroup=isolator.cgroup.child("leaf"))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return {name: count - before[name] for name, count in isolator.cgroup.read_flat("cpu.stat").items()}


def test_cpu_bandwidth_limit(cgroup: Cgroup, spawn: Spawn) -> None:
    """CpuBandwidthLimit, CpuStats: a tenth of a CPU is a tenth of a CPU, and what it waited for is counted."""
    isolator = isolate(cgroup, cpu={"quota": 10_000, "period": 100_000})
    grown = run(spawn, isolator, 0.2)
    assert grown["usage_usec"] >= 200_000
    # Each CPU may run over by a slice of 5 ms, which it has to pay back (sched-bwc.rst).
    assert grown["nr_periods"] * 10_000 + 50_000 >= grown["usage_usec"]
    assert grown["nr_throttled"] > 0
    assert grown["throttled_usec"] > 0


def test_without_cfs_limits_nothing_is_throttled(cgroup: Cgroup, spawn: Spawn) -> None:
    """CFS without limits, and infinite: cpu.max is max, at once and after an update."""
    isolator = isolate(cgroup, cpu={"shares": 1024})
    assert isolator.cgroup.read("cpu.max") == "max 100000\n"
    assert run(spawn, isolator, 0.2)["nr_periods"] == 0
    update(isolator, cpu={"quota": 10_000})
    assert run(spawn, isolator, 0.05)["nr_throttled"] > 0
    for off in ({"cpu": {"quota": -1}}, {"unified": {"cpu.max": "max"}}, {"unified": {"cpu.max": "default"}}):
        update(isolator, cpu={"quota": 10_000})
        update(isolator, **off)
        assert isolator.cgroup.read("cpu.max") == "max 100000\n"
        assert run(spawn, isolator, 0.05)["nr_throttled"] == 0


def test_what_is_revocable_yields(cgroup: Cgroup, spawn: Spawn) -> None:
    """RevocableCpu: 1 of weight for each CPU, against 100 of everybody else's."""
    revocable, normal = isolate(cgroup, "revocable", unified={"cpu.weight": "1"}), isolate(cgroup, "normal")
    spawn(lambda: spin(1000, cpu=0), cgroup=revocable.cgroup.child("leaf"))
    before = revocable.cgroup.read_flat("cpu.stat")["usage_usec"]
    pid, _ = spawn(lambda: spin(1, cpu=0), cgroup=normal.cgroup.child("leaf"))
    os.waitpid(pid, 0)
    left_over = revocable.cgroup.read_flat("cpu.stat")["usage_usec"] - before
    assert normal.cgroup.read_flat("cpu.stat")["usage_usec"] >= 1_000_000
    assert left_over < 500_000


def test_memory_bytes_rounding(cgroup: Cgroup) -> None:
    """MemoryBytesRounding, MemoryLow, MemoryMinimum, MemoryMaximum, MemorySoftMaximum: whole pages, rounded down."""
    files = ("memory.min", "memory.low", "memory.high", "memory.max")
    isolator = isolate(cgroup)
    for asked in (64 * MiB, 64 * MiB + 1, 64 * MiB + mmap.PAGESIZE - 1):
        update(isolator, unified=dict.fromkeys(files, str(asked)))
        assert {file: isolator.cgroup.read_number(file) for file in files} == dict.fromkeys(files, 64 * MiB)
    update(isolator, memory={"limit": 32 * MiB + 5, "reservation": mmap.PAGESIZE + 5})
    assert isolator.cgroup.read_number("memory.max") == 32 * MiB
    assert isolator.cgroup.read_number("memory.low") == mmap.PAGESIZE


def test_memory_usage_is_counted(cgroup: Cgroup, spawn: Spawn) -> None:
    """MemoryUsage, MemoryStats: what is touched is anon, and stays the peak."""
    isolator = isolate(cgroup)
    ready, told = os.pipe()
    go, let = os.pipe()

    def hold() -> None:
        area = mmap.mmap(-1, 32 * MiB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(0, len(area), mmap.PAGESIZE):
            area[page] = 1
        os.write(told, b"x")
        os.read(go, 1)

    pid, _ = spawn(hold, cgroup=isolator.cgroup.child("leaf"))
    assert os.read(ready, 1) == b"x"
    memory: Any = isolator.usage()["memory"]
    assert memory["stat"]["anon"] >= 32 * MiB
    assert memory["current"] >= 32 * MiB
    os.write(let, b"x")
    os.waitpid(pid, 0)
    memory = isolator.usage()["memory"]
    assert memory["current"] < 32 * MiB <= memory["peak"]
    assert memory["events"]["oom_kill"] == 0


EVERY_LIMIT = {
    "memory.min": ("1M", "2M", "4096"),
    "memory.low": ("1M", "2M", "4096"),
    "memory.high": ("64M", "128M", "32M"),
    "memory.max": ("64M", "128M", "32M"),
    "memory.swap.high": ("64M", "128M", "32M"),
    "memory.swap.max": ("64M", "128M", "0"),
    "memory.zswap.max": ("64M", "128M", "0"),
    "memory.zswap.writeback": ("0", "1", "0"),
    "memory.oom.group": ("1", "0", "1"),
    "cpu.weight": ("200", "10000", "1"),
    "cpu.max": ("50000 100000", "200000 100000", "1000 50000"),
    "cpu.idle": ("1", "0", "1"),
    "cpuset.cpus": ("0", "0-1", "1"),
    "cpuset.mems": ("0", "0", "0"),
    "cpuset.cpus.exclusive": ("0", "0-1", "1"),
    "pids.max": ("10", "4194304", "1"),
    "io.weight": ("default 200", "default 10000", "default 1"),
    "hugetlb.2MB.max": ("4M", "8M", "2M"),
    "hugetlb.2MB.rsvd.max": ("4M", "8M", "0"),
}  # fmt: skip


@pytest.mark.parametrize("file", EVERY_LIMIT)
def test_every_limit_goes_up_and_down_and_off(cgroup: Cgroup, spawn: Spawn, file: str) -> None:
    isolator = isolate(cgroup, unified={file: EVERY_LIMIT[file][0]})
    spawn(lambda: spin(1000), cgroup=isolator.cgroup.child("leaf"))
    for value in EVERY_LIMIT[file]:
        update(isolator, unified={file: value})
        assert isolator.cgroup.read(file).strip() in (value, str(_bytes(value)))
    weight = file == "io.weight"
    update(isolator, unified={file: "default 100" if weight else "default"})
    if file in ("cpuset.cpus", "cpuset.mems"):  # what has been set cannot be emptied under a process
        effective = f"{file}.effective"
        assert isolator.cgroup.read(effective) == cgroup.read(effective)
    else:
        assert isolator.cgroup.read(file).strip() == ("default 100" if weight else rule(file).default)


def _bytes(value: str) -> int | None:
    return int(value[:-1]) * MiB if value.endswith("M") else None


def test_a_burst_goes_up_and_down_and_off(cgroup: Cgroup) -> None:
    isolator = isolate(cgroup, cpu={"quota": 50_000})
    for burst in (10_000, 50_000, 1_000, 0):
        update(isolator, cpu={"burst": burst})
        assert isolator.cgroup.read_number("cpu.max.burst") == burst
