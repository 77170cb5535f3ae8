"""Whose limit it was: from counters alone, without a kernel."""

import pytest

from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.cgroup.limitation import Counters, growth, lineage
from leafshim.cgroup.memory import MemoryController

ROOT = f"{find_mount().rstrip('/')}/nobody"
WEB = Cgroup(f"{ROOT}/web")
PAST: Counters = {"kills": 3, "inside": 1, WEB.path: 7, ROOT: 2}


@pytest.mark.parametrize(
    ("before", "now", "grown"),
    [({}, {}, 0), ({}, {"a": 2}, 2), ({"a": 2}, {"a": 2}, 0), ({"a": 2}, {"a": 5}, 3), ({"a": 5}, {"a": 1}, 1)],
)
def test_growth(before: Counters, now: Counters, grown: int) -> None:
    assert growth(before, now, "a") == grown


def test_lineage_ends_below_the_mount() -> None:
    assert [each.path for each in lineage(WEB)] == [WEB.path, ROOT]
    assert list(lineage(Cgroup(find_mount()))) == []


@pytest.mark.parametrize(
    ("grown", "scope", "owner"),
    [
        ({WEB.path: 1}, "own", WEB.path),
        ({ROOT: 1}, "ancestor", ROOT),
        ({WEB.path: 1, ROOT: 1}, "own", WEB.path),
        ({"inside": 1, WEB.path: 1}, "inside", f"{WEB.path}/leaf"),
        ({}, "host", ""),
    ],
)
def test_the_nearest_limit_that_was_hit_is_the_one(grown: Counters, scope: str, owner: str) -> None:
    now = {name: count + grown.get(name, 0) for name, count in PAST.items()} | {"kills": PAST["kills"] + 2}
    (found,) = MemoryController().judge(WEB, PAST, now, None)
    assert (found.kind, found.scope, found.cgroup, found.figures["kills"]) == ("oom", scope, owner, 2)


def test_a_limit_that_was_hit_without_a_victim_here_is_no_oom_of_ours() -> None:
    """A nested container's, say: it has a count of its own."""
    assert list(MemoryController().judge(WEB, PAST, {**PAST, WEB.path: 8, ROOT: 3}, None)) == []


def test_a_past_oom_is_none() -> None:
    assert list(MemoryController().judge(WEB, PAST, dict(PAST), None)) == []
