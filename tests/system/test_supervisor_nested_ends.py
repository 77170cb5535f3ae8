"""How nested containers end: by themselves, with their parent, and not at all. Mesos's names are in brackets."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from leafd.describe import Document, describe
from leafd.describe_nested import describe_nested
from leafshim.api.containers import Container
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import AlreadyExists, NotFound, StateError
from leafshim.state import DESTROYING, RUNNING, STOPPED
from tests.harness.leafd import Leafd

SLEEP = describe(("sleep", "1000"))
NESTED = describe_nested(("sleep", "1000"))


def _sh(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def test_an_end_of_a_nested_container_is_its_own(leafd: Leafd) -> None:
    """[DestroyNested, TerminatedNestedStatus, WaitAfterDestroy]"""
    with leafd.client as client:
        outer = client.create("web", SLEEP, start=True)
        client.create("web/db", describe_nested(_sh("exit 3")), start=True)
        assert _status(client.wait("web/db")) == 3
        killed = client.create("web/log", NESTED, start=True)
        assert _status(client.stop("web/log", grace=0)) == 137
        assert _status(client.wait("web/log")) == 137, "a wait after the end has the same answer"
        assert not os.path.exists(killed.cgroup)
        assert client.inspect("web").pid == outer.pid
        assert Cgroup(outer.leaf).processes() == [outer.pid]
        assert _status(client.inspect("web/db")) == 3, "it stays readable as long as its parent is there"
        client.stop("web", grace=0)
        assert _status(client.inspect("web/db")) == 3
        client.remove("web")
        with pytest.raises(NotFound, match="web/db: no such container"):
            client.wait("web/db")


def test_a_nested_container_is_removed_alone(leafd: Leafd) -> None:
    """[Remove]"""
    with leafd.client as client:
        client.create("web", SLEEP, start=True)
        client.create("web/db", NESTED, start=True)
        client.create("web/db/log", NESTED, start=True)
        with pytest.raises(StateError, match="web/db: RUNNING: stop it first, or use force"):
            client.remove("web/db")
        client.stop("web/db", grace=0)
        client.remove("web/db")
        assert [each.id for each in client.list()] == ["web"], "with what is nested in it"
        assert sorted(os.listdir(leafd.root / "containers")) == ["web"]
        client.create("web/db", NESTED, start=True)
        client.remove("web", force=True)
        assert client.list() == []
        assert not os.path.exists(f"{leafd.cgroups_root}/web")


def test_nested_containers_end_before_their_parent(leafd: Leafd) -> None:
    """[DestroyParent]"""
    with leafd.client as client:
        for container_id in ("web", "web/db", "web/db/log", "web/x"):
            client.create(container_id, SLEEP if container_id == "web" else NESTED, start=True)
        client.stop("web", grace=0)
        ends = [event.id for event in client.events() if event.type == "exit"]
    assert sorted(ends) == ["web", "web/db", "web/db/log", "web/x"]
    assert ends[0] == "web/db/log"
    assert ends[-1] == "web"


def test_a_parent_that_exits_takes_all_along(leafd: Leafd, tmp_path: Path) -> None:
    """[ParentExit]"""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    mount: Document = {"destination": "/told", "type": "bind", "source": str(fifo), "options": ["bind", "rw"]}
    with leafd.client as client:
        client.create("web", describe(_sh("read word < /told; exit 4"), mounts=[mount]), start=True)
        client.create("web/db", NESTED, start=True)
        client.create("web/pid", describe_nested(("sleep", "1000"), share=["pid"]), start=True, share=["pid"])
        fifo.write_text("end\n")
        assert _status(client.wait("web")) == 4
        assert _status(client.inspect("web/db")) == 137
        assert _status(client.inspect("web/pid")) == 137
        assert not os.path.exists(f"{leafd.cgroups_root}/web")


def test_a_parent_that_is_told_to_end_takes_all_along(leafd: Leafd) -> None:
    """[ParentSigterm]"""
    ends = describe(_sh("trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"))
    with leafd.client as client:
        client.create("web", ends, start=True)
        with client.logs("web", follow=True) as log:
            next(iter(log))
        client.create("web/db", NESTED, start=True)
        client.kill("web", signal.SIGTERM)
        assert _status(client.wait("web")) == 5
        assert client.inspect("web/db").state == STOPPED


@pytest.mark.parametrize("share", [["pid"], []])
def test_a_restart_policy_ends_with_the_parent_and_that_of_the_parent_goes_on(leafd: Leafd, share: list[str]) -> None:
    document = describe_nested(("sleep", "1000"), share=share)
    with leafd.client as client:
        before = client.create("web", SLEEP, start=True, restart="always")
        client.create("web/db", document, start=True, restart="always", share=share)
        client.kill("web")
        with client.events(follow=True, container_id="web") as events:
            next(event for event in events if event.type == "restarted")
        ended = client.wait("web/db")
        assert (ended.state, ended.parent) == (STOPPED, "web")
        after = client.inspect("web")
        assert (after.state, after.restarts) == (RUNNING, 1)
        assert after.pid != before.pid
        with pytest.raises(AlreadyExists, match="web/db: a container of that name exists"):
            client.create("web/db", document, share=share)
        client.create("web/db2", document, start=True, share=share)
        client.stop("web", grace=0)


def test_all_who_ask_for_an_end_get_the_same_one(leafd: Leafd) -> None:
    with leafd.client as client, ThreadPoolExecutor(4) as pool:
        client.create("web", SLEEP, start=True)
        client.create("web/db", NESTED, start=True)

        def stop(container_id: str) -> int | None:
            with leafd.client as own:
                return _status(own.stop(container_id, grace=0))

        assert list(pool.map(stop, ["web", "web/db", "web", "web/db"])) == [137] * 4
        ends = [event.id for event in client.events() if event.type == "exit"]
        assert sorted(ends) == ["web", "web/db"]


def test_nobody_is_nested_in_what_is_ending(leafd: Leafd) -> None:
    """[Destroy, from RUNNING]"""
    stubborn = describe_nested(_sh("trap '' TERM; echo ready; while :; do sleep 0.01; done"))
    with leafd.client as client, leafd.client as other:
        client.create("web", SLEEP, start=True)
        client.create("web/db", stubborn, start=True)
        with client.logs("web/db", follow=True) as log:
            next(iter(log))
        stopping = threading.Thread(target=lambda: other.stop("web", grace=1000))
        stopping.start()
        while client.inspect("web").state == RUNNING:
            pass
        assert client.inspect("web").state == DESTROYING
        with pytest.raises(StateError, match="web/late: web is DESTROYING"):
            client.create("web/late", NESTED)
        client.stop("web", grace=0)
        stopping.join()
        assert [each.state for each in client.list()] == [STOPPED, STOPPED]


def test_an_end_in_the_middle_of_a_nested_launch_waits_for_it(leafd: Leafd) -> None:
    """[DestroyWhilePreparing]"""
    with leafd.client as client, leafd.client as other, ThreadPoolExecutor(1) as pool:
        client.create("web", SLEEP, start=True)
        launch = pool.submit(other.create, "web/db", NESTED, start=True)
        while len(client.list()) < 2:
            pass
        client.stop("web", grace=0)
        launch.result()
        assert [(each.id, each.state) for each in client.list()] == [("web", STOPPED), ("web/db", STOPPED)]
        assert not os.path.exists(f"{leafd.cgroups_root}/web")


def test_what_is_not_there_cannot_end(leafd: Leafd) -> None:
    """[DestroyUnknownContainer, WaitForUnknown]"""
    with leafd.client as client:
        client.create("web", SLEEP, start=True)
        for ask in (client.stop, client.wait, client.remove, client.kill):
            for container_id in ("db", "web/db"):
                with pytest.raises(NotFound, match=f"{container_id}: no such container"):
                    ask(container_id)


def _status(container: Container) -> int | None:
    assert container.state == STOPPED
    assert container.exit is not None
    return container.exit.status


@pytest.mark.vm
def test_a_nested_container_that_does_not_end_fails_its_parent(patient: Leafd) -> None:
    """[LauncherDestroyFailure] A thread of the kernel takes no signal, and keeps the cgroup that it is in."""
    with patient.client as client:
        outer = client.create("web", SLEEP, start=True)
        inner = client.create("web/db", NESTED, start=True)
        immortal = _kernel_thread()
        Cgroup(inner.leaf).write("cgroup.procs", str(immortal))
        try:
            stuck = rf"web: what is nested in it does not end: web/db: does not end: held by {immortal} \("
            for _ in range(2):
                with pytest.raises(StateError, match=stuck):
                    client.stop("web", grace=0)
            assert [each.state for each in client.list()] == [DESTROYING, DESTROYING]
            assert Cgroup(outer.leaf).processes() == [outer.pid], "nested ones come first"
            assert "held by" in client.inspect("web/db").problem
        finally:
            Cgroup(os.path.dirname(patient.cgroups_root)).write("cgroup.procs", str(immortal))
        assert _status(client.stop("web", grace=0)) == 137
        assert client.stop("web/db").problem == ""
        assert not os.path.exists(outer.cgroup)


def _kernel_thread() -> int:
    """One that may be moved to another cgroup."""
    for entry in Path("/proc").glob("[0-9]*/comm"):
        if entry.read_text().strip() in ("khugepaged", "oom_reaper", "ksmd"):
            return int(entry.parent.name)
    raise AssertionError("this kernel has none of its threads that every kernel has")


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Leafd]:
    """A leafd that is patient with a slow machine, but not with what does not end."""
    config = tmp_path / "leafd.toml"
    config.write_text("call_deadline = 15.0\nreap_deadline = 2.0\n")
    installation = Leafd(tmp_path)
    try:
        installation.start("--config", str(config))
        yield installation
    finally:
        installation.close()
