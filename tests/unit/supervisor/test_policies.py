"""--on-oom and its like: from text to the message."""

import pytest

from leafd.policies import policy
from leafshim.api.shim import Policy, Pressure
from leafshim.errors import InputError
from leafshim.policy import kills


def test_nothing_given_is_the_default() -> None:
    assert policy({}) == Policy()
    assert not any(kills(Policy(), kind) for kind in ("oom", "pids", "hugetlb", "pressure"))


def test_every_flag_is_in_the_message() -> None:
    assert policy({"on_oom": "kill", "on_pids": "event", "on_hugetlb": "kill"}) == Policy(
        oom="kill", pids="event", hugetlb="kill"
    )


@pytest.mark.parametrize(
    ("text", "pressure"),
    [
        ("memory:150ms/1s=kill", Pressure(resource="memory", stall=150_000, window=1_000_000, action="kill")),
        ("io-full:500us/10s", Pressure(resource="io", full=True, stall=500, window=10_000_000, action="event")),
        ("cpu:1s/1000ms=event", Pressure(resource="cpu", stall=1_000_000, window=1_000_000, action="event")),
    ],
)
def test_pressure(text: str, pressure: Pressure) -> None:
    assert policy({"on_pressure": [text]}).pressure == [pressure]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "memory",
        "memory:1s",
        "memory:1/1s",
        "memory:1s/1us",
        "memory:1s/1s=",
        "memory:0ms/1s",
        "Memory:1s/2s",
        "io:1s/11s",
    ],
)
def test_what_is_no_pressure_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="pressure"):
        policy({"on_pressure": [text]})


def test_each_trigger_has_a_policy_of_its_own() -> None:
    wanted = policy({"on_pressure": ["cpu:100ms/1s=kill", "cpu-full:100ms/1s", "cpu:200ms/1s", "io:100ms/1s"]})
    hit = {"stall": 100_000, "window": 1_000_000, "full": 0}
    assert kills(wanted, "pressure", "cpu", hit)
    assert not kills(wanted, "pressure", "cpu", {**hit, "full": 1})
    assert not kills(wanted, "pressure", "cpu", {**hit, "stall": 200_000})
    assert not kills(wanted, "pressure", "io", hit)
