"""Task.Update and Task.Stats of a real shim."""

import json
from pathlib import Path
from typing import Any

import pytest

from leafshim.api import task, wellknown
from leafshim.api.metrics import Metrics
from leafshim.cgroup.hierarchy import UNLIMITED
from leafshim.errors import InputError, NotFound, StateError, Unsupported
from tests.harness.shim import ID, Shim

URL = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
MiB = 1 << 20


def update(web: Shim, shrink: str = "", **resources: Any) -> None:
    web.client.call(
        task.V3.update,
        task.UpdateTaskRequest(
            id=ID,
            resources=wellknown.Any(type_url=URL, value=json.dumps(resources).encode()),
            annotations={"leafd.memory-shrink": shrink} if shrink else {},
        ),
    )


def stats(web: Shim) -> Metrics:
    packed = web.client.call(task.V3.stats, task.StatsRequest(id=ID)).stats
    assert packed is not None
    return packed.unpack(Metrics)


def test_huge_pages_are_limited_and_told(web: Shim) -> None:
    web.run("sleep", "1000")
    update(web, hugepageLimits=[{"pageSize": "2MB", "limit": 6 * MiB}])
    assert web.cgroup.read("hugetlb.2MB.max") == f"{6 * MiB}\n"
    assert {size.pagesize: size.max for size in stats(web).hugetlb}["2MB"] == 6 * MiB
    update(web, unified={"hugetlb.2MB.max": "default"})
    assert {size.pagesize: size.max for size in stats(web).hugetlb}["2MB"] == UNLIMITED


def test_what_is_no_update_is_refused(web: Shim) -> None:
    with pytest.raises(NotFound):
        update(web, pids={"limit": 5})
    web.run("sleep", "1000")
    with pytest.raises(InputError, match=r"linux\.resources\.warp: not supported yet"):
        update(web, warp={"limit": 5})
    with pytest.raises(InputError, match=r"annotations\.leafd\.memory-shrink: 'perhaps': must be one of refuse, kill"):
        update(web, shrink="perhaps")
    with pytest.raises(InputError, match=f"resources: must be {URL}"):
        web.client.call(task.V3.update, task.UpdateTaskRequest(id=ID))
    web.kill()
    web.wait()
    with pytest.raises(StateError, match="container web is STOPPED"):
        update(web, hugepageLimits=[{"pageSize": "2MB", "limit": 0}])


def test_a_page_size_that_nobody_has_is_named(web: Shim) -> None:
    web.run("sleep", "1000")
    with pytest.raises(Unsupported, match=r"^hugetlb\.3MB\.rsvd\.max: this kernel does not have it$"):
        update(web, hugepageLimits=[{"pageSize": "3MB", "limit": 0}])


@pytest.mark.vm
def test_stats_are_the_kernels_figures(web: Shim) -> None:
    web.run("sleep", "1000")
    update(web, memory={"limit": 64 * MiB, "swap": 96 * MiB}, pids={"limit": 9}, cpu={"quota": 50000})
    told = stats(web)
    assert told.pids is not None
    assert (told.pids.current, told.pids.limit) == (1, 9)
    assert told.memory is not None
    assert (told.memory.usage_limit, told.memory.swap_limit) == (64 * MiB, 32 * MiB)
    assert 0 < told.memory.usage <= told.memory.max_usage
    assert told.memory.anon > 0
    assert told.cpu is not None
    assert told.cpu.usage_usec >= told.cpu.user_usec
    assert told.memory_events is not None
    assert told.memory_events.oom_kill == 0


@pytest.mark.vm
def test_memory_in_use_is_not_taken_away_unless_told_to(web: Shim) -> None:

    web.run("python3", "-c", "held = bytearray(b'x' * (96 << 20)); print('held', flush=True); input()", stdin="attach:")
    with web.connect() as client:
        stream = web.attach(client)
        assert next(iter(stream)).stdout == b"held\n"
    with pytest.raises(StateError, match=r"^memory\.max 33554432: \d+ bytes are in use and cannot be reclaimed"):
        update(web, memory={"limit": 32 * MiB})
    assert web.cgroup.read("memory.max") == "max\n"
    update(web, shrink="kill", memory={"limit": 32 * MiB})
    assert web.wait() == 137
    assert Path(web.bundle.exit).exists()
    exit_ = web.info().exit
    assert exit_ is not None
    assert exit_.cause == "oom"
