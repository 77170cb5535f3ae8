"""Limits that were changed, one after the other, as the limits of a new container."""

import json
from typing import Any

import pytest

from leafshim.cgroup.amend import amend, unified
from leafshim.cgroup.isolator import Settings, rule, translate
from leafshim.spec import load_resources

MiB = 1 << 20


def settings(in_force: dict[str, str] | None = None, **resources: Any) -> Settings:
    def held(file: str) -> str:
        return (in_force or {}).get(file, rule(file).default)

    return translate(load_resources(json.dumps(resources).encode()).limits, held)


def after(*changes: Settings) -> dict[str, str]:
    merged: Settings = ()
    for change in changes:
        merged = amend(merged, change)
    return unified(merged)


def test_the_last_change_wins_and_the_rest_stays() -> None:
    made = settings(memory={"limit": 64 * MiB, "reservation": MiB}, pids={"limit": 5})
    assert after(made, settings(memory={"limit": 128 * MiB})) == {
        "memory.low": str(MiB),
        "memory.max": str(128 * MiB),
        "pids.max": "5",
    }


@pytest.mark.parametrize(
    "resources",
    [
        {"memory": {"limit": 64 * MiB, "reservation": MiB, "swap": 96 * MiB}},
        {"cpu": {"quota": 50_000, "period": 50_000, "burst": 1_000, "shares": 2048, "cpus": "0-1", "mems": "0"}},
        {"pids": {"limit": 5}},
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MiB}]},
        {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]}},
        {"unified": {"memory.high": "64M", "memory.oom.group": "1", "io.weight": "default 300\n8:0 50"}},
        {"unified": {"misc.max": "sev 4\nsev_es 5", "io.latency": "8:0 target=75", "cpu.idle": "1"}},
        {"rdma": {"mlx4_0": {"hcaHandles": 3}}},
    ],
)
def test_what_is_switched_off_is_no_limit_any_more(resources: dict[str, Any]) -> None:
    made = settings(**resources)
    assert after(made)
    off = [each._replace(value=default(each.file, each.key)) for each in made]
    assert after(made, tuple(off)) == {}


def default(file: str, key: str) -> str:
    if not rule(file).keyed:
        return rule(file).default
    return "default 100" if key == "default" else f"{key} {rule(file).default}"


@pytest.mark.parametrize("limit", [-1, 0])
def test_pids_without_a_limit_are_no_setting(limit: int) -> None:
    assert after(settings(pids={"limit": 9}), settings(pids={"limit": limit})) == {}


def test_lines_of_a_device_are_one_and_others_stay() -> None:
    first = settings(unified={"io.max": "8:0 rbps=5 wiops=7\n8:16 wbps=9"})
    assert after(first, settings(unified={"io.max": "8:0 rbps=6"})) == {"io.max": "8:16 wbps=9\n8:0 rbps=6 wiops=7"}
    assert after(first, settings(unified={"io.max": "8:0 rbps=max"})) == {"io.max": "8:16 wbps=9\n8:0 wiops=7"}
    weights = settings(unified={"io.weight": "default 300\n8:0 50"})
    assert after(weights, settings(unified={"io.weight": "8:0 default"})) == {"io.weight": "default 300"}


def test_a_quota_keeps_the_period_that_is_in_force() -> None:
    made = settings(cpu={"quota": 10_000, "period": 50_000})
    assert after(made, settings(unified={"cpu.max": "20000"})) == {"cpu.max": "20000 50000"}
    assert after(settings(unified={"cpu.max": "20000"})) == {"cpu.max": "20000"}


def test_idle_takes_the_weight_away_as_the_kernel_does() -> None:
    weight, idle = settings(unified={"cpu.weight": "300"}), settings(cpu={"idle": 1})
    assert after(weight, idle) == {"cpu.idle": "1"}
    assert after(weight, idle, settings(cpu={"idle": 0})) == {}


def test_the_order_is_that_of_the_changes() -> None:
    made = settings(cpu={"quota": 50_000, "burst": 20_000})
    lower = settings({"cpu.max": "50000 100000", "cpu.max.burst": "20000"}, cpu={"quota": 10_000, "burst": 5_000})
    assert list(after(made, lower)) == ["cpu.max.burst", "cpu.max"]


def test_it_can_be_read_again_and_comes_to_the_same() -> None:
    made = after(
        settings(
            memory={"limit": 64 * MiB, "swap": 96 * MiB},
            cpu={"quota": 50_000, "cpus": "0,1"},
            blockIO={"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]},
            hugepageLimits=[{"pageSize": "2MB", "limit": 4 * MiB}],
            rdma={"mlx4_0": {"hcaHandles": 3}},
            unified={"misc.max": "sev 4", "memory.high": "60M"},
        )
    )
    assert after(settings(unified=made)) == made
