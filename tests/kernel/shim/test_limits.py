"""Task.Update and Task.Stats of a real shim."""

import json
import os
import signal
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from leafshim.api import task, wellknown
from leafshim.api.metrics import Metrics
from leafshim.cgroup.hierarchy import UNLIMITED
from leafshim.errors import InputError, LeafError, NotFound, StateError, Unavailable, Unsupported
from tests.harness.procfs import children
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


def described(web: Shim) -> Any:
    """linux.resources of the description as it is now."""
    return json.loads(Path(web.bundle.config).read_text())["linux"]["resources"]


def test_what_was_changed_is_in_the_description(web: Shim) -> None:
    web.run("sleep", "1000")
    rules = described(web)["devices"]
    update(web, hugepageLimits=[{"pageSize": "2MB", "limit": 6 * MiB}])
    files = {"hugetlb.2MB.rsvd.max": str(6 * MiB), "hugetlb.2MB.max": str(6 * MiB)}
    assert described(web) == {"devices": rules, "unified": files}
    update(web, unified={"hugetlb.2MB.max": "8M"}, devices=[{"allow": False}])
    assert described(web) == {
        "devices": [{"allow": False}],
        "unified": {"hugetlb.2MB.rsvd.max": str(6 * MiB), "hugetlb.2MB.max": str(8 * MiB)},
    }
    update(web, unified=dict.fromkeys(files, "default"))
    assert described(web) == {"devices": [{"allow": False}]}
    web.add_exec("one", "true")  # a description that is read again for it
    web.start("one")
    assert web.wait("one") == 0


def test_an_update_that_cannot_be_kept_is_taken_back(web: Shim) -> None:
    web.run("sleep", "1000")
    in_the_way = Path(f"{web.bundle.config}.new")
    in_the_way.mkdir()
    with pytest.raises(LeafError, match=r"write description .*config\.json\.new: Is a directory"):
        update(web, hugepageLimits=[{"pageSize": "2MB", "limit": 6 * MiB}])
    assert web.cgroup.read("hugetlb.2MB.max") == "max\n"
    in_the_way.rmdir()
    in_the_way.write_text("what a crash left behind, longer than anything that is written over it" * 1000)
    update(web, hugepageLimits=[{"pageSize": "2MB", "limit": 6 * MiB}])
    assert not in_the_way.exists()
    assert described(web)["unified"]["hugetlb.2MB.max"] == str(6 * MiB)


def test_a_kill_between_the_kernels_answer_and_ours_is_harmless(web: Shim) -> None:
    web.run("sleep", "1000")
    before = Path(web.bundle.config).read_bytes()
    in_the_way = f"{web.bundle.config}.new"
    os.mkfifo(in_the_way)  # where the worker stands still, as nobody reads: the kernel has accepted, nobody was told
    told: list[LeafError] = []

    def ask() -> None:
        try:
            update(web, hugepageLimits=[{"pageSize": "2MB", "limit": 6 * MiB}])
        except LeafError as error:
            told.append(error)

    asking = Thread(target=ask, daemon=True)
    asking.start()
    while web.cgroup.read("hugetlb.2MB.max") != f"{6 * MiB}\n":
        os.sched_yield()
    (worker,) = (pid for pid in children(web.pid) if Path(f"/proc/{pid}/comm").read_text() == "leafd-worker\n")
    os.kill(worker, signal.SIGKILL)
    asking.join()
    assert [type(error) for error in told] == [Unavailable]
    os.unlink(in_the_way)
    assert Path(web.bundle.config).read_bytes() == before
    web.client.close()
    web.client = web.connect()
    assert web.info().state == "RUNNING"
    update(web, hugepageLimits=[{"pageSize": "2MB", "limit": 6 * MiB}])
    assert described(web)["unified"]["hugetlb.2MB.max"] == str(6 * MiB)


def test_a_refused_update_is_not_in_the_description(web: Shim) -> None:
    web.run("sleep", "1000")
    before = Path(web.bundle.config).read_bytes()
    with pytest.raises(Unsupported):
        update(web, unified={"hugetlb.2MB.max": "2M", "hugetlb.3MB.max": "2M"})
    assert Path(web.bundle.config).read_bytes() == before
    assert not Path(f"{web.bundle.config}.new").exists()


def test_pressure_and_cpu_time_need_no_controller(web: Shim) -> None:
    web.run("sh", "-c", "while :; do :; done")
    told = stats(web)
    assert told.cpu is not None
    assert told.cpu.usage_usec > 0
    assert told.cpu.psi is not None
    assert told.cpu.psi.some is not None
