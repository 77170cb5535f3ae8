"""One supervisor: launches, ends, restarts, and what it refuses. Real containers on the real kernel."""

import os
import select
import signal
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from leafd.client import Client
from leafd.describe import Document, describe
from leafshim.errors import AlreadyExists, DeadlineExceeded, InputError, LeafError, NotFound, StateError
from leafshim.state import ISOLATING, RUNNING, STOPPED

if TYPE_CHECKING:
    from tests.harness.leafd import Leafd

SLEEP = ("sleep", "1000")


def _sh(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def test_a_container_from_create_to_remove(leafd: "Leafd") -> None:
    with leafd.client as client:
        made = client.create("web", describe(SLEEP), labels={"tier": "front"})
        assert made.state == ISOLATING
        assert made.pid in _members(made.leaf)
        started = client.start("web")
        assert (started.state, started.pid) == (RUNNING, made.pid)
        assert started.shim_pid in _members(f"{leafd.cgroups_root}/agent/shims")
        with pytest.raises(StateError, match="web: RUNNING: only what is ISOLATING can be started"):
            client.start("web")
        with pytest.raises(StateError, match="web: RUNNING: stop it first, or use force"):
            client.remove("web")
        client.kill("web", signal.SIGKILL)
        ended = client.wait("web")
        assert ended.state == STOPPED
        assert ended.exit is not None
        assert (ended.exit.status, ended.exit.signal, ended.exit.cause) == (137, 9, "killed")
        assert ended.labels == {"tier": "front"}
        assert ended.args == list(SLEEP)
        assert not os.path.exists(ended.cgroup)
        client.remove("web")
        with pytest.raises(NotFound, match="web: no such container"):
            client.inspect("web")
        assert os.listdir(leafd.root / "containers") == []
        assert os.listdir(leafd.state / "exits") == []
        types = [event.type for event in client.events(container_id="web")]
        assert types == ["create", "start", "exit", "removed"]


def test_the_log_is_kept_and_followed_until_the_end(leafd: "Leafd") -> None:
    with leafd.client as client:
        client.create("web", describe(_sh("echo one; echo two >&2; echo three")), start=True)
        lines = [(chunk.stream, chunk.data) for chunk in client.logs("web", follow=True)]
        assert [data for stream, data in lines if stream == "stdout"] == [b"one\n", b"three\n"]
        assert [data for stream, data in lines if stream == "stderr"] == [b"two\n"]
        client.wait("web")
        assert [(chunk.stream, chunk.data) for chunk in client.logs("web")] == lines


def test_remove_at_its_end(leafd: "Leafd") -> None:
    with leafd.client as client:
        client.create("web", describe(_sh("exit 3")), remove=True)
        with leafd.client as waiter:
            client.start("web")
            try:
                ended = waiter.wait("web")
            except NotFound:
                ended = None  # it was quicker than we
        if ended is not None:
            assert ended.exit is not None
            assert ended.exit.status == 3
        with client.events(follow=True, container_id="web") as events:
            told = list(takewhile(lambda event: event.type != "removed", events))
        assert [event.exit.status for event in told if event.exit] == [3]
        assert client.list() == []


@pytest.mark.parametrize("paused", [False, True])
def test_stop_asks_first_and_then_kills(leafd: "Leafd", paused: bool) -> None:
    with leafd.client as client:
        client.create(
            "polite", describe(_sh("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done")), start=True
        )
        client.create("stubborn", describe(_sh("trap '' TERM; echo ready; while :; do sleep 0.01; done")), start=True)
        for name in ("polite", "stubborn"):
            with client.logs(name, follow=True) as log:
                next(iter(log))
            if paused:
                assert client.pause(name).paused
        polite = client.stop("polite", grace=60)
        stubborn = client.stop("stubborn", grace=0.1)
        assert polite.exit is not None
        assert stubborn.exit is not None
        assert polite.exit.status == 7
        assert stubborn.exit.status == 137
        assert client.stop("polite", grace=60).exit == polite.exit, "a stop of what has stopped is the same answer"


def test_bad_requests_are_refused_before_anything_happens(leafd: "Leafd", tmp_path: Path) -> None:
    with leafd.client as client:
        client.create("taken", describe(SLEEP))
        spec = describe(SLEEP)
        with client.events(follow=True) as events:
            before = list(takewhile(lambda event: event.type != "create", events))
        with pytest.raises(AlreadyExists, match="taken: a container of that name exists"):
            client.create("taken", spec)
        with pytest.raises(InputError, match="reserved"):
            client.create("agent", spec)
        with pytest.raises(InputError):
            client.create("../x", spec)
        with pytest.raises(InputError, match="JSON"):
            client.create("web", b"{")
        with pytest.raises(InputError, match="restart: 'maybe' is none of"):
            client.create("web", spec, restart="maybe")
        with pytest.raises(InputError, match=r"rootfs: .*/nowhere: is no directory"):
            client.create("web", spec, rootfs=str(tmp_path / "nowhere"))
        with pytest.raises(InputError, match="rootfs: etc: must be absolute"):
            client.create("web", spec, rootfs="etc")
        with pytest.raises(NotFound, match="parent: no such container"):
            client.create("parent/web", spec)
        assert os.listdir(leafd.root / "containers") == ["taken"]
        assert [event.type for event in client.events(before[-1].sequence)] == ["create"]


def _await_ends(pids: set[int]) -> None:
    """Fails when one of them does not end."""
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert select.select([fd], [], [], 60)[0], f"process {pid} does not end"
        os.close(fd)


def test_a_launch_that_fails_is_undone_and_its_name_is_free(leafd: "Leafd") -> None:
    with leafd.client as client:
        for _ in range(2):
            with pytest.raises(LeafError, match="no-such-program"):
                client.create("web", describe(("no-such-program",)), start=True)
            assert client.list() == []
            assert os.listdir(leafd.root / "containers") == []
            assert os.listdir(leafd.state / "exits") == []
            assert not os.path.exists(f"{leafd.cgroups_root}/web")
            members = set(_members(f"{leafd.cgroups_root}/agent/shims"))
            _await_ends(members - leafd.spare())  # it was told to; nobody waits for it
        assert client.create("web", describe(SLEEP), start=True).state == RUNNING


def test_a_spare_shim_that_was_killed_is_replaced_though_its_worker_has_its_line(leafd: "Leafd") -> None:
    with leafd.client as client:
        client.create("first", describe(SLEEP), start=True)
        while not leafd.spare():
            client.version()
        spare = client.version().spare_pid
        watched = os.pidfd_open(spare)
        workers = leafd.spare() - {spare}
        for worker in workers:  # held where it is: so the line does not end with the shim
            os.kill(worker, signal.SIGSTOP)
        os.kill(spare, signal.SIGKILL)
        assert select.select([watched], [], [], 60)[0]
        os.close(watched)
        try:
            assert client.create("web", describe(SLEEP), start=True).state == RUNNING
        finally:
            for worker in workers:
                os.kill(worker, signal.SIGKILL)


def test_the_supervisors_own_directories_are_hidden(leafd: "Leafd") -> None:
    with leafd.client as client:
        script = f"ls -A {leafd.root} {leafd.state}"
        client.create("web", describe(_sh(script)), start=True)
        client.wait("web")
        shown = b"".join(chunk.data for chunk in client.logs("web"))
    assert b"leafd.sock" not in shown
    assert b"events" not in shown


def test_a_restart_policy_restarts_until_somebody_stops_it(leafd: "Leafd") -> None:
    with leafd.client as client:
        client.create("web", describe(_sh("echo run; exit 0")), restart="always", start=True)
        with client.events(follow=True, container_id="web") as events:
            restarted = [
                event for event, _ in zip((e for e in events if e.type == "restarted"), range(2), strict=False)
            ]
        assert len(restarted) == 2
        ended = client.stop("web")
        assert ended.state == STOPPED
        assert ended.restarts >= 2
        numbers = [event.shim_sequence for event in client.events(container_id="web") if event.shim_sequence]
        assert numbers == list(range(1, len(numbers) + 1)), "numbers go on across restarts"
        client.remove("web")


def test_on_failure_restarts_what_failed_and_no_more(leafd: "Leafd", tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.mkdir()
    mount: Document = {"destination": "/marker", "type": "bind", "source": str(marker), "options": ["bind", "rw"]}
    script = "test -e /marker/again && exit 0; touch /marker/again; exit 1"
    with leafd.client as client:
        client.create("web", describe(_sh(script), mounts=[mount]), restart="on-failure", start=True)
        ended = client.wait("web")
        assert ended.restarts == 1
        assert ended.exit is not None
        assert ended.exit.status == 0


def test_nested_containers_end_with_their_parent(leafd: "Leafd") -> None:
    with leafd.client as client:
        client.create("web", describe(SLEEP), start=True)
        nested = client.create("web/db", describe(SLEEP), start=True)
        assert nested.cgroup == f"{leafd.cgroups_root}/web/mesos/db"
        client.kill("web", signal.SIGKILL)
        assert client.wait("web").state == STOPPED
        ended = client.inspect("web/db")
        assert ended.state == STOPPED
        assert ended.exit is not None
        with pytest.raises(StateError, match="web/late: web is STOPPED"):
            client.create("web/late", describe(SLEEP))
        client.remove("web")
        assert client.list() == []


def test_a_timeout_is_a_limitation(leafd: "Leafd") -> None:
    with leafd.client as client:
        client.create("web", describe(SLEEP), start=True, timeout=50_000_000)
        ended = client.wait("web")
        assert ended.exit is not None
        assert ended.exit.cause == "limitation"


def test_an_idle_follower_is_told_what_happens(leafd: "Leafd") -> None:
    with leafd.client as client, leafd.client as other:
        last = max(event.sequence for event in client.events())
        with client.events(last, follow=True) as events:
            other.create("web", describe(_sh("exit 0")), start=True)
            types = []
            for event in events:
                types.append(event.type)
                if event.type == "exit":
                    break
        assert types == ["create", "start", "exit"]


def _members(cgroup: str) -> list[int]:
    return [int(pid) for pid in Path(cgroup, "cgroup.procs").read_text().split()]


def test_a_launch_that_nobody_waits_for_any_more_is_undone(leafd: "Leafd") -> None:
    with leafd.client as client:
        impatient = Client(str(leafd.socket), timeout=0.002)
        with pytest.raises(DeadlineExceeded):
            impatient.create("web", describe(SLEEP), start=True)
        impatient.close()
        while client.list():
            pass
        assert client.create("web", describe(SLEEP), start=True).state == RUNNING


def test_a_removal_in_the_middle_of_a_launch_waits_for_it(leafd: "Leafd") -> None:
    with leafd.client as client, leafd.client as other, ThreadPoolExecutor(1) as pool:
        launch = pool.submit(other.create, "web", describe(SLEEP), start=True)
        while not client.list():
            pass
        client.remove("web", force=True)
        launch.result()
        assert client.list() == []
        assert not os.path.exists(f"{leafd.cgroups_root}/web")
