"""Ends that are hard: what does not die, what is frozen, what the workload made for itself. Nothing stays behind."""

import os
import signal
import subprocess
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path

import pytest

from leafshim.api.containers import Event
from leafshim.cgroup.hierarchy import Cgroup
from tests.harness.leafd import Leafd
from tests.harness.stuck import Stuck

IMPATIENT = "call_deadline = 1.0\nreap_deadline = 1.0\n"


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[Stuck]:
    """A server that answers nobody."""
    with Stuck() as server:
        yield server


@pytest.fixture
def leafd(tmp_path: Path, stuck: Stuck) -> Iterator[Leafd]:
    """An impatient leafd, which sees that server's file system at `stuck` in the test's directory."""
    (tmp_path / "stuck").mkdir()
    (tmp_path / "leafd.toml").write_text(IMPATIENT)
    installation = Leafd(tmp_path)
    try:
        installation.start(
            "--config", str(tmp_path / "leafd.toml"), prepare=lambda: stuck.mount(str(tmp_path / "stuck"))
        )
        stuck.serve()
        yield installation
    finally:
        stuck.release()
        installation.close()


def run_stuck(leafd: Leafd, stuck: Stuck, directory: Path, *flags: str) -> None:
    """A container `web` whose command waits for the server that does not answer."""
    script = "cat /stuck/x & echo begun; wait"
    mount = f"src={directory}/stuck,dst=/stuck"
    result = leafd.ctl("run", "-d", "--name", "web", "--mount", mount, *flags, "--", "sh", "-c", script)
    assert result.returncode == 0, result.stderr
    stuck.wait_for_caller()


def first(leafd: Leafd, kind: str) -> Event:
    with leafd.client as client, client.events(follow=True) as events:
        return next(iter(dropwhile(lambda event: event.type != kind, events)))


def test_what_does_not_die_is_named_and_ends_when_its_wait_does(leafd: Leafd, stuck: Stuck, tmp_path: Path) -> None:
    """stop returns by its deadline with pid, state and wchan; so does rm, the second time as the first."""
    run_stuck(leafd, stuck, tmp_path)
    shim = leafd.inspect("web")["shim_pid"]
    for command in (["stop", "-t", "0", "web"], ["stop", "-t", "0", "web"], ["rm", "-f", "web"]):
        result = leafd.ctl(*command)
        assert result.returncode == 1
        assert result.stderr.startswith(f"leafctl: {command[0]}: web: does not end: held by ")
        assert " (cat) D in request_wait_answer" in result.stderr
        assert result.stderr.count("\n") == 1
    assert leafd.ctl("kill", "web").returncode == 0, "to signal it again is no failure"
    shown = leafd.inspect("web")
    assert (shown["state"], shown["shim_pid"]) == ("DESTROYING", shim), "its shim is not to blame"
    assert "(cat) D in request_wait_answer" in str(shown["problem"])
    cgroup = str(shown["cgroup"])
    stuck.release()
    first(leafd, "removed")  # rm was asked for, and is done without being asked again
    assert not os.path.exists(cgroup)
    assert leafd.ctl("rm", "-f", "web").returncode == 0


def test_a_cgroup_that_stays_is_no_end(leafd: Leafd, stuck: Stuck, tmp_path: Path) -> None:
    """Init is gone, somebody else in the leaf is not: not STOPPED, until the cgroup is gone; and then by itself."""
    leafd.ctl("run", "-d", "--name", "web", "--restart", "always", "--", "sleep", "1000")
    leaf = Cgroup(str(leafd.inspect("web")["leaf"]))
    script = f"echo $$ > {leaf.path}/cgroup.procs; exec cat /proc/{leafd.process.pid}/root{tmp_path}/stuck/x"  # type: ignore[union-attr]
    with subprocess.Popen(["sh", "-c", script], stderr=subprocess.DEVNULL) as other:
        stuck.wait_for_caller()
        result = leafd.ctl("stop", "-t", "0", "web")
        assert result.returncode == 1
        assert f"held by {other.pid} (cat) D in request_wait_answer\n" in result.stderr
        first(leafd, "exit")
        assert leafd.inspect("web")["state"] == "DESTROYING"
        refused = leafd.ctl("rm", "web")
        assert refused.returncode == 1
        assert refused.stderr.startswith("leafctl: rm: web: DESTROYING (")
        assert f"{other.pid} (cat) D" in refused.stderr
        stuck.release()
        assert leafd.ctl("wait", "web").returncode == 137
        assert not leaf.exists()
        assert leafd.inspect("web")["state"] == "STOPPED"


def test_an_orphan_that_does_not_die_is_reported_and_reaped_when_it_has(
    leafd: Leafd, stuck: Stuck, tmp_path: Path
) -> None:
    leaf = Cgroup(f"{leafd.cgroups_root}/ghost/leaf")
    leaf.create()
    script = f"echo $$ > {leaf.path}/cgroup.procs; exec cat /proc/{leafd.process.pid}/root{tmp_path}/stuck/x"  # type: ignore[union-attr]
    with subprocess.Popen(["sh", "-c", script], stderr=subprocess.DEVNULL) as ghost:
        stuck.wait_for_caller()
        assert leafd.ctl("recover").returncode == 0
        assert f"{ghost.pid} (cat) D in request_wait_answer" in first(leafd, "orphan-stuck").message
        taken = leafd.ctl("run", "-d", "--name", "ghost", "--", "sleep", "1000")
        assert taken.returncode == 125
        assert taken.stderr.startswith("leafctl: run: ghost: ")
        stuck.release()
        assert leaf.path.removesuffix("/leaf") in first(leafd, "orphan-reaped").message
        assert ghost.wait(60) == -signal.SIGKILL
    assert not leaf.exists()


def test_ends_may_be_asked_for_again(leafd: Leafd) -> None:
    """kill, stop and rm -f: twice is the same answer, and the exit is the first one's."""
    leafd.ctl("run", "-d", "--name", "web", "--", "sleep", "1000")
    assert [leafd.ctl("kill", "web").returncode for _ in range(3)] == [0, 0, 0]
    assert leafd.ctl("wait", "web").returncode == 137
    before = leafd.inspect("web")
    assert [leafd.ctl(*again).returncode for again in (["kill", "web"], ["stop", "web"], ["stop", "web"])] == [0, 0, 0]
    assert leafd.inspect("web") == before
    assert leafd.ctl("kill", "-s", "HUP", "web").returncode == 1, "a signal that asks for anything else has no taker"
    assert [leafd.ctl("rm", "-f", "web").returncode for _ in range(2)] == [0, 0]
    assert leafd.ctl("rm", "web").stderr == "leafctl: rm: web: no such container\n"


def test_a_frozen_parent_saves_no_nested_container(leafd: Leafd) -> None:
    """The nested one of a paused container ends, and its parent stays paused; then that goes, frozen as it is."""
    for name in ("web", "web/db"):
        result = leafd.ctl("run", "-d", "--name", name, "--", "sleep", "1000")
        assert result.returncode == 0, result.stderr
    cgroups = [str(leafd.inspect(name)["cgroup"]) for name in ("web", "web/db")]
    assert leafd.ctl("pause", "web").returncode == 0
    assert Cgroup(cgroups[1]).frozen()
    result = leafd.ctl("rm", "-f", "web/db")
    assert (result.returncode, result.stderr) == (0, "")
    assert [os.path.exists(path) for path in cgroups] == [True, False]
    assert leafd.inspect("web")["paused"] is True
    result = leafd.ctl("rm", "-f", "web")
    assert (result.returncode, result.stderr) == (0, "")
    assert not os.path.exists(cgroups[0])
