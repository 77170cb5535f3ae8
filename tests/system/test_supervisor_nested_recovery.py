"""Nested containers, and their cgroups, as the next leafd finds them. Mesos's names of tests are in brackets."""

import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from leafd.client import Client
from leafd.describe import Document, describe
from leafd.describe_nested import DEBUG, describe_nested
from leafshim.api.containers import Container
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import StateError
from leafshim.state import RUNNING, STOPPED

if TYPE_CHECKING:
    from tests.harness.leafd import Leafd

SLEEP = describe(("sleep", "1000"))
NESTED = describe_nested(("sleep", "1000"))


def _family(client: Client, *ids: str) -> dict[str, Container]:
    return {
        container_id: client.create(container_id, NESTED if "/" in container_id else SLEEP, start=True)
        for container_id in ids
    }


def _known(container: Container) -> tuple[object, ...]:
    return container.pid, container.shim_pid, container.state, container.parent, container.shared_cgroup


@contextmanager
def _end_of(*pids: int) -> Iterator[None]:
    """Leaving the block waits until these processes have ended."""
    descriptors = [os.pidfd_open(pid) for pid in pids]
    yield
    for fd in descriptors:
        assert select.select([fd], [], [], 60)[0]
        os.close(fd)


def _exits(client: Client, container_id: str) -> list[int | None]:
    ends = [event.exit for event in client.events(container_id=container_id) if event.type == "exit"]
    return [end.status for end in ends if end is not None]


def test_a_family_is_found_again(leafd: "Leafd") -> None:
    """[RecoverNested]"""
    with leafd.client as client:
        _family(client, "web", "web/db", "web/db/log")
        client.create("apart", SLEEP, start=True)
        client.create("apart/db", NESTED, start=True, share_cgroups=False)
        before = client.list()
    leafd.kill()
    leafd.start()
    with leafd.client as client:
        assert [_known(each) for each in client.list()] == [_known(each) for each in before]
        with pytest.raises(StateError, match="apart/x: apart/db, which lives beside it"):
            client.create("apart/x", NESTED)
        assert client.create("web/db/late", NESTED, start=True).state == RUNNING
        client.stop("web/db", grace=0)
        assert {each.id: each.state for each in client.list()} == {
            "apart": RUNNING,
            "apart/db": RUNNING,
            "web": RUNNING,
            "web/db": STOPPED,
            "web/db/late": STOPPED,
            "web/db/log": STOPPED,
        }
        client.remove("web", force=True)
        assert [each.id for each in client.list()] == ["apart", "apart/db"]


@pytest.mark.parametrize("lost", ["container", "config.json"])
def test_a_nested_container_without_a_record_or_a_description_lives_on(leafd: "Leafd", lost: str) -> None:
    """[RecoverNestedWithoutState, RecoverNestedWithoutConfig]"""
    with leafd.client as client:
        before = _family(client, "web", "web/db")["web/db"]
    leafd.kill()
    (leafd.root / "containers" / "web:db" / lost).unlink()
    leafd.start()
    with leafd.client as client:
        after = client.inspect("web/db")
        assert _known(after) == _known(before)
        if lost == "config.json":
            with pytest.raises(StateError, match=r"web/db: its description cannot be read: .*No such file"):
                client.create("web/db/log", NESTED)
        client.stop("web", grace=0)
        assert _exits(client, "web/db") == [137]


def test_a_debug_container_ends_when_leafd_is_back(leafd: "Leafd") -> None:
    """[DestroyDebugContainerOnRecover]"""
    debug = describe_nested(("sleep", "1000"), container_class=DEBUG)
    with leafd.client as client:
        before = _family(client, "web", "web/db")
        client.create("web/debug", debug, start=True, container_class=DEBUG)
        client.create("web/db/debug", debug, start=True, container_class=DEBUG)
        client.recover()
        assert client.inspect("web/debug").state == RUNNING, "a look at everything is no restart"
    leafd.kill()
    leafd.start()
    with leafd.client as client:
        for container_id in ("web/debug", "web/db/debug"):
            ended = client.wait(container_id)
            assert ended.state == STOPPED
            assert _exits(client, container_id) in ([143], [137]), "it was asked, and then made to"
            assert not os.path.exists(ended.cgroup)
        for container_id, was in before.items():
            assert _known(client.inspect(container_id)) == _known(was)


def test_a_parent_that_ended_meanwhile_takes_all_along(leafd: "Leafd") -> None:
    """[ParentExit, while the agent is down]"""
    with leafd.client as client:
        family = _family(client, "web", "web/db", "web/db/log")
    leafd.kill()
    with _end_of(family["web"].pid):
        os.kill(family["web"].pid, 9)
    assert Cgroup(family["web/db"].leaf).processes() == [family["web/db"].pid], "nobody is there to end it"
    leafd.start()
    with leafd.client as client:
        assert client.wait("web").state == STOPPED
        for container_id in family:
            assert _exits(client, container_id) == [137]
        assert [each.state for each in client.list()] == [STOPPED] * 3
        assert not os.path.exists(family["web"].cgroup)


def test_a_nested_container_that_ended_meanwhile_is_told_once(leafd: "Leafd") -> None:
    """[RecoverNested, terminated while down]"""
    with leafd.client as client:
        family = _family(client, "web", "web/db")
    leafd.kill()
    with _end_of(family["web/db"].pid):
        os.kill(family["web/db"].pid, 9)
    for _ in range(2):
        leafd.start()
        with leafd.client as client:
            assert client.wait("web/db").state == STOPPED
            assert _exits(client, "web/db") == [137]
            assert client.inspect("web").state == RUNNING
        leafd.kill()


@pytest.mark.parametrize("names", [["x"], ["x", "y", "x/mesos/deep"]])
def test_nested_orphans_are_reaped_and_their_parent_lives(leafd: "Leafd", names: list[str]) -> None:
    """[RecoverLauncherOrphans, nested orphans, single and several]"""
    with leafd.client as client:
        family = _family(client, "web", "web/db")
    leafd.kill()
    sleepers = []
    for name in names:
        orphan = Cgroup(f"{family['web'].cgroup}/mesos/{name}")
        orphan.create()
        orphan.child("leaf").create()
        sleepers.append(subprocess.Popen(["sleep", "1000"]))
        orphan.child("leaf").write("cgroup.procs", str(sleepers[-1].pid))
    leafd.start()
    for each in sleepers:
        assert each.wait(60) == -9
    with leafd.client as client:
        outermost = {f"{family['web'].cgroup}/mesos/{name}" for name in names if "/" not in name}
        with client.events(follow=True) as events:
            reaped = (event.message.split()[1].rstrip(":") for event in events if event.message.startswith("cgroup "))
            assert {path for _, path in zip(outermost, reaped, strict=False)} == outermost
        for name in names:
            assert not os.path.exists(f"{family['web'].cgroup}/mesos/{name}")
        for container_id, was in family.items():
            assert _known(client.inspect(container_id)) == _known(was)
        assert len([event for event in client.events() if event.message.startswith("cgroup ")]) == len(outermost)


def test_what_is_nested_in_nobody_goes_with_its_parents_cgroups(leafd: "Leafd") -> None:
    with leafd.client as client:
        family = _family(client, "web", "web/db", "web/db/log", "other")
    leafd.kill()
    (leafd.root / "containers" / "web").rename(leafd.root / "web")
    leafd.start()
    with leafd.client as client:
        with client.events(follow=True) as events:
            next(event for event in events if event.message.startswith(f"cgroup {family['web'].cgroup}"))
        assert [each.id for each in client.list()] == ["other"]
        assert not os.path.exists(family["web"].cgroup)


def test_the_workloads_own_cgroups_are_no_containers(leafd: "Leafd") -> None:
    """[RecoverNested; what Mesos does not survive]"""
    with leafd.client as client:
        family = _family(client, "web", "web/db")
        for each in family.values():
            for name in ("mesos", "mesos/x", "mesos/x/leaf", "agent", "web"):
                os.mkdir(f"{each.leaf}/{name}")
    leafd.kill()
    leafd.start()
    with leafd.client as client:
        client.recover()
        assert [_known(each) for each in client.list()] == [_known(each) for each in family.values()]
        assert not [event for event in client.events() if event.message.startswith("cgroup ")]
        client.remove("web", force=True)
        assert not os.path.exists(family["web"].cgroup)


def test_a_nested_container_outlives_its_shim(leafd: "Leafd") -> None:
    with leafd.client as client:
        family = _family(client, "web", "web/db")
    leafd.kill()
    with _end_of(family["web/db"].shim_pid):
        os.kill(family["web/db"].shim_pid, 9)
    leafd.start()
    with leafd.client as client:
        found = client.inspect("web/db")
        assert (found.state, found.pid) == (RUNNING, family["web/db"].pid)
        client.stop("web", grace=0)
        assert _exits(client, "web/db") == [137]


def test_an_end_that_leafd_did_not_survive_goes_on_nested_first(leafd: "Leafd") -> None:
    stubborn: Document = describe_nested(("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done"))
    with leafd.client as client:
        client.create("web", SLEEP, start=True)
        client.create("web/db", stubborn, start=True)
        with client.logs("web/db", follow=True) as log:
            next(iter(log))
        stopping = subprocess.Popen(leafd.command("stop", "-t", "1000", "web"), stderr=subprocess.DEVNULL)
        while client.inspect("web/db").state == RUNNING:
            pass
    leafd.kill()
    stopping.wait(60)
    leafd.start()
    with leafd.client as client:
        assert client.wait("web").state == STOPPED
        assert [event.id for event in client.events() if event.type == "exit"] == ["web/db", "web"]
