"""Every translation of a limit: from linux.resources to what is written to which file."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leafshim.cgroup.cpu import weight_of_shares
from leafshim.cgroup.cpuset import check_list
from leafshim.cgroup.io import weight_of_blkio
from leafshim.cgroup.isolator import CONTROLLERS, Settings, translate
from leafshim.cgroup.values import PAGE, size
from leafshim.errors import InputError
from leafshim.spec import load_resources

GiB = 1 << 30


def written(resources: dict[str, Any], **in_force: str) -> list[str]:
    """Each write as FILE=VALUE. `in_force`: files as they are, "." as "_"; the others as in a new cgroup."""
    now = {name.replace("_", "."): value for name, value in in_force.items()}
    limits = load_resources(json.dumps(resources).encode()).limits
    settings: Settings = translate(limits, (lambda file: now[file]) if now else None)
    return [f"{setting.file}={setting.value}" for setting in settings]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, []),
        ({"cpu": {"shares": 1024}}, ["cpu.weight=100"]),
        ({"cpu": {"shares": 0, "period": 0}}, []),
        ({"cpu": {"quota": 150000}}, ["cpu.max=150000 100000"]),
        ({"cpu": {"quota": 20000, "period": 10000}}, ["cpu.max=20000 10000"]),
        ({"cpu": {"quota": -1}}, ["cpu.max=max 100000"]),
        ({"cpu": {"period": 50000}}, ["cpu.max=max 50000"]),
        ({"cpu": {"quota": 50000, "burst": 20000}}, ["cpu.max=50000 100000", "cpu.max.burst=20000"]),
        ({"cpu": {"idle": 1}}, ["cpu.idle=1"]),
        ({"cpu": {"idle": 0, "shares": 2}}, ["cpu.idle=0", "cpu.weight=1"]),
        ({"cpu": {"cpus": "3,0-1,2", "mems": "0"}}, ["cpuset.cpus=0-3", "cpuset.mems=0"]),
        ({"memory": {"limit": GiB}}, [f"memory.max={GiB}"]),
        ({"memory": {"limit": 3 * PAGE + 1}}, [f"memory.max={3 * PAGE}"]),
        ({"memory": {"limit": -1}}, ["memory.max=max"]),
        ({"memory": {"limit": 2**63 - 1}}, ["memory.max=max"]),
        ({"memory": {"reservation": 64 << 20}}, [f"memory.low={64 << 20}"]),
        ({"memory": {"limit": GiB, "swap": 3 * GiB}}, [f"memory.swap.max={2 * GiB}", f"memory.max={GiB}"]),
        ({"memory": {"limit": GiB, "swap": GiB}}, ["memory.swap.max=0", f"memory.max={GiB}"]),
        ({"memory": {"swap": -1}}, ["memory.swap.max=max"]),
        ({"memory": {"disableOOMKiller": False, "useHierarchy": True}}, []),
        ({"pids": {"limit": 100}}, ["pids.max=100"]),
        ({"pids": {"limit": -1}}, ["pids.max=max"]),
        ({"pids": {"limit": 0}}, ["pids.max=max"]),
        ({"blockIO": {"weight": 500}}, ["io.weight=default 4950"]),
        ({"blockIO": {"weight": 0}}, []),
        ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}}, ["io.weight=8:0 1"]),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
                      "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}]}},
         ["io.max=8:0 rbps=1000", "io.max=8:16 wiops=max"]),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": (4 << 20) + 1}]},
         [f"hugetlb.2MB.rsvd.max={4 << 20}", f"hugetlb.2MB.max={4 << 20}"]),
        ({"rdma": {"mlx5_0": {"hcaHandles": 2, "hcaObjects": 2000}}}, ["rdma.max=mlx5_0 hca_handle=2 hca_object=2000"]),
        ({"rdma": {"mlx5_0": {"hcaObjects": 1}}}, ["rdma.max=mlx5_0 hca_object=1"]),
        ({"unified": {"memory.high": "64M", "memory.min": "1m"}}, [f"memory.high={64 << 20}", f"memory.min={1 << 20}"]),
        ({"unified": {"memory.oom.group": "1"}}, ["memory.oom.group=1"]),
        ({"unified": {"memory.zswap.max": "0"}}, ["memory.zswap.max=0"]),
        ({"unified": {"memory.high": "default", "cpu.weight": "default"}}, ["cpu.weight=100", "memory.high=max"]),
        ({"unified": {"cpuset.cpus": "default"}}, ["cpuset.cpus="]),
        ({"unified": {"cpuset.cpus.partition": "isolated"}}, ["cpuset.cpus.partition=isolated"]),
        ({"unified": {"io.max": "8:0 wiops=5 rbps=max"}}, ["io.max=8:0 rbps=max wiops=5"]),
        ({"unified": {"io.weight": "200"}}, ["io.weight=default 200"]),
        ({"unified": {"io.weight": "default 200\n8:0 5"}}, ["io.weight=default 200", "io.weight=8:0 5"]),
        ({"unified": {"io.weight": "8:0 default"}}, ["io.weight=8:0 default"]),
        ({"unified": {"io.latency": "8:0 target=5000"}}, ["io.latency=8:0 target=5000"]),
        ({"unified": {"misc.max": "sev 2"}}, ["misc.max=sev 2"]),
        ({"memory": {"limit": GiB}, "cpu": {"cpus": "0"}, "pids": {"limit": 5}},
         ["cpuset.cpus=0", "pids.max=5", f"memory.max={GiB}"]),
    ],
)  # fmt: skip
def test_a_limit_becomes_a_value_of_a_file(resources: dict[str, Any], expected: list[str]) -> None:
    assert written(resources) == expected


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"memory": {"kernel": 1}}, r"linux\.resources\.memory\.kernel: exists in cgroups v1 only"),
        ({"memory": {"kernelTCP": 1}}, r"linux\.resources\.memory\.kernelTCP: exists in cgroups v1 only"),
        ({"memory": {"swappiness": 60}}, r"linux\.resources\.memory\.swappiness: exists in cgroups v1 only"),
        ({"memory": {"disableOOMKiller": True}}, r"linux\.resources\.memory\.disableOOMKiller: exists in cgroups v1"),
        ({"memory": {"useHierarchy": False}}, r"linux\.resources\.memory\.useHierarchy: cgroups v2 are always"),
        ({"cpu": {"realtimeRuntime": 1}}, r"linux\.resources\.cpu\.realtimeRuntime: exists in cgroups v1 only"),
        ({"cpu": {"realtimePeriod": 1}}, r"linux\.resources\.cpu\.realtimePeriod: exists in cgroups v1 only"),
        ({"blockIO": {"leafWeight": 10}}, r"linux\.resources\.blockIO\.leafWeight: exists in cgroups v1 only"),
        ({"blockIO": {"weight": 9}}, r"linux\.resources\.blockIO\.weight: must be from 10 to 1000, not 9"),
        ({"network": {"classID": 1}}, r"linux\.resources\.network\.classID: exists in cgroups v1 only"),
        ({"warp": {"limit": 1}}, r"linux\.resources\.warp: not supported yet"),
        ({"memory": {"limit": 1}}, r"memory\.max: '1': must be at least 4096 bytes, or max"),
        ({"memory": {"limit": "1G"}}, r"linux\.resources\.memory\.limit: must be an integer"),
        ({"memory": {"swap": 5}}, r"linux\.resources\.memory\.swap: needs a limit of memory"),
        ({"memory": {"limit": 2 * PAGE, "swap": PAGE}}, r"linux\.resources\.memory\.swap: 4096: includes memory"),
        ({"cpu": {"quota": 999}}, r"cpu\.max quota: '999': must be a number from 1000 to"),
        ({"cpu": {"period": 999}}, r"cpu\.max period: '999': must be a number from 1000 to 1000000"),
        ({"cpu": {"quota": 5000, "burst": 5001}}, r"linux\.resources\.cpu\.quota: 5000 µs: must not be below"),
        ({"cpu": {"idle": 1, "shares": 5}}, r"linux\.resources\.cpu\.shares: means nothing while cpu\.idle is 1"),
        ({"cpu": {"cpus": "3-1"}}, r"cpuset\.cpus: '3-1': must be a list such as 0-3, with 3-1 the other way round"),
        ({"cpu": {"mems": "x"}}, r"cpuset\.mems: 'x': must be a list"),
        ({"hugepageLimits": [{"pageSize": "2XB", "limit": 1}]}, r"hugetlb\.2XB\.rsvd\.max: is no limit"),
        ({"rdma": {"mlx5_0": {}}}, r"rdma\.max: '': must be one or more of hca_handle=, hca_object="),
        ({"unified": {"cgroup.freeze": "1"}}, r"cgroup\.freeze: is no limit that leafd knows"),
        ({"unified": {"memory.peak": "1"}}, r"memory\.peak: is no limit that leafd knows"),
        ({"unified": {"../x": "1"}}, r"\.\./x: is no limit that leafd knows"),
        ({"unified": {"pids.max": "0"}}, r"pids\.max: '0': must be a number from 1 to 4194304, or max"),
        ({"unified": {"memory.oom.group": "yes"}}, r"memory\.oom\.group: 'yes': must be one of 0, 1"),
        ({"unified": {"io.max": "sda rbps=1"}}, r"io\.max: 'sda rbps=1': must be a device as MAJOR:MINOR"),
        ({"unified": {"io.max": "8:0 rbps=1 rbps=2"}}, r"io\.max: 'rbps=2': must be one each of rbps="),
        ({"unified": {"io.weight": "0"}}, r"io\.weight: '0': must be a number from 1 to 10000"),
        ({"unified": {"cpu.weight": "10001"}}, r"cpu\.weight: '10001': must be a number from 1 to 10000"),
        ({"memory": {"limit": GiB}, "unified": {"memory.max": "1G"}}, r"memory\.max: another limit sets it already"),
    ],
)  # fmt: skip
def test_what_is_no_limit_is_refused_by_its_name(resources: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^({message}|linux\\.resources\\.unified\\.{message})"):
        written(resources)


def test_an_update_goes_on_from_what_is_in_force() -> None:
    bandwidth = {"cpu_max": "50000 20000", "cpu_max_burst": "10000"}
    assert written({"cpu": {"quota": 30000}}, **bandwidth) == ["cpu.max=30000 20000"]
    assert written({"cpu": {"period": 30000}}, **bandwidth) == ["cpu.max=50000 30000"]
    assert written({"cpu": {"quota": 5000, "burst": 1000}}, **bandwidth) == ["cpu.max.burst=1000", "cpu.max=5000 20000"]
    assert written({"cpu": {"quota": 90000, "burst": 80000}}, **bandwidth) == [
        "cpu.max=90000 20000",
        "cpu.max.burst=80000",
    ]
    with pytest.raises(InputError, match="quota: 5000 µs: must not be below the burst, 10000 µs"):
        written({"cpu": {"quota": 5000}}, **bandwidth)
    with pytest.raises(InputError, match="shares: means nothing while"):
        written({"cpu": {"shares": 5}}, cpu_idle="1")
    assert written({"memory": {"swap": 3 * GiB}}, memory_max=str(GiB)) == [f"memory.swap.max={2 * GiB}"]


def test_shares_and_blkio_weights_end_where_weights_do() -> None:
    assert [weight_of_shares(shares) for shares in (1, 2, 1024, 262_144, 2**64)] == [1, 1, 100, 10_000, 10_000]
    assert [weight_of_blkio(weight) for weight in (10, 1000)] == [1, 10_000]


@given(st.integers(2, 262_143))
def test_more_shares_never_weigh_less(shares: int) -> None:
    assert 1 <= weight_of_shares(shares) <= weight_of_shares(shares + 1) <= 10_000


@given(st.sets(st.integers(0, 200), min_size=1))
def test_a_list_names_the_same_numbers_in_its_shortest_form(numbers: set[int]) -> None:
    listed = check_list("cpuset.cpus", ",".join(map(str, numbers)))
    ranges = [part.split("-") for part in listed.split(",")]
    assert {n for ends in ranges for n in range(int(ends[0]), int(ends[-1]) + 1)} == numbers
    assert check_list("cpuset.cpus", listed) == listed


@given(st.integers(0, 2**70))
def test_sizes_are_whole_pages_and_their_own_fixed_point(count: int) -> None:
    rounded = size()("memory.low", str(count))
    if rounded == "max":
        assert count > 2**63 - 2 * PAGE
    else:
        assert count - PAGE < int(rounded) <= count
    assert size()("memory.low", rounded) == rounded


def test_every_default_is_a_value_of_its_file() -> None:
    for controller in CONTROLLERS:
        for name, file in controller.files.items():
            if not file.keyed:
                assert file.check(name, file.default) == file.default
