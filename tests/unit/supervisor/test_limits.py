"""The flags of limits, all the way: what linux.resources says, and what becomes of it in the kernel's files."""

import json
import os
from pathlib import Path
from typing import get_type_hints

import pytest

from leafd import limits
from leafd.limits import Flags
from leafshim.cgroup.isolator import translate
from leafshim.errors import InputError, KernelError, Unsupported
from leafshim.spec import load_resources

MiB = 1 << 20


def written(flags: Flags) -> list[str]:
    settings = translate(load_resources(json.dumps(limits.resources(flags)).encode()).limits)
    return [f"{setting.file}={setting.value}" for setting in settings]


@pytest.mark.parametrize(
    ("flags", "resources", "files"),
    [
        ({}, {}, []),
        ({"memory": None, "io_max": ()}, {}, []),
        ({"memory": "256M"}, {"memory": {"limit": 256 * MiB}}, [f"memory.max={256 * MiB}"]),
        ({"memory": "max"}, {"memory": {"limit": -1}}, ["memory.max=max"]),
        ({"memory_low": "64M"}, {"memory": {"reservation": 64 * MiB}}, [f"memory.low={64 * MiB}"]),
        ({"memory_low": "0"}, {"memory": {"reservation": 0}}, ["memory.low=0"]),
        ({"memory_high": "64M"}, {"unified": {"memory.high": str(64 * MiB)}}, [f"memory.high={64 * MiB}"]),
        ({"memory_high": "max"}, {"unified": {"memory.high": "max"}}, ["memory.high=max"]),
        ({"memory": "1G", "memory_swap": "1G"}, {"memory": {"limit": 1 << 30, "swap": 1 << 30}},
         ["memory.swap.max=0", f"memory.max={1 << 30}"]),
        ({"memory_swap": "max"}, {"memory": {"swap": -1}}, ["memory.swap.max=max"]),
        ({"cpus": "1.5"}, {"cpu": {"quota": 150_000, "period": 100_000}}, ["cpu.max=150000 100000"]),
        ({"cpus": "0.01"}, {"cpu": {"quota": 1000, "period": 100_000}}, ["cpu.max=1000 100000"]),
        ({"cpus": "max"}, {"cpu": {"quota": -1, "period": 100_000}}, ["cpu.max=max 100000"]),
        ({"cpu_weight": "250"}, {"unified": {"cpu.weight": "250"}}, ["cpu.weight=250"]),
        ({"cpuset_cpus": "0,1"}, {"cpu": {"cpus": "0-1"}}, ["cpuset.cpus=0-1"]),
        ({"cpuset_mems": "0"}, {"cpu": {"mems": "0"}}, ["cpuset.mems=0"]),
        ({"cpuset_cpus": "default"}, {"unified": {"cpuset.cpus": "default"}}, ["cpuset.cpus="]),
        ({"pids": "100"}, {"pids": {"limit": 100}}, ["pids.max=100"]),
        ({"pids": "max"}, {"pids": {"limit": -1}}, ["pids.max=max"]),
        ({"io_max": ["8:0,rbps=1M,wiops=max"]},
         {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": MiB}],
                      "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}]}},
         [f"io.max=8:0 rbps={MiB}", "io.max=8:0 wiops=max"]),
        ({"io_weight": ["200", "8:0=5", "8:16=default"]},
         {"unified": {"io.weight": "default 200\n8:0 5\n8:16 default"}},
         ["io.weight=default 200", "io.weight=8:0 5", "io.weight=8:16 default"]),
        ({"hugetlb": ["2MB=64M", "1GB=0"]},
         {"hugepageLimits": [{"pageSize": "2MB", "limit": 64 * MiB}, {"pageSize": "1GB", "limit": 0}]},
         [f"hugetlb.2MB.rsvd.max={64 * MiB}", f"hugetlb.2MB.max={64 * MiB}",
          "hugetlb.1GB.rsvd.max=0", "hugetlb.1GB.max=0"]),
        ({"hugetlb": ["2MB=max"]}, {"hugepageLimits": [{"pageSize": "2MB", "limit": 2**64 - 1}]},
         ["hugetlb.2MB.rsvd.max=max", "hugetlb.2MB.max=max"]),
        ({"unified": ["memory.oom.group=1", "misc.max=sev 2", "misc.max=sev_es 3", "cpu.max=default"]},
         {"unified": {"memory.oom.group": "1", "misc.max": "sev 2\nsev_es 3", "cpu.max": "default"}},
         ["cpu.max=max 100000", "misc.max=sev 2", "misc.max=sev_es 3", "memory.oom.group=1"]),
        ({"io_weight": ["200"], "unified": ["io.weight=8:0 5"]}, {"unified": {"io.weight": "default 200\n8:0 5"}},
         ["io.weight=default 200", "io.weight=8:0 5"]),
    ],
)  # fmt: skip
def test_a_flag_is_what_the_documentation_says(flags: Flags, resources: dict[str, object], files: list[str]) -> None:
    assert limits.resources(flags) == resources
    assert written(flags) == files


@pytest.mark.parametrize(
    ("text", "count"), [("1", 1), ("10b", 10), ("4k", 4096), ("64M", 64 << 20), ("1GiB", 1 << 30), ("2tb", 2 << 40)]
)
def test_sizes(text: str, count: int) -> None:
    assert limits.size("--memory", text) == count


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        *(({"memory": text}, f"--memory {text}: must be a size") for text in ("", "0", "-1", "1.5G", "M", "1x", "1 0")),
        *(({"cpuset_cpus": text}, "--cpuset-cpus: ") for text in ("", "a", "0-", "-1", "0,,1", "٣", "2-1")),
        *(({"cpus": text}, f"--cpus {text}: must be") for text in ("0", "0.001", "nan", "-1", "many", "1e3")),
        *(({"pids": text}, f"--pids {text}: must be 1 or more") for text in ("0", "-1", "x")),
        *(({"cpu_weight": text}, f"--cpu-weight {text}: must be 1 to 10000") for text in ("0", "10001")),
        ({"io_max": ["8:0"]}, "--io-max 8:0: must be DEVICE,rbps=RATE"),
        ({"io_max": ["8:0,speed=1"]}, "--io-max 8:0,speed=1: speed=1: must be one of rbps"),
        ({"io_max": ["8:0,rbps=x"]}, "--io-max rbps x: must be a size"),
        ({"io_max": ["/dev/null,rbps=1"]}, "--io-max /dev/null: must be a block device"),
        ({"io_weight": ["8:0=0"]}, "--io-weight 0: must be 1 to 10000"),
        ({"hugetlb": ["64M"]}, "--hugetlb 64M: must be PAGESIZE=SIZE"),
        *(({"unified": [text]}, f"--unified {text}: must be FILE=VALUE") for text in ("", "memory.max", "=1")),
    ],
)
def test_a_bad_value_is_refused_by_its_flag(flags: Flags, message: str) -> None:
    with pytest.raises(InputError) as refused:
        limits.resources(flags)
    assert str(refused.value).startswith(message)


def test_a_disk_may_be_named_by_its_path(tmp_path: Path) -> None:
    node = tmp_path / "disk"
    os.mknod(node, 0o60600, os.makedev(8, 16))
    assert written({"io_max": [f"{node},riops=5"]}) == ["io.max=8:16 riops=5"]
    with pytest.raises(KernelError, match=r"--io-max: stat .*gone: No such file"):
        limits.resources({"io_max": [f"{node}gone,riops=5"]})


def test_a_file_is_set_once() -> None:
    with pytest.raises(InputError, match=r"^memory\.high: '67108864\\n1': must be bytes"):
        written({"memory_high": "64M", "unified": ["memory.high=1"]})


def test_a_file_whose_controller_is_missing_is_named() -> None:
    with pytest.raises(Unsupported, match=r"^--unified: this host has no misc controller in /sys/x \(there: cpu\)"):
        limits.require({"unified": ["cpu.idle=1", "misc.max=sev 2"]}, ["cpu"], "/sys/x")


@pytest.mark.parametrize("name", [name for name, controller in limits.CONTROLLERS.items() if controller])
def test_a_missing_controller_is_named_with_its_flag(name: str) -> None:
    flags: Flags = {name: "1"}  # type: ignore[misc]
    flag, controller = limits.flag(name), limits.CONTROLLERS[name]
    with pytest.raises(
        Unsupported, match=rf"^{flag}: this host has no {controller} controller in /sys/x \(there: misc\)"
    ):
        limits.require(flags, ["misc"], "/sys/x")
    limits.require(flags, [controller], "/sys/x")


def test_every_flag_has_its_controller() -> None:
    assert limits.CONTROLLERS.keys() == get_type_hints(Flags).keys()
