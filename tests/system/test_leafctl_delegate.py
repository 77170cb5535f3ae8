"""leafctl run --delegate: a workload that makes cgroups of its own, as whoever it is, and what becomes of them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from leafshim.api import task
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.ttrpc.client import Client
from tests.harness.leafd import Leafd

UID = 1234
USER = ("--user", f"{UID}:{UID}")
DELEGATED = {"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"}

WORKLOAD = """
cd /sys/fs/cgroup
mkdir app app/worker idle || exit 1
sleep 1000 & echo $! > app/worker/cgroup.procs || exit 2
echo $$ > app/cgroup.procs || exit 3
grep ^0:: /proc/self/cgroup
wait
"""


@pytest.fixture
def leafd(tmp_path: Path) -> Iterator[Leafd]:
    """A running leafd, patient enough for a machine that is ten times slower, as a guest is."""
    (tmp_path / "leafd.toml").write_text("call_deadline = 50.0\n")
    installation = Leafd(tmp_path)
    try:
        installation.start("--config", str(tmp_path / "leafd.toml"))
        yield installation
    finally:
        installation.close()


def begin(leafd: Leafd, script: str, *flags: str) -> Cgroup:
    """A container `web`, whose script has said its first line; its leaf."""
    result = leafd.ctl("run", "-d", "--name", "web", "--delegate", *flags, "--", "sh", "-c", script)
    assert result.returncode == 0, result.stderr
    with leafd.client as client, client.logs("web", follow=True) as log:
        said = next(iter(log)).data
        assert said == b"0::/app\n", said
    return Cgroup(str(leafd.inspect("web")["leaf"]))


def pids(leafd: Leafd) -> list[int]:
    """Task.Pids."""
    with Client(str(leafd.inspect("web")["shim_socket"]), 30) as client:
        return [each.pid for each in client.call(task.V3.pids, task.PidsRequest(id="web")).processes]


@pytest.mark.parametrize("flags", [(), USER], ids=["root", "user"])
def test_cgroups_of_its_own_are_its_own(leafd: Leafd, flags: tuple[str, ...]) -> None:
    """UserCgroup. They are the container's: in its pids, its kill, its freeze; seen by it as below its root."""
    leaf = begin(leafd, WORKLOAD, *flags)
    own = [leaf, *leaf.descendants()]
    members = sorted(pid for each in own for pid in each.processes())
    assert len(own) == 4
    assert leaf.processes() == []
    assert len(members) == 2
    assert sorted(pids(leafd)) == members
    assert leaf.populated()
    assert leafd.ctl("pause", "web").returncode == 0
    assert leaf.child("app").child("worker").frozen()
    assert leafd.ctl("resume", "web").returncode == 0
    assert not leaf.child("app").child("worker").frozen()
    assert leafd.ctl("kill", "web").returncode == 0
    assert leafd.ctl("wait", "web").returncode == 137
    assert not os.path.exists(os.path.dirname(leaf.path))


def test_found_wanting_05_the_leaf_is_the_users_and_nothing_above_it(leafd: Leafd) -> None:
    """Delegation to a non-root user: `cgroup.procs`, `cgroup.subtree_control`, `cgroup.threads`, the directory."""
    leaf = begin(leafd, WORKLOAD, *USER)
    listed = set(Path("/sys/kernel/cgroup/delegate").read_text().split())
    assert listed >= DELEGATED
    theirs = {name for name in os.listdir(leaf.path) if os.stat(f"{leaf.path}/{name}").st_uid == UID}
    assert os.stat(leaf.path).st_uid == UID
    assert theirs - {"app", "idle"} == listed & set(os.listdir(leaf.path))
    above = os.path.dirname(leaf.path)
    assert {os.stat(f"{above}/{name}").st_uid for name in (".", *os.listdir(above)) if name != "leaf"} == {0}


def test_found_wanting_06_its_view_begins_at_its_leaf(leafd: Leafd) -> None:
    """The cgroup namespace is made once the process is in its leaf; and what is not delegated is read-only."""
    script = "cd /sys/fs/cgroup; mkdir own 2>/dev/null && echo made; grep ^0:: /proc/self/cgroup; cat cgroup.procs"
    result = leafd.ctl("run", *USER, "--name", "web", "--", "sh", "-c", script)
    assert result.stdout.splitlines()[:2] == ["0::/", "1"], "itself is in the root that it sees"


def test_found_wanting_04_the_workloads_own_cgroups_are_no_containers(leafd: Leafd, tmp_path: Path) -> None:
    """They survive a restart of leafd, whatever they are called, and are nobody else's."""
    script = WORKLOAD.replace("mkdir app", "mkdir -p leaf mesos/db/leaf agent/shims app")
    leaf = begin(leafd, script, *USER)
    before = list(leaf.descendants())
    pid = leafd.inspect("web")["pid"]
    leafd.kill()
    leafd.start("--config", str(tmp_path / "leafd.toml"))
    assert leafd.ctl("recover").returncode == 0
    assert leafd.ctl("ps", "-q").stdout == "web\n"
    assert leafd.inspect("web")["pid"] == pid
    assert list(leaf.descendants()) == before
    assert leafd.ctl("stop", "-t", "0", "web").returncode == 0
    assert not os.path.exists(os.path.dirname(leaf.path))


@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
@pytest.mark.parametrize("end", [["rm", "-f", "web"], ["stop", "-t", "0", "web"]], ids=["rm", "stop"])
def test_fifty_cgroups_of_its_own_leave_nothing(leafd: Leafd, frozen: bool, end: list[str]) -> None:
    """A workload that makes 50 cgroups below its leaf and forks into them, destroyed in the middle of it all."""
    freeze = "echo 1 > own$i/cgroup.freeze;" if frozen else ""
    script = f"""
    cd /sys/fs/cgroup
    mkdir app; echo $$ > app/cgroup.procs
    i=0; while [ $i -lt 50 ]; do
        mkdir -p own$i/deep
        sleep 1000 & echo $! > own$i/deep/cgroup.procs
        {freeze} i=$((i + 1))
    done
    grep ^0:: /proc/self/cgroup
    while :; do sleep 0.01 & done
    """
    leaf = begin(leafd, script, *USER)
    assert len(list(leaf.descendants())) == 101
    assert len(pids(leafd)) > 50
    result = leafd.ctl(*end)
    assert (result.returncode, result.stderr) == (0, "")
    assert not os.path.exists(os.path.dirname(leaf.path))
    assert int(Cgroup(leafd.cgroups_root).read_flat("cgroup.stat")["nr_descendants"]) == 3  # agent, its leaf, shims


ENABLE = 'echo "+memory +pids" > cgroup.subtree_control || exit 4\ngrep ^0'


@pytest.mark.vm
def test_a_user_limits_its_own_cgroups(leafd: Leafd) -> None:
    """With controllers: enabled below the leaf by who it was delegated to; figures and limits are still the whole's."""
    limited = ENABLE.replace("grep ^0", "echo 7 > app/pids.max || exit 6\ngrep ^0")
    leaf = begin(leafd, WORKLOAD.replace("grep ^0", limited), *USER, "--pids", "20")
    assert leaf.enabled() == {"memory", "pids"}
    assert leaf.child("app").read("pids.max") == "7\n"
    assert Cgroup(os.path.dirname(leaf.path)).read("pids.max") == "20\n"
    figures = json.loads(leafd.ctl("--json", "stats", "web").stdout)[0]
    assert (figures["pids"]["current"], figures["pids"]["max"]) == (2, 20)
    assert figures["memory"]["current"] > 0


@pytest.mark.vm
def test_an_exec_joins_init_where_the_leaf_takes_nobody(leafd: Leafd) -> None:
    """Where the workload enabled controllers the leaf refuses processes (EBUSY), and the exec goes where init is."""
    leaf = begin(leafd, WORKLOAD.replace("grep ^0", ENABLE), *USER)
    assert leaf.enabled() == {"memory", "pids"}
    result = leafd.ctl("exec", "web", "--", "grep", "^0::", "/proc/self/cgroup")
    assert (result.returncode, result.stdout) == (0, "0::/app\n"), result.stderr
