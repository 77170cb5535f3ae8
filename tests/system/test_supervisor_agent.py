"""What Mesos tests of its agent's recovery, of ours. Its names are in brackets; what is missing here is in
test_supervisor_recovery.py under a name of its own."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from leafd.client import Client
from leafd.describe import describe
from leafd.describe_nested import describe_nested
from leafshim import record
from leafshim.api.containers import Container
from leafshim.bundle import Bundle
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import NotFound
from leafshim.kernel import pidfd
from leafshim.state import ISOLATING, RUNNING, STOPPED
from tests.harness.leafd import BIN, DEADLINE, Leafd

SLEEP = describe(("sleep", "1000"))
NESTED = describe_nested(("sleep", "1000"))


def _known(container: Container) -> tuple[object, ...]:
    return container.pid, container.shim_pid, container.state, container.cgroup


def _exits(client: Client, container_id: str) -> list[tuple[int | None, str]]:
    ends = [event.exit for event in client.events(container_id=container_id) if event.type == "exit"]
    return [(end.status, end.cause) for end in ends if end is not None]


def _cleanup(leafd: Leafd, *flags: str) -> "subprocess.CompletedProcess[str]":
    command = [str(BIN / "leafd"), "--root", str(leafd.root), "--state", str(leafd.state)]
    command += ["--cgroups-root", leafd.name, "--recover", "cleanup", *flags]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=DEADLINE, check=False)


def test_cleanup_ends_everything_and_leafd(leafd: Leafd, tmp_path: Path) -> None:
    """[recover=cleanup]"""
    with leafd.client as client:
        for container_id in ("web", "web/db", "web/db/log", "other"):
            client.create(container_id, NESTED if "/" in container_id else SLEEP, start=True)
        client.create("waiting", SLEEP)
        client.create("done", describe(("sh", "-c", "exit 3")), start=True)
        client.wait("done")
        client.create("again", SLEEP, start=True, restart="always")
    leafd.kill()
    orphan = Cgroup(f"{leafd.cgroups_root}/ghost")
    orphan.create()
    ended = _cleanup(leafd)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert not Cgroup(leafd.cgroups_root).children()
    assert not Cgroup(leafd.cgroups_root).populated()
    assert not leafd.socket.exists()
    assert _cleanup(leafd).returncode == 0, "there is nothing left to do, and that is fine"
    leafd.start()
    with leafd.client as client:
        states = {each.id: each.state for each in client.list()}
        assert states == dict.fromkeys(["again", "done", "other", "waiting", "web", "web/db", "web/db/log"], STOPPED)
        assert _exits(client, "done") == [(3, "exited")]
        for container_id in ("web", "web/db", "web/db/log", "other", "again"):
            assert _exits(client, container_id) == [(137, "killed")]


def test_cleanup_hears_of_ends_and_does_not_wait_for_deadlines(leafd: Leafd, tmp_path: Path) -> None:
    with leafd.client as client:
        client.create("web", SLEEP, start=True)
        client.create("web/db", NESTED, start=True)
    leafd.kill()
    patience = tmp_path / "leafd.toml"
    patience.write_text("call_deadline = 1000.0\n")
    assert _cleanup(leafd, "--config", str(patience)).returncode == 0


def _of_another_boot(leafd: Leafd, container_id: str, **changes: record.Value) -> None:
    """Have a record say that it was written before the last boot."""
    path = Bundle.of(str(leafd.root), container_id).record
    value = record.read(path, "container")
    assert value["boot_id"] == pidfd.boot_id()
    record.write(path, "container", {**value, "boot_id": "00000000-0000-0000-0000-000000000000", **changes})


def test_after_a_reboot_everything_has_ended(leafd: Leafd) -> None:
    """[Reboot] Of what a boot takes, the processes of this family stay: that they are killed shows that it is no pid
    that is killed, but what is in the cgroups of that name."""
    with leafd.client as client:
        for container_id in ("web", "web/db", "done"):
            client.create(container_id, NESTED if "/" in container_id else SLEEP, start=True)
        client.stop("done", grace=0)
    leafd.kill()
    for container_id in ("web", "web/db", "done"):
        _of_another_boot(leafd, container_id)
    leafd.start()
    with leafd.client as client:
        for container_id in ("web", "web/db"):
            assert client.wait(container_id).state == STOPPED
            assert _exits(client, container_id) == [(None, "lost")]
        assert _exits(client, "done") == [(137, "killed")]
        assert not os.path.exists(f"{leafd.cgroups_root}/web")


def test_after_a_reboot_nobody_is_signalled_who_has_the_pid_now(leafd: Leafd) -> None:
    """[RebootWithReusedPid] The innocent even began in the same clock tick after the boot."""
    with leafd.client as client:
        client.create("web", SLEEP, start=True)
    leafd.kill()
    innocent = subprocess.Popen(["sleep", "1000"])
    began = pidfd.start_time(innocent.pid)
    _of_another_boot(leafd, "web", pid=innocent.pid, shim_pid=innocent.pid, shim_start_time=began)
    leafd.start()
    with leafd.client as client:
        assert client.wait("web").state == STOPPED
        client.remove("web", force=True)
        assert innocent.poll() is None
    innocent.kill()
    assert innocent.wait(DEADLINE) == -signal.SIGKILL


def test_a_pid_of_this_boot_that_is_another_processes_now_is_not_signalled(leafd: Leafd) -> None:
    """[reused pid, without a reboot]"""
    with leafd.client as client:
        made = client.create("web", SLEEP, start=True)
    leafd.kill()
    os.kill(made.shim_pid, signal.SIGKILL)
    innocent = subprocess.Popen(["sleep", "1000"])
    path = Bundle.of(str(leafd.root), "web").record
    changes: dict[str, record.Value] = {"state": RUNNING, "pid": made.pid, "shim_pid": innocent.pid}
    record.write(path, "container", {**record.read(path, "container"), **changes})
    leafd.start()
    with leafd.client as client:
        client.remove("web", force=True)
        assert innocent.poll() is None
        assert not os.path.exists(made.cgroup)
    innocent.kill()
    assert innocent.wait(DEADLINE) == -signal.SIGKILL


def test_a_kill_after_recovery(leafd: Leafd) -> None:
    """[KillTask]"""
    with leafd.client as client:
        client.create("web", SLEEP, start=True)
        client.create("web/db", NESTED, start=True)
    leafd.kill()
    leafd.start()
    with leafd.client as client:
        for container_id in ("web/db", "web"):
            client.kill(container_id)
            assert client.wait(container_id).state == STOPPED
            assert _exits(client, container_id) == [(137, "killed")]


def test_what_had_ended_before_is_as_it_was(leafd: Leafd) -> None:
    """[RecoverCompletedExecutor]"""
    with leafd.client as client:
        client.create("web", describe(("sh", "-c", "exit 3")), start=True)
        before = client.wait("web")
        journal = [event.type for event in client.events(container_id="web")]
    leafd.kill()
    leafd.start()
    with leafd.client as client:
        assert client.inspect("web") == before
        # (The spare shim of the leafd that was killed may still be there to be reaped.)
        assert [event.type for event in client.events(container_id="web")] == journal
        assert client.wait("web") == before


def test_a_shim_that_answers_late_is_connected_to_again(leafd: Leafd, tmp_path: Path) -> None:
    """[ReconnectExecutorRetry]"""
    with leafd.client as client:
        before = client.create("web", SLEEP, start=True)
    leafd.kill()
    os.kill(before.shim_pid, signal.SIGSTOP)
    while Path(f"/proc/{before.shim_pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        os.sched_yield()
    leafd.start()
    with leafd.client as client:
        assert client.inspect("web").state == "UNKNOWN"
        os.kill(before.shim_pid, signal.SIGCONT)
        while client.inspect("web").state != RUNNING:  # leafd looks again by itself
            pass
        assert _known(client.inspect("web")) == _known(before)
        client.stop("web", grace=0)


def test_a_container_that_was_made_and_not_started_can_be_started_by_the_next(leafd: Leafd) -> None:
    """[RestartBeforeContainerizerLaunch]"""
    with leafd.client as client:
        client.create("web", SLEEP, start=True)
        client.create("web/db", NESTED)
    leafd.kill()
    leafd.start()
    with leafd.client as client:
        assert client.inspect("web/db").state == ISOLATING
        assert client.start("web/db").state == RUNNING


def test_a_launch_that_had_hardly_begun_is_taken_back(leafd: Leafd) -> None:
    """[RestartBeforeContainerizerLaunch, without a container]"""
    leafd.kill()
    (leafd.root / "containers" / "web").mkdir()
    (leafd.root / "containers" / "web:db").mkdir()
    leafd.start()
    with leafd.client as client:
        assert client.list() == []
        assert client.create("web", SLEEP, start=True).state == RUNNING
        assert client.create("web/db", NESTED, start=True).state == RUNNING


def test_figures_are_there_after_a_restart(leafd: Leafd) -> None:
    """[statistics after restart]"""
    with leafd.client as client:
        client.create("web", SLEEP, start=True)
        client.create("web/db", NESTED, start=True)
    leafd.kill()
    leafd.start()
    shown = leafd.ctl("stats")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["ID", "web", "web/db"]


@pytest.fixture
def elsewhere(leafd: Leafd) -> Iterator[str]:
    """The name of another cgroups root, removed at the end with what is in it."""
    name = f"{leafd.name}-other"
    yield name
    if leafd.process is not None:
        leafd.kill()
    cgroup = Cgroup(os.path.join(os.path.dirname(leafd.cgroups_root), name))
    if cgroup.exists():
        cgroup.remove_tree(DEADLINE)


def test_containers_stay_where_they_are_when_the_layout_is_another(
    leafd: Leafd, tmp_path: Path, elsewhere: str
) -> None:
    """[isolation flags changed across a restart]"""
    with leafd.client as client:
        family = [client.create(each, NESTED if "/" in each else SLEEP, start=True) for each in ("web", "web/db")]
    leafd.kill()
    file = tmp_path / "leafd.toml"
    file.write_text('separator = "inner"\n')
    leafd.start("--config", str(file), "--cgroups-root", elsewhere)
    with leafd.client as client:
        found = client.list()
        assert [_known(each) for each in found] == [_known(each) for each in family]
        assert [(each.cgroup, each.leaf) for each in found] == [(each.cgroup, each.leaf) for each in family]
        late = client.create("web/late", NESTED, start=True)
        assert late.cgroup == f"{family[0].cgroup}/inner/late"
        new = client.create("new", SLEEP, start=True)
        assert new.cgroup == f"{os.path.dirname(leafd.cgroups_root)}/{elsewhere}/new"
        client.remove("web", force=True)
        assert not os.path.exists(family[0].cgroup)
        with pytest.raises(NotFound):
            client.inspect("web/db")


def test_what_is_not_ours_is_left_alone(leafd: Leafd) -> None:
    """[SkipNonCheckpointedContainers, and what nobody of us made]"""
    beside = Cgroup(f"{leafd.cgroups_root}-not-ours")
    leaf = beside.child("leaf")
    beside.create()
    leaf.create()
    foreign = subprocess.Popen(["sleep", "1000"])
    leaf.write("cgroup.procs", str(foreign.pid))
    (leafd.root / "containers" / ".hidden").mkdir()
    try:
        leafd.kill()
        leafd.start()
        with leafd.client as client:
            client.recover()
            assert not [event for event in client.events() if event.message.startswith("cgroup ")]
            assert client.list() == []
        assert foreign.poll() is None
        assert (leafd.root / "containers" / ".hidden").exists()
    finally:
        foreign.kill()
        foreign.wait(DEADLINE)
        beside.remove_tree(DEADLINE)
