"""leafctl run --on-…: what is told when a limit is hit, what ends, and that it outlives leafd."""

import json
import os
import signal
from pathlib import Path

import pytest

from leafd.client import Client
from tests.harness.leafd import Leafd

MiB = 1 << 20
MAP = "import mmap\ntry: mmap.mmap(-1, 2 << 20, flags=0x40022)\nexcept OSError: pass\n"  # MAP_HUGETLB
EAT = f"held = bytearray(b'x' * {96 * MiB})"
WAIT = "import time; time.sleep(1000)"


@pytest.fixture
def leafd(patient: Leafd) -> Leafd:
    """A running leafd, and a patient one."""
    return patient


def run(leafd: Leafd, *arguments: str) -> None:
    result = leafd.ctl("run", "-d", "--name", "web", *arguments)
    assert (result.returncode, result.stderr) == (0, "")


def wait_for(leafd: Leafd, kind: str, times: int = 1) -> None:
    """Until leafd's journal has that many events of that type."""
    with leafd.client as client:
        found = (event for event in client.events(follow=True) if event.type == kind)
        for _ in range(times):
            next(found)


def kinds(client: Client) -> list[str]:
    return [event.type for event in client.events(container_id="web")]


def test_an_event_says_what_happened_and_nothing_ends(leafd: Leafd) -> None:
    run(leafd, "--hugetlb", "2MB=0", "--", "python3", "-c", MAP + WAIT)
    wait_for(leafd, "hugetlb")
    shown = [json.loads(line) for line in leafd.ctl("--json", "events").stdout.splitlines()]
    (told,) = [event["limitation"] for event in shown if event["type"] == "hugetlb"]
    assert told == {
        "kind": "hugetlb",
        "resource": "hugetlb.2MB",
        "scope": "own",
        "cgroup": leafd.inspect("web")["cgroup"],
        "message": "no more huge pages of 2MB: its own limit; refused 1 (limit 0)",
        "figures": {"limit": 0, "refused": 1},
    }
    assert "hugetlb (no more huge pages of 2MB: its own limit; " in leafd.ctl("events").stdout
    assert leafd.inspect("web")["state"] == "RUNNING"


def test_a_policy_outlives_leafd_and_each_restart_of_the_container(leafd: Leafd) -> None:
    run(leafd, "--hugetlb", "2MB=0", "--on-hugetlb", "kill", "--restart", "always", "--", "python3", "-c", MAP + WAIT)
    wait_for(leafd, "restarted")
    leafd.kill()
    leafd.start(*leafd.patient())
    wait_for(leafd, "restarted", 2)
    wait_for(leafd, "hugetlb", 3)
    assert leafd.ctl("stop", "-t", "0", "web").returncode == 0
    with leafd.client as client:
        ends = [event.exit for event in client.events() if event.type == "exit"]
    assert len(ends) >= 3
    limitations = [end.limitation.kind for end in ends[:3] if end is not None and end.limitation is not None]
    assert limitations == ["hugetlb"] * 3


def test_what_ended_it_is_shown_by_inspect(leafd: Leafd) -> None:
    run(leafd, "--hugetlb", "2MB=0", "--on-hugetlb", "kill", "--", "python3", "-c", MAP + WAIT)
    assert leafd.ctl("wait", "web").returncode == 137
    shown = leafd.inspect("web")
    assert shown["exit_cause"] == "limitation"
    end = shown["exit"]
    assert isinstance(end, dict)
    assert end["limitation"]["kind"] == "hugetlb"
    assert end["limitation"]["figures"]["refused"] == 1
    assert end["message"] == end["limitation"]["message"]
    leafd.kill()
    leafd.start(*leafd.patient())
    assert leafd.inspect("web")["exit"] == end


def test_what_a_new_shim_takes_over_is_watched(leafd: Leafd, tmp_path: Path) -> None:
    """With the counts and the policy of the one before."""
    fifo = tmp_path / "mnt"
    fifo.mkdir()
    os.mkfifo(fifo / "go")
    program = f"{MAP}open('/mnt/go').read()\n{MAP}{WAIT}"
    mount = f"src={fifo},dst=/mnt"
    run(leafd, "--hugetlb", "2MB=0", "--mount", mount, "--", "python3", "-c", program)
    wait_for(leafd, "hugetlb")
    shim = leafd.inspect("web")["shim_pid"]
    assert isinstance(shim, int)
    os.kill(shim, signal.SIGKILL)
    wait_for(leafd, "adopted")
    (fifo / "go").write_text("")
    wait_for(leafd, "hugetlb", 2)
    with leafd.client as client:
        told = [event.limitation for event in client.events() if event.type == "hugetlb"]
    counts = [{figure.name: figure.value for figure in hit.figures}["refused"] for hit in told if hit is not None]
    assert counts == [1, 1]
    assert leafd.ctl("stop", "-t", "0", "web").returncode == 0
    assert leafd.inspect("web")["exit_cause"] == "killed"


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--on-oom", "panic"], "Invalid value for '--on-oom': 'panic' is not one of 'event', 'kill'."),
        (["--on-pressure", "memory"], "--on-pressure memory: must be RESOURCE[-full]:STALL/WINDOW[=ACTION], as "),
        (["--on-pressure", "disk:1ms/1s"], "pressure disk: must be of one of cpu, io, memory"),
        (["--on-pressure", "io:2s/1s"], "pressure io: the threshold must be more than 0, and at most the window"),
        (["--on-pressure", "io:1ms/1s=shout"], "--on-pressure io:1ms/1s=shout: 'shout' must be one of event, kill"),
    ],
)
def test_a_policy_that_is_none_is_refused(leafd: Leafd, flags: list[str], why: str) -> None:
    result = leafd.ctl("run", "-d", *flags, "--", "true")
    assert result.returncode != 0
    assert why in result.stderr
    assert leafd.ctl("--json", "ps").stdout.strip() == "[]"


@pytest.mark.vm
def test_found_wanting_08_a_past_oom_is_past_for_a_new_leafd(leafd: Leafd) -> None:
    program = f"import subprocess, time; subprocess.run(['python3', '-c', {EAT!r}]); time.sleep(1000)"
    run(leafd, "--memory", "48M", "--", "python3", "-c", program)
    wait_for(leafd, "oom")
    leafd.kill()
    leafd.start(*leafd.patient())
    assert leafd.inspect("web")["state"] == "RUNNING"
    assert leafd.ctl("stop", "-t", "0", "web").returncode == 0
    shown = leafd.inspect("web")
    assert shown["exit_cause"] == "killed"
    end = shown["exit"]
    assert isinstance(end, dict)
    assert (end["limitation"], end["oom_kills"]) == (None, 1)
    with leafd.client as client:
        assert kinds(client) == ["create", "start", "oom", "exit"]


@pytest.mark.vm
def test_an_oom_without_leafd_is_told_to_the_next(leafd: Leafd, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    fifo.mkdir()
    (fifo / "go").touch()
    program = f"import time\nwhile open('/mnt/go').read() != 'now': time.sleep(0.1)\n{EAT}"
    run(leafd, "--memory", "48M", "--mount", f"src={fifo},dst=/mnt", "--", "python3", "-c", program)
    leafd.kill()
    (fifo / "go").write_text("now")
    leafd.start(*leafd.patient())
    assert leafd.ctl("wait", "web").returncode == 137
    assert leafd.inspect("web")["exit_cause"] == "oom"
    with leafd.client as client:
        assert kinds(client) == ["create", "start", "oom", "exit"]


@pytest.mark.vm
def test_on_oom_kill_ends_a_container_whose_child_was_killed(leafd: Leafd) -> None:
    program = f"import subprocess, time; subprocess.run(['python3', '-c', {EAT!r}]); time.sleep(1000)"
    run(leafd, "--memory", "48M", "--on-oom", "kill", "--", "python3", "-c", program)
    assert leafd.ctl("wait", "web").returncode == 137
    assert leafd.inspect("web")["exit_cause"] == "oom"


@pytest.mark.vm
def test_pressure_by_flag(leafd: Leafd) -> None:
    run(leafd, "--cpus", "0.1", "--on-pressure", "cpu:100ms/1s", "--", "sh", "-c", "while :; do :; done")
    wait_for(leafd, "pressure")
    assert leafd.inspect("web")["state"] == "RUNNING"
