"""Supervisors that are killed, replaced, doubled, and shims that are: what runs goes on, what ended is told once."""

import os
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from leafd.client import Client
from leafd.describe import Document, describe
from leafshim.api.containers import Container, Event
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.state import ISOLATING, RUNNING, STOPPED

if TYPE_CHECKING:
    from tests.harness.leafd import Leafd

SLEEP = describe(
    ("sleep", "1000")
)  # the init of a pid namespace: it has no handler for SIGTERM, so only a SIGKILL ends it


def _ends_when_told(tmp_path: Path, status: int) -> tuple[dict[str, object], Path]:
    """A container that ends with `status` once somebody writes into a fifo; and that fifo."""
    fifo = tmp_path / f"fifo-{secrets.token_hex(4)}"
    os.mkfifo(fifo)
    mount: Document = {"destination": "/told", "type": "bind", "source": str(fifo), "options": ["bind", "rw"]}
    return describe(("sh", "-c", f"read word < /told; exit {status}"), mounts=[mount]), fifo


@contextmanager
def _end_of(pid: int) -> Iterator[None]:
    """Leaving the block waits until the process `pid` has ended and somebody has reaped it (POLLHUP, Linux 6.15)."""
    fd = os.pidfd_open(pid)
    try:
        yield
        poll = select.poll()
        poll.register(fd, 0)
        assert poll.poll(60_000), f"{pid} did not end"
    finally:
        os.close(fd)


def _kill(pid: int) -> None:
    with _end_of(pid):
        os.kill(pid, signal.SIGKILL)


def _kill_unreaped(pid: int) -> None:
    """Kill a child of leafd's, which reaps it when it has a reason to."""
    fd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([fd], [], [], 60)[0]
    os.close(fd)


def _until(client: Client, container_id: str, kind: str) -> Event:
    with client.events(follow=True, container_id=container_id) as events:
        return next(event for event in events if event.type == kind)


def _exits(client: Client, container_id: str) -> list[int | None]:
    return [
        event.exit.status for event in client.events(container_id=container_id) if event.type == "exit" and event.exit
    ]


def _same(before: Container, after: Container) -> bool:
    return (before.pid, before.shim_pid, before.state, before.created_at, before.started_at) == (
        after.pid,
        after.shim_pid,
        after.state,
        after.created_at,
        after.started_at,
    )


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_containers_do_not_notice_the_end_of_leafd(leafd: "Leafd", end: str) -> None:
    with leafd.client as client:
        client.create("web", SLEEP, start=True, labels={"a": "b"})
        client.create("waiting", SLEEP)
        before = client.list()
        nursery = client.version().nursery_pid
    getattr(leafd, end)()
    leafd.start()
    with leafd.client as client:
        after = client.list()
        assert [each.id for each in after] == ["waiting", "web"]
        assert all(_same(old, new) for old, new in zip(before, after, strict=True))
        assert after[1].labels == {"a": "b"}
        assert client.version().nursery_pid == nursery
        assert client.start("waiting").state == RUNNING
        assert client.stop("web", grace=0).state == STOPPED
        assert _exits(client, "web") == [137]


def test_an_end_while_no_leafd_runs_is_told_once(leafd: "Leafd", tmp_path: Path) -> None:
    document, fifo = _ends_when_told(tmp_path, 3)
    with leafd.client as client:
        pid = client.create("web", document, start=True).pid
    leafd.kill()
    with _end_of(pid):
        fifo.write_text("end\n")
    for _ in range(2):
        leafd.start()
        with leafd.client as client:
            ended = client.wait("web")
            assert ended.exit is not None
            assert (ended.state, ended.exit.status, ended.exit.cause) == (STOPPED, 3, "exited")
            assert _exits(client, "web") == [3]
        leafd.kill()


def test_an_end_while_neither_leafd_nor_its_shim_runs_is_in_the_exit_record(leafd: "Leafd", tmp_path: Path) -> None:
    document, fifo = _ends_when_told(tmp_path, 5)
    with leafd.client as client:
        made = client.create("web", document, start=True)
    leafd.kill()
    with _end_of(made.pid):
        fifo.write_text("end\n")
    _wait_for(leafd.state / "exits" / "web")
    _kill(made.shim_pid)
    leafd.start()
    with leafd.client as client:
        ended = client.wait("web")
        assert ended.exit is not None
        assert (ended.exit.status, ended.exit.cause) == (5, "exited")
        assert _exits(client, "web") == [5]


@pytest.mark.parametrize("leafd_runs", [True, False])
def test_a_container_outlives_its_shim_and_its_true_status_is_known(
    leafd: "Leafd", tmp_path: Path, leafd_runs: bool
) -> None:
    document, fifo = _ends_when_told(tmp_path, 6)
    with leafd.client as client:
        made = client.create("web", document, start=True)
    if not leafd_runs:
        leafd.kill()
    _kill(made.shim_pid)
    if not leafd_runs:
        leafd.start()
    with leafd.client as client:
        _until(client, "web", "adopted")
        alive = client.inspect("web")
        assert (alive.state, alive.pid, alive.problem) == (RUNNING, made.pid, "")
        assert alive.shim_pid not in (0, made.shim_pid)
        fifo.write_text("end\n")
        ended = client.wait("web")
        assert ended.exit is not None
        assert (ended.exit.status, ended.exit.cause) == (6, "exited")
        assert not os.path.exists(ended.cgroup)


def test_a_container_whose_shim_was_killed_can_be_ended(leafd: "Leafd") -> None:
    with leafd.client as client:
        for name in ("stopped", "removed"):
            _kill(client.create(name, SLEEP, start=True).shim_pid)
            _until(client, name, "adopted")
        ended = client.stop("stopped", grace=0)
        assert ended.exit is not None
        assert (ended.exit.status, ended.exit.cause) == (137, "killed")
        client.remove("removed", force=True)
        assert [each.id for each in client.list()] == ["stopped"]


def test_what_ended_together_with_shim_nursery_and_leafd_is_lost_and_says_so(leafd: "Leafd") -> None:
    with leafd.client as client:
        made = client.create("web", SLEEP, start=True)
        nursery = client.version().nursery_pid
    leafd.kill()
    _kill(nursery)
    _kill(made.shim_pid)
    with _end_of(made.pid):
        Cgroup(made.cgroup).kill()
    leafd.start()
    with leafd.client as client:
        ended = client.wait("web")
        assert ended.exit is not None
        assert (ended.exit.status, ended.exit.cause) == (None, "lost")


def test_a_dead_nursery_is_replaced_and_nobody_notices(leafd: "Leafd") -> None:
    with leafd.client as client:
        before = client.create("web", SLEEP, start=True)
        _kill_unreaped(client.version().nursery_pid)
        assert client.create("db", SLEEP, start=True).state == RUNNING
        assert _same(before, client.inspect("web"))
        assert client.stop("web", grace=0).state == STOPPED


def test_a_new_nursery_keeps_what_the_dead_one_kept(leafd: "Leafd", tmp_path: Path) -> None:
    document, fifo = _ends_when_told(tmp_path, 8)
    with leafd.client as client:
        made = client.create("web", document, start=True)
        old = client.version().nursery_pid
        _kill_unreaped(old)
        assert client.version().nursery_pid != old
        client.recover()
    leafd.kill()
    _kill(made.shim_pid)
    with _end_of(made.pid):
        fifo.write_text("end\n")
    leafd.start()
    with leafd.client as client:
        ended = client.wait("web")
        assert ended.exit is not None
        assert (ended.exit.status, ended.exit.cause) == (8, "exited")


def test_a_silent_shim_is_unknown_and_holds_nobody_up(leafd: "Leafd") -> None:
    with leafd.client as client:
        silent = client.create("silent", SLEEP, start=True)
        client.create("web", SLEEP, start=True)
        _stop(silent.shim_pid)
        states = {each.id: each.state for each in client.list()}
        assert states == {"silent": "UNKNOWN", "web": RUNNING}
    leafd.kill()
    leafd.start()
    with leafd.client as client:
        states = {each.id: each.state for each in client.list()}
        assert states == {"silent": "UNKNOWN", "web": RUNNING}
        assert "does not answer" in client.inspect("silent").problem
        assert silent.pid in Cgroup(silent.leaf).processes(), "silence is no reason to kill"
        os.kill(silent.shim_pid, signal.SIGCONT)
        client.recover()
        assert _same(silent, client.inspect("silent"))


def test_a_silent_shim_does_not_save_its_container_from_removal(leafd: "Leafd", tmp_path: Path) -> None:
    leafd.stop()
    file = tmp_path / "leafd.toml"
    file.write_text("call_deadline = 0.5\n")
    leafd.start("--config", str(file))
    with leafd.client as client:
        silent = client.create("silent", SLEEP, start=True)
        _stop(silent.shim_pid)
        client.remove("silent", force=True)
        assert client.list() == []
        assert not os.path.exists(silent.cgroup)


def test_orphans_are_reaped_and_reported(leafd: "Leafd") -> None:
    leafd.kill()
    orphan = Cgroup(f"{leafd.cgroups_root}/ghost")
    leaf = orphan.child("leaf")
    orphan.create()
    leaf.create()
    nested = orphan.child("mesos")
    nested.create()
    process = subprocess.Popen(["sleep", "1000"])
    leaf.write("cgroup.procs", str(process.pid))
    (leafd.root / "containers" / "empty").mkdir()
    leafd.start()
    assert process.wait(60) == -signal.SIGKILL
    with leafd.client as client:
        reaped = _until(client, "", "orphan-reaped")
        assert f"{leafd.cgroups_root}/ghost" in reaped.message
        assert str(process.pid) in reaped.message
        assert not orphan.exists()
        assert client.list() == []
        assert os.listdir(leafd.root / "containers") == []


def test_a_torn_record_is_quarantined_and_its_container_lives(leafd: "Leafd") -> None:
    with leafd.client as client:
        before = client.create("web", SLEEP, start=True)
    leafd.kill()
    record = leafd.root / "containers" / "web" / "container"
    os.truncate(record, 40)
    leafd.start()
    with leafd.client as client:
        after = client.inspect("web")
        assert (after.state, after.pid, after.shim_pid) == (RUNNING, before.pid, before.shim_pid)
        assert record.with_name("container.damaged").exists()
        assert client.stop("web", grace=0).state == STOPPED


def test_a_pending_restart_survives_leafd(leafd: "Leafd", tmp_path: Path) -> None:
    leafd.stop()
    file = tmp_path / "leafd.toml"
    file.write_text("restart_first = 1000.0\nrestart_max = 1000.0\n")
    leafd.start("--config", str(file))
    with leafd.client as client:
        client.create("web", describe(("sh", "-c", "exit 4")), restart="always", start=True)
        _until(client, "web", "exit")
    leafd.kill()
    leafd.start()
    with leafd.client as client:
        _until(client, "web", "restarted")
        client.stop("web")


def test_a_stop_that_leafd_did_not_survive_is_finished(leafd: "Leafd") -> None:
    stubborn = describe(("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done"))
    with leafd.client as client:
        client.create("web", stubborn, restart="always", start=True)
        with client.logs("web", follow=True) as log:
            next(iter(log))
    stopping = subprocess.Popen(leafd.command("stop", "-t", "1000", "web"), stderr=subprocess.DEVNULL)
    with leafd.client as client:
        while client.inspect("web").state == RUNNING:
            pass
    leafd.kill()
    stopping.wait(60)
    leafd.start()
    with leafd.client as client:
        ended = client.wait("web")
        assert (ended.state, ended.restarts) == (STOPPED, 0)


def test_two_supervisors_on_one_root_or_one_cgroup_are_refused(leafd: "Leafd", tmp_path: Path) -> None:
    with leafd.client as client:
        before = client.create("web", SLEEP, start=True)
    daemon = str(Path(sys.executable).parent / "leafd")
    other = [daemon, "--root", str(tmp_path / "other"), "--state", str(tmp_path / "state")]
    own = [daemon, "--root", str(leafd.root), "--state", str(tmp_path / "state"), "--cgroups-root", f"{leafd.name}-2"]
    for command, complaint in (
        (own, f"leafd: {leafd.root}: another leafd is there, pid {leafd.process and leafd.process.pid}\n"),
        ([*other, "--cgroups-root", leafd.name], f"leafd: {leafd.cgroups_root}: another leafd has this cgroup"),
    ):
        ended = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False)
        assert ended.returncode == 1
        assert ended.stderr.startswith(complaint)
    leafd.kill()
    ended = subprocess.run(
        [*other, "--cgroups-root", leafd.name], capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert (ended.returncode, str(leafd.root) in ended.stderr) == (1, True), "not while it is down either"
    leafd.start()
    with leafd.client as client:
        assert _same(before, client.inspect("web"))


def test_supervisors_side_by_side_do_not_know_of_each_other(leafd: "Leafd", tmp_path: Path) -> None:
    other = type(leafd)(tmp_path / "other")
    other.root.parent.mkdir()
    try:
        other.start()
        with leafd.client as mine, other.client as theirs:
            mine.create("web", SLEEP, start=True)
            theirs.create("web", SLEEP)
        other.kill()
        leafd.kill()
        leafd.start()
        other.start()
        with leafd.client as mine, other.client as theirs:
            assert [each.state for each in mine.list()] == [RUNNING]
            assert [each.state for each in theirs.list()] == [ISOLATING]
    finally:
        other.close()


def _wait_for(path: Path) -> None:
    """Return when the file is there; its directory is watched by nothing, so it is looked at again and again."""
    while not path.exists():
        os.sched_yield()


def _stop(pid: int) -> None:
    """Stop a process, and see that it has: it stops when it next runs (signal(7))."""
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        os.sched_yield()
