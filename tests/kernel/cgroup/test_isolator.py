"""Limits in the kernel's files: set, changed while processes run, refused, and taken back."""

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
from leafshim.errors import InputError, StateError, Unsupported
from leafshim.spec import load_resources
from leafshim.spec.resources import Limits

Spawn = Callable[..., tuple[int, int]]
MiB = 1 << 20


def limits(**resources: Any) -> Limits:
    return load_resources(json.dumps(resources).encode()).limits


def held(cgroup: Cgroup, *files: str) -> dict[str, str]:
    return {file: cgroup.read(file).strip() for file in files}


@pytest.fixture
def isolator(cgroup: Cgroup) -> Isolator:
    """Of a container two levels below the root."""
    container = Cgroup(f"{cgroup.path}/two/levels/web")
    container.child("leaf").create()
    return Isolator(find_mount(), container)


def prepare(isolator: Isolator, **resources: Any) -> None:
    isolator.prepare(isolator.plan(limits(**resources)))


def update(isolator: Isolator, *, kill: bool = False, **resources: Any) -> None:
    for _ in isolator.update(limits(**resources), kill=kill):
        pass


def test_huge_pages_are_limited_where_only_they_can_be(isolator: Isolator) -> None:
    prepare(isolator, hugepageLimits=[{"pageSize": "2MB", "limit": 5 * MiB}])
    files = ("hugetlb.2MB.max", "hugetlb.2MB.rsvd.max")
    assert held(isolator.cgroup, *files) == dict.fromkeys(files, str(4 * MiB))
    assert number(isolator.usage(), "hugetlb", "2MB", "max") == 4 * MiB
    assert isolator.status()["hugetlb.2MB.rsvd.max"] == str(4 * MiB)
    update(isolator, unified=dict.fromkeys(files, "default"))
    assert held(isolator.cgroup, *files) == dict.fromkeys(files, "max")


def test_a_controller_that_nobody_has_is_named(isolator: Isolator) -> None:
    isolator.mount = isolator.cgroup.path  # where nothing has been enabled
    with pytest.raises(Unsupported, match=r"^memory\.max: this host has no cgroup2 controller memory$"):
        isolator.plan(limits(memory={"limit": MiB}))


def test_a_page_size_that_the_host_lacks_is_named(isolator: Isolator) -> None:
    with pytest.raises(Unsupported, match=r"^hugetlb\.3MB\.rsvd\.max: this kernel does not have it$"):
        prepare(isolator, hugepageLimits=[{"pageSize": "3MB", "limit": MiB}])


@pytest.mark.vm
def test_every_limit_is_in_its_file(isolator: Isolator) -> None:
    device = os.stat("/dev/loop0").st_rdev
    number = {"major": os.major(device), "minor": os.minor(device)}
    name = f"{number['major']}:{number['minor']}"
    prepare(
        isolator,
        memory={"limit": 256 * MiB + 1, "reservation": 64 * MiB, "swap": 512 * MiB + 1},
        cpu={"shares": 2048, "quota": 150_000, "period": 50_000, "burst": 10_000, "cpus": "0,1", "mems": "0"},
        pids={"limit": 77},
        blockIO={"weight": 500, "throttleReadBpsDevice": [number | {"rate": MiB}],
                 "throttleWriteIOPSDevice": [number | {"rate": 50}]},
        hugepageLimits=[{"pageSize": "2MB", "limit": 4 * MiB}],
        unified={"memory.min": "8M", "memory.high": "200M", "memory.oom.group": "1", "memory.zswap.max": "1M"},
    )  # fmt: skip
    assert held(
        isolator.cgroup, "memory.max", "memory.low", "memory.swap.max", "memory.min", "memory.high",
        "memory.oom.group", "memory.zswap.max", "cpu.weight", "cpu.max", "cpu.max.burst", "cpuset.cpus", "cpuset.mems",
        "pids.max", "io.weight", "io.max", "hugetlb.2MB.max", "hugetlb.2MB.rsvd.max",
    ) == {
        "memory.max": str(256 * MiB),
        "memory.low": str(64 * MiB),
        "memory.swap.max": str(256 * MiB),
        "memory.min": str(8 * MiB),
        "memory.high": str(200 * MiB),
        "memory.oom.group": "1",
        "memory.zswap.max": str(MiB),
        "cpu.weight": "174",
        "cpu.max": "150000 50000",
        "cpu.max.burst": "10000",
        "cpuset.cpus": "0-1",
        "cpuset.mems": "0",
        "pids.max": "77",
        "io.weight": "default 4950",
        "io.max": f"{name} rbps={MiB} wbps=max riops=max wiops=50",
        "hugetlb.2MB.max": str(4 * MiB),
        "hugetlb.2MB.rsvd.max": str(4 * MiB),
    }  # fmt: skip
    assert isolator.cgroup.child("leaf").enabled() == frozenset()


@pytest.mark.vm
def test_found_wanting_10_the_weight_of_more_than_a_hundred_cpus_is_clamped(isolator: Isolator) -> None:
    """RevocableCpu: the least weight is 1; and no number of CPUs fails for its weight."""
    prepare(isolator, cpu={"shares": 300 * 1024})
    assert held(isolator.cgroup, "cpu.weight") == {"cpu.weight": "10000"}
    update(isolator, cpu={"shares": 2})
    assert held(isolator.cgroup, "cpu.weight") == {"cpu.weight": "1"}


@pytest.mark.vm
def test_limits_go_up_and_down_and_off(isolator: Isolator) -> None:
    prepare(isolator)
    files = ("memory.max", "memory.low", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max", "cpuset.cpus")
    there = files[:-1]  # cpuset has no figures, so it is enabled for who asks
    fresh = held(isolator.cgroup, *there)
    for scale in (4, 8, 2):
        update(
            isolator,
            memory={"limit": scale * 64 * MiB, "reservation": scale * MiB, "swap": scale * 65 * MiB},
            cpu={"quota": scale * 1000, "shares": scale * 1024, "cpus": "0"},
            pids={"limit": scale},
        )
        assert held(isolator.cgroup, *files) == {
            "memory.max": str(scale * 64 * MiB),
            "memory.low": str(scale * MiB),
            "memory.swap.max": str(scale * MiB),
            "cpu.max": f"{scale * 1000} 100000",
            "cpu.weight": {2: "174", 4: "303", 8: "532"}[scale],
            "pids.max": str(scale),
            "cpuset.cpus": "0",
        }
    update(isolator, unified=dict.fromkeys(files, "default"))
    assert held(isolator.cgroup, *files) == fresh | {"cpuset.cpus": ""}


@pytest.mark.vm
def test_an_update_that_the_kernel_refuses_half_way_changes_nothing(isolator: Isolator) -> None:
    prepare(isolator, cpu={"quota": 50_000}, pids={"limit": 7})
    device = os.stat("/dev/loop0").st_rdev
    line = f"{os.major(device)}:{os.minor(device)} rbps={MiB}"
    update(isolator, unified={"io.max": line})
    files = ("cpu.max", "pids.max", "io.max", "io.weight")
    before = held(isolator.cgroup, *files)
    with pytest.raises(InputError, match=r"^io\.max: the kernel refuses '4095:4095 rbps=1': "):
        update(isolator, cpu={"quota": 60_000}, unified={"io.weight": "7", "io.max": "4095:4095 rbps=1"})
    assert held(isolator.cgroup, *files) == before


@pytest.fixture
def holder(isolator: Isolator, spawn: Spawn) -> Callable[[], int]:
    """Puts 64 MiB of anonymous memory into the container, and keeps it there; returns the pid."""

    def hold() -> int:
        ready, told = os.pipe()

        def body() -> None:
            area = mmap.mmap(-1, 64 * MiB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for page in range(0, len(area), mmap.PAGESIZE):
                area[page] = 1
            os.write(told, b"x")
            signal.pause()

        pid, _ = spawn(body, cgroup=isolator.cgroup.child("leaf"))
        assert os.read(ready, 1) == b"x"
        return pid

    return hold


@pytest.mark.vm
def test_memory_that_cannot_be_reclaimed_is_not_taken_away(isolator: Isolator, holder: Callable[[], int]) -> None:
    prepare(isolator, memory={"limit": 256 * MiB})
    pid = holder()
    with pytest.raises(StateError, match=r"^memory\.max 16777216: \d+ bytes are in use .* \(anon \d+, .*changed$"):
        update(isolator, memory={"limit": 16 * MiB}, pids={"limit": 3})
    assert held(isolator.cgroup, "memory.max", "pids.max") == {"memory.max": str(256 * MiB), "pids.max": "max"}
    assert isolator.cgroup.read_flat("memory.events")["oom_kill"] == 0
    update(isolator, memory={"limit": 16 * MiB}, kill=True)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert held(isolator.cgroup, "memory.max") == {"memory.max": str(16 * MiB)}


@pytest.mark.vm
def test_check_before_update_outweighs_the_permission_to_kill(isolator: Isolator, holder: Callable[[], int]) -> None:
    prepare(isolator)
    holder()
    with pytest.raises(StateError, match="cannot be reclaimed"):
        update(isolator, memory={"limit": 16 * MiB, "checkBeforeUpdate": True}, kill=True)


@pytest.mark.vm
def test_caches_make_room_for_a_lower_limit(isolator: Isolator, spawn: Spawn) -> None:
    prepare(isolator, memory={"limit": 256 * MiB})
    ready, told = os.pipe()

    def read_much() -> None:
        left = 64 * MiB
        for directory, _, names in os.walk("/usr/lib"):
            for name in names:
                path = os.path.join(directory, name)
                if left > 0 and os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb", buffering=0) as file:
                        left -= len(file.read())
        os.write(told, b"x")
        signal.pause()

    pid, _ = spawn(read_much, cgroup=isolator.cgroup.child("leaf"))
    assert os.read(ready, 1) == b"x"
    used = isolator.cgroup.read_number("memory.current")
    update(isolator, memory={"limit": 24 * MiB})
    assert isolator.cgroup.read_number("memory.current") <= 24 * MiB < used
    assert isolator.cgroup.read_flat("memory.events")["oom"] == 0
    os.kill(pid, 0)


@pytest.mark.vm
def test_a_root_that_holds_processes_is_named_with_them(isolator: Isolator, cgroup: Cgroup, spawn: Spawn) -> None:
    pid, _ = spawn(signal.pause, cgroup=cgroup)
    with pytest.raises(StateError, match=rf"^{cgroup.path} holds processes \({pid}\): controllers can be enabled only"):
        prepare(isolator, memory={"limit": MiB})


@pytest.mark.vm
def test_figures_are_there_without_any_limit(isolator: Isolator, spawn: Spawn) -> None:
    prepare(isolator)
    spawn(signal.pause, cgroup=isolator.cgroup.child("leaf"))
    figures = isolator.usage()
    assert (number(figures, "pids", "current"), number(figures, "pids", "max")) == (1, 2**64 - 1)
    assert number(figures, "memory", "current") > 0
    assert number(figures, "memory", "max") == 2**64 - 1
    assert section(figures, "cpu", "stat").keys() >= {"usage_usec", "user_usec", "system_usec", "nr_throttled"}
