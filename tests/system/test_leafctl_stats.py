"""leafctl stats: what containers use, whoever of ours is alive."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leafd.cli.command import execute
from tests.harness.figures import documented, unexplained
from tests.harness.leafd import DEADLINE, Leafd, Terminal

BUSY = "while :; do :; done"
MiB = 1 << 20


def run(leafd: Leafd, name: str, *command: str, flags: tuple[str, ...] = ()) -> None:
    result = leafd.ctl("run", "-d", "--name", name, *flags, "--", *(command or ("sleep", "1000")))
    assert (result.returncode, result.stderr) == (0, "")


def look(leafd: Leafd, *arguments: str) -> Any:
    """`leafctl --json stats`, by id."""
    result = leafd.ctl("--json", "stats", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return {each["id"]: each for each in json.loads(result.stdout)}


def test_busy_and_idle_are_told_apart(leafd: Leafd) -> None:
    run(leafd, "busy", "sh", "-c", BUSY)
    run(leafd, "idle")
    shown = look(leafd, "--duration", "0.3")
    assert list(shown) == ["busy", "idle"]
    assert shown["busy"]["cpu"]["percent"] > 0
    assert shown["busy"]["cpu"]["stat"]["usage_usec"] > shown["idle"]["cpu"]["stat"]["usage_usec"]
    assert shown["idle"]["cpu"]["percent"] == 0
    assert shown["idle"]["cgroup"]["procs"] == 1
    assert shown["busy"]["time"].endswith("Z")
    at_once = look(leafd, "busy", "--duration", "0")
    assert list(at_once) == ["busy"]
    assert at_once["busy"]["cpu"]["percent"] is None


def test_every_figure_of_this_host_is_documented(leafd: Leafd) -> None:
    run(leafd, "web", flags=("--hugetlb", "2MB=6M", "--net", "none"))
    shown = look(leafd, "web", "--duration", "0.01", "--perf", "all")["web"]
    assert shown["hugetlb"]["2MB"]["max"] == 6 * MiB
    assert list(shown["network"]) == ["lo"]
    assert unexplained(shown, documented())[1] == []


@pytest.mark.vm
def test_every_documented_figure_is_there_and_every_figure_is_documented(leafd: Leafd) -> None:
    run(leafd, "web", flags=("--memory", "64M", "--pids", "9"))
    shown = look(leafd, "web", "--duration", "0")["web"]
    figures = documented()
    missing, foreign = unexplained(shown, figures)
    assert foreign == []
    assert [figure for figure in missing if figures[figure] in ("", "PSI")] == []
    assert shown["memory"]["max"] == 64 * MiB
    assert shown["limits"]["pids.max"] == "9"


def test_perf_sample(leafd: Leafd) -> None:
    """PERF_Sample: a set of events, a duration, an interval; what a container does is its own."""
    run(leafd, "busy", "sh", "-c", BUSY)
    run(leafd, "idle")
    flags = ("--perf", "task-clock,page-faults", "--duration", "0.2")
    shown = look(leafd, *flags)
    assert shown["busy"]["perf"].keys() == {"seconds", "task-clock", "page-faults"}
    assert shown["busy"]["perf"]["seconds"] >= 0.2
    assert shown["busy"]["perf"]["task-clock"] > 0
    assert shown["idle"]["perf"] | {"seconds": 0} == {"seconds": 0, "task-clock": 0, "page-faults": 0}
    table = leafd.ctl("stats", *flags).stdout.splitlines()
    assert table[0].split() == ["ID", "task-clock", "page-faults"]
    assert table[2].split() == ["idle", "0", "0"]
    with stream(leafd, *flags, "-i", "0.3", "busy") as process:
        looks = [json.loads(next(lines(process)))[0]["perf"]["task-clock"] for _ in range(3)]
    assert min(looks) > 0


@pytest.mark.vm
def test_perf_sample_where_every_controller_is(leafd: Leafd) -> None:
    run(leafd, "busy", "sh", "-c", BUSY, flags=("--cpus", "0.5"))
    perf = look(leafd, "--perf", "all", "--duration", "1")["busy"]["perf"]
    assert 0 < perf["task-clock"] < 1e9 * perf["seconds"]
    assert perf["context-switches"] > 0


def stream(leafd: Leafd, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        leafd.command("--json", "stats", "--stream", *arguments), stdout=subprocess.PIPE, encoding="utf-8"
    )


def lines(process: "subprocess.Popen[str]") -> Iterator[str]:
    assert process.stdout is not None
    return iter(process.stdout.readline, "")


def test_a_stream_has_a_line_a_look_and_ends_with_what_it_is_about(leafd: Leafd) -> None:
    run(leafd, "web")
    with stream(leafd, "-i", "0.1", "web") as process:
        shown = lines(process)
        first, second = json.loads(next(shown)), json.loads(next(shown))
        assert first[0]["id"] == second[0]["id"] == "web"
        assert first[0]["time"] < second[0]["time"]
        leafd.ctl("stop", "-t", "0", "web")
        *_, last = shown
        assert json.loads(last) == []
        assert process.wait(DEADLINE) == 0


def test_a_stream_of_all_shows_those_that_come_and_go(leafd: Leafd) -> None:
    with stream(leafd, "-i", "0.1") as process:
        shown = map(json.loads, lines(process))
        assert next(shown) == []
        run(leafd, "web")
        assert next(each for each in shown if each)[0]["id"] == "web"
        leafd.ctl("stop", "-t", "0", "web")
        assert next(each for each in shown if not each) == []
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130


def test_a_reader_that_goes_away_ends_it(leafd: Leafd) -> None:
    with stream(leafd, "-i", "0.1") as process:
        next(lines(process))
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(DEADLINE) == 141


def test_nobody_is_asked_who_could_hang(leafd: Leafd) -> None:
    run(leafd, "web")
    run(leafd, "stuck")
    shim = int(str(leafd.inspect("stuck")["shim_pid"]))
    os.kill(shim, signal.SIGSTOP)
    try:
        assert list(look(leafd, "--duration", "0")) == ["stuck", "web"]
        assert look(leafd, "--duration", "0", "stuck")["stuck"]["cgroup"]["procs"] == 1
        leafd.kill()
        assert list(look(leafd, "--duration", "0")) == ["stuck", "web"]
        assert list(look(leafd, "--duration", "0", "stuck")) == ["stuck"]
        refused = leafd.ctl("stats", "nobody")
        assert (refused.returncode, refused.stderr) == (1, "leafctl: stats: nobody: no such container\n")
    finally:
        os.kill(shim, signal.SIGCONT)


def test_a_look_wakes_no_shim(leafd: Leafd) -> None:
    run(leafd, "web")
    shim = int(str(leafd.inspect("web")["shim_pid"]))
    woken = []
    for _ in range(5):  # the worker of the launch may still be about to end
        before = switches(shim)
        look(leafd, "--duration", "0.1")
        woken.append(switches(shim) != before)
    assert not woken[-1], woken


def switches(pid: int) -> str:
    found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_table_fits_a_terminal(leafd: Leafd, terminal: Callable[[list[str]], Terminal]) -> None:
    run(leafd, "a" * 64)
    run(leafd, "web")
    person = terminal(leafd.command("stats", "-i", "0.2"))
    frame = person.expect(b"\033[H\033[J") + person.expect(b"\033[H\033[J")
    shown = re.sub(r"\033\[[A-Z]", "", frame.decode()).splitlines()
    assert shown[0].split() == ["ID", "CPU", "MEMORY", "SWAP", "PIDS", "READ", "WRITE", "PSI"]
    assert [line.split()[0] for line in shown[1:3]] == [shown[1].split()[0], "web"]
    assert shown[1].startswith("aaaaaaaa")
    assert "…" in shown[1]
    assert max(map(len, shown)) <= 80
    person.process.send_signal(signal.SIGINT)
    assert person.status() == 130


def test_more_than_a_terminal_has_room_for(leafd: Leafd, terminal: Callable[[list[str]], Terminal]) -> None:
    for number in range(3):
        run(leafd, f"web{number}")
    person = terminal(leafd.command("stats", "-i", "0.2"))
    person.expect(b"web2")
    person.resize(80, 5)
    person.expect(b"\xe2\x80\xa6 and 1 more")
    person.process.send_signal(signal.SIGINT)
    assert person.status() == 130


def test_what_cannot_be_is_refused_in_one_line(leafd: Leafd) -> None:
    run(leafd, "gone", "true")
    leafd.ctl("wait", "gone")
    for arguments, status, complaint in (
        (("gone",), 1, "gone is STOPPED"),
        (("--perf", "no-such"), 1, "perf event no-such: must be one of cycles, "),
        (("--perf", ","), 2, "--perf: no event is named"),
        (("--stream", "-i", "0"), 2, "--interval: must be more than 0 for --stream"),
        (("--stream", "-i", "1", "--duration", "2"), 2, "--duration: must not be longer than --interval"),
        (("--perf", "task-clock", "--duration", "0"), 2, "--duration: must be more than 0 for --perf"),
        (("-i", "-1"), 2, "Invalid value for '-i'"),
    ):
        result = leafd.ctl("stats", *arguments)
        assert (result.returncode, result.stdout) == (status, "")
        assert result.stderr.startswith(f"leafctl: stats: {complaint}")
        assert result.stderr.count("\n") == 1


def test_without_leafd_and_containers_it_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert execute(["--socket", str(tmp_path / "leafd.sock"), "stats"]) == 1
    assert capfd.readouterr().err.startswith("leafctl: stats: ")
