"""leafctl debug: what it finds in real containers, with and without leafd and an answering shim."""

import json
import os
import re
import signal
import tarfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leafd.inspection import control, target
from leafshim.api import debug as debug_api
from leafshim.api import shim as shim_api
from leafshim.bundle import Bundle
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.checkpoint import Checkpoint
from leafshim.errors import KernelError, PeerError
from leafshim.ttrpc.client import Client
from tests.harness.leafd import DEADLINE, Leafd

_TRIES = 200  # looks, each a whole leafctl, for what a process does right after it has said that it will

DEADLOCK = """
import os
a, b = os.pipe(), os.pipe()
if os.fork():
    os.close(a[1]); os.close(b[0])
    os.read(a[0], 1)
else:
    os.close(a[0]); os.close(b[1])
    os.read(b[0], 1)
"""
FULL_PIPE = """
import os, time
reader, writer = os.pipe()
if os.fork():
    os.close(reader)
    while True:
        os.write(writer, b'x' * 4096)
else:
    os.close(writer)
    time.sleep(1000)
"""
VFORK = """
import ctypes, time
if ctypes.CDLL(None).syscall(56, 0x4000 | 17, 0, 0, 0, 0) == 0:  # clone, CLONE_VFORK | SIGCHLD
    time.sleep(1000)
"""


def run(leafd: Leafd, *arguments: str) -> None:
    result = leafd.ctl("run", "-d", "--name", "web", *arguments)
    assert (result.returncode, result.stderr) == (0, "")


def debug(leafd: Leafd, what: str) -> Any:
    result = leafd.ctl("--json", "debug", "web", what)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def text(leafd: Leafd, what: str) -> str:
    result = leafd.ctl("debug", "web", what)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def finding(leafd: Leafd, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first that is wanted, once it is there."""
    seen: Any = None
    for _ in range(_TRIES):
        seen = debug(leafd, "why")
        if found := [each for each in seen if wanted(each)]:
            return dict(found[0])
    raise AssertionError(f"not among {seen}")


def kinds(leafd: Leafd) -> set[str]:
    return {each["kind"] for each in debug(leafd, "why")}


def pids(leafd: Leafd) -> list[int]:
    return sorted(Cgroup(str(leafd.inspect("web")["leaf"])).processes())


def test_why_a_pair_that_waits_for_each_other(leafd: Leafd) -> None:
    run(leafd, "--", "python3", "-c", DEADLOCK)
    found = finding(leafd, lambda each: each["kind"] == "stuck")
    both = pids(leafd)
    assert len(both) == 2
    assert found["pids"] == both
    for own, other in (both, both[::-1]):
        assert f"pid {own} waits to read from pid {other}" in found["text"]
    assert "deadlock" in text(leafd, "why")


def test_why_a_full_pipe_is_no_deadlock(leafd: Leafd) -> None:
    run(leafd, "--", "python3", "-c", FULL_PIPE)
    found = finding(leafd, lambda each: "full pipe" in each["text"])
    writer, reader = pids(leafd)
    assert found["pids"] == [writer]
    assert found["text"] == f"pid {writer} waits for room in a full pipe, whose reader is pid {reader}"
    assert "stuck" not in kinds(leafd)


def test_why_a_paused_container(leafd: Leafd) -> None:
    run(leafd, "--", "sleep", "1000")
    assert "paused" not in kinds(leafd)
    assert leafd.ctl("pause", "web").returncode == 0
    assert debug(leafd, "why")[0]["kind"] == "paused"
    assert "leafctl resume" in text(leafd, "why")
    assert leafd.ctl("resume", "web").returncode == 0
    assert "paused" not in kinds(leafd)


def test_why_state_d(leafd: Leafd) -> None:
    run(leafd, "--", "python3", "-c", VFORK)
    found = finding(leafd, lambda each: each["kind"] == "uninterruptible")
    assert found["pids"] == pids(leafd)[:1]
    assert "vfork" in found["text"]


def test_why_it_ended(leafd: Leafd) -> None:
    run(leafd, "--", "sh", "-c", "exit 7")
    assert leafd.ctl("wait", "web").returncode == 7
    found = debug(leafd, "why")
    assert found[0]["kind"] == "ended"
    assert found[0]["text"].startswith("ended: exited, status 7")


def test_ps_without_leafd_and_with_a_shim_that_hangs(leafd: Leafd) -> None:
    run(leafd, "--", "sh", "-c", "sleep 1000 & wait")
    finding(leafd, lambda each: "for time to pass" in each["text"])
    shim = int(str(leafd.inspect("web")["shim_pid"]))
    leafd.kill()
    before = debug(leafd, "ps")
    assert [each["command"] for each in before] == ["sh -c sleep 1000 & wait", "sleep 1000"]
    shell, sleep = before
    assert sleep["parent"] == shell["pid"]
    assert sleep["state"] == "S"
    assert sleep["rss"] > 0
    assert "nanosleep" in sleep["threads"][0]["wchan"]
    assert any("nanosleep" in frame for frame in sleep["threads"][0]["stack"])
    assert re.search(rf"\n +{shell['pid']} .* sh -c .*\n.*\n +{sleep['pid']} .*    sleep 1000\n", text(leafd, "ps"))
    os.kill(shim, signal.SIGSTOP)
    try:
        assert [each["pid"] for each in debug(leafd, "ps")] == [shell["pid"], sleep["pid"]]
        assert debug(leafd, "shim")["silence"] is not None
        assert "shim" in kinds(leafd)
    finally:
        os.kill(shim, signal.SIGCONT)


def test_shim_tells_of_itself(leafd: Leafd) -> None:
    run(leafd, "--", "sleep", "1000")
    told = debug(leafd, "shim")
    assert told["pid"] == leafd.inspect("web")["shim_pid"]
    assert told["silence"] is None
    assert {told["pid"], told["worker_pid"]} <= {each["pid"] for each in told["processes"]}
    assert all(told["memory"][str(told[who])]["pss"] > 0 for who in ("pid", "worker_pid"))
    assert {each["state"] for each in told["processes"]} <= {"R", "S"}
    watched = [each for each in told["descriptors"] if each["watched"]]
    assert any(each["target"].startswith("socket:") for each in watched)
    assert 0 < len(told["history"]) <= 200
    times = [each["time"] for each in told["history"]]
    assert times == sorted(times)
    assert any(frame.endswith("Loop.run") for frame in told["stack"])
    shown = text(leafd, "shim")
    assert f"shim {told['pid']}, version " in shown
    assert "Loop.run" in shown


def explained(leafd: Leafd) -> None:
    run(leafd, "--", "sleep", "1000")
    seen = debug(leafd, "cgroup")
    for part, path in (("container", seen["path"]), ("leaf", f"{seen['path']}/leaf")):
        assert [each["name"] for each in seen[part]] == sorted(
            entry.name for entry in Path(path).iterdir() if entry.is_file()
        )
        assert [each["name"] for each in seen[part] if not each["meaning"]] == []
    held = {each["name"]: each["value"] for each in seen["leaf"]}
    assert held["cgroup.procs"] == str(leafd.inspect("web")["pid"])
    assert held["cgroup.kill"] is None
    assert "cgroup.freeze: 1: it is to stand still" in text(leafd, "cgroup")


def test_cgroup_explains_every_file(leafd: Leafd) -> None:
    explained(leafd)


@pytest.mark.vm
def test_cgroup_explains_every_file_of_every_controller(leafd: Leafd) -> None:
    explained(leafd)
    assert control.meaning("memory.max") != ""
    assert control.meaning("no.such.file") == ""


def test_bundle_has_all_of_it_and_no_secret(leafd: Leafd, tmp_path: Path) -> None:
    run(leafd, "--env", "TOKEN=hunter2", "--", "sleep", "1000")
    path = tmp_path / "web.tar"
    made = leafd.ctl("debug", "-o", str(path), "web", "bundle")
    assert (made.returncode, made.stdout) == (0, f"{path}\n")
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    top = "leafd-debug-web/"
    assert set(content) == {f"{top}{name}.json" for name in ("why", "ps", "cgroup", "shim", "host", "config")}
    assert [each["command"] for each in json.loads(content[f"{top}ps.json"])] == ["sleep 1000"]
    assert b"TOKEN" in content[f"{top}config.json"]
    assert b"hunter2" not in path.read_bytes()
    again = leafd.ctl("debug", "-o", str(path), "web", "bundle")
    assert (again.returncode, again.stderr) == (1, f"leafctl: debug: {path}: exists already\n")


def test_nobody_but_root_learns_anything(leafd: Leafd, tmp_path: Path) -> None:
    """Also where the directories let everybody through: the shim, and the checkpoint's mode, are what refuses."""
    run(leafd, "--", "sleep", "1000")
    path = Bundle.of(str(leafd.root), "web").path
    for directory in (Path(path), *Path(path).parents):
        if directory.is_relative_to(tmp_path) or directory in (tmp_path.parent, tmp_path.parent.parent):
            directory.chmod(0o755)
    os.chmod(Bundle(path).socket, 0o666)

    def client() -> Client:
        return Client(Bundle(path).socket, DEADLINE)

    client().call(debug_api.LOOK, debug_api.LookRequest())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            asks: list[Callable[[], object]] = [
                lambda: client().call(debug_api.LOOK, debug_api.LookRequest()),
                lambda: client().call(shim_api.INFO, shim_api.InfoRequest()),
                lambda: Checkpoint.read(Bundle(path).checkpoint),
                lambda: target.find(str(leafd.root), "web").__enter__(),
            ]
            refused = 0
            for ask in asks:
                try:
                    ask()
                except (KernelError, PeerError):
                    refused += 1
            status = 0 if refused == len(asks) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with target.find(str(leafd.root), "web") as found:
        assert found.pid == leafd.inspect("web")["pid"]


def test_what_does_not_exist_is_one_line(leafd: Leafd) -> None:
    unknown = leafd.ctl("debug", "nosuch")
    assert (unknown.returncode, unknown.stderr) == (1, "leafctl: debug: nosuch: no such container\n")
    wrong = leafd.ctl("debug", "-o", "x", "nosuch", "ps")
    assert (wrong.returncode, wrong.stderr) == (2, "leafctl: debug: --output: only for bundle\n")


@pytest.mark.vm
def test_why_it_is_throttled(leafd: Leafd) -> None:
    run(leafd, "--cpus", "0.05", "--", "sh", "-c", "while :; do :; done")
    found = finding(leafd, lambda each: each["kind"] == "throttled")
    assert "cpu.max (5000 100000)" in found["text"]


@pytest.mark.vm
def test_why_it_is_under_memory_pressure(leafd: Leafd) -> None:
    program = "held = []\nwhile True: held.append(bytearray(b'x' * 65536))"
    run(leafd, "--memory-high", "24M", "--", "python3", "-c", program)
    finding(leafd, lambda each: each["kind"] == "pressure" and each["text"].endswith("for memory"))
    finding(leafd, lambda each: each["kind"] == "limit" and "memory.high" in each["text"])
