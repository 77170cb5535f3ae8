"""leafctl ps, inspect, tree, logs, events, doctor, recover and what changes a container's state."""

import asyncio
import json
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from leafd.client import AsyncClient, Client
from leafd.describe import describe
from leafshim.errors import AlreadyExists, DeadlineExceeded, InputError, NotFound

if TYPE_CHECKING:
    from tests.harness.leafd import Leafd

DEADLINE = 60
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
CONTRACT = {
    "id", "state", "pid", "shim_pid", "cgroup", "leaf", "created_at", "started_at", "finished_at", "exit_status",
    "exit_cause", "restarts", "labels",
}  # fmt: skip


def parse_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_of_ps_and_inspect(leafd: "Leafd") -> None:
    assert json.loads(leafd.ctl("--json", "ps").stdout) == []
    leafd.ctl("run", "-d", "--name", "b", "--", "sleep", "1000")
    leafd.ctl("run", "--name", "a", "--", "sh", "-c", "exit 3")
    listed = json.loads(leafd.ctl("--json", "ps").stdout)
    assert [container["id"] for container in listed] == ["a", "b"]
    assert all(container.keys() >= CONTRACT for container in listed)
    ended, running = listed
    assert (ended["state"], ended["exit_status"], ended["exit_cause"]) == ("STOPPED", 3, "exited")
    assert all(RFC3339.fullmatch(ended[key]) for key in ("created_at", "started_at", "finished_at"))
    assert (running["state"], running["exit_status"], running["finished_at"]) == ("RUNNING", None, None)
    assert listed[1] == json.loads(leafd.ctl("ps", "--json").stdout)[1]
    assert json.loads(leafd.ctl("inspect", "b").stdout) == leafd.inspect("b") == running


def test_ps_in_a_pipe_has_no_colours(leafd: "Leafd") -> None:
    leafd.ctl("run", "-d", "--name", "a", "--", "sleep", "1000")
    text = leafd.ctl("ps").stdout
    assert "\x1b" not in text
    header, line = text.splitlines()
    assert header.split() == ["ID", "STATE", "PID", "STATUS", "COMMAND"]
    assert line.split()[:3] == ["a", "RUNNING", str(leafd.inspect("a")["pid"])]


def test_pause_and_resume(leafd: "Leafd") -> None:
    leafd.ctl("run", "-d", "--name", "a", "--", "sleep", "1000")
    assert leafd.ctl("pause", "a").returncode == 0
    assert leafd.inspect("a")["paused"] is True
    assert "PAUSED" in leafd.ctl("ps").stdout
    assert leafd.ctl("exec", "a", "--", "true").returncode == 125
    assert leafd.ctl("resume", "a").returncode == 0
    assert leafd.inspect("a")["paused"] is False
    assert leafd.ctl("pause", "a").returncode == 0
    assert leafd.ctl("rm", "-f", "a").returncode == 0


def test_signals_by_name_and_number(leafd: "Leafd") -> None:
    script = "trap 'exit 11' HUP; echo ready; while :; do sleep 0.05; done"
    for number, spelling in enumerate(["HUP", "SIGHUP", "hup", str(int(signal.SIGHUP))]):
        name = f"c{number}"
        leafd.ctl("run", "-d", "--name", name, "--", "sh", "-c", script)
        follower = subprocess.Popen(leafd.command("logs", "-f", name), stdout=subprocess.PIPE)
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"ready\n"
        assert leafd.ctl("kill", "-s", spelling, name).returncode == 0
        assert leafd.ctl("wait", name).returncode == 11
        assert follower.wait(DEADLINE) == 0


def test_many_at_once_and_the_rest_after_a_failure(leafd: "Leafd") -> None:
    for name in ("a", "b"):
        leafd.ctl("run", "-d", "--name", name, "--", "sleep", "1000")
    result = leafd.ctl("stop", "-t", "0", "a", "nosuch", "b")
    assert (result.returncode, result.stderr) == (1, "leafctl: stop: nosuch: no such container\n")
    assert leafd.ctl("rm", "a", "b").returncode == 0
    assert leafd.ctl("ps", "-q").stdout == ""


def test_rm_of_what_runs_needs_force(leafd: "Leafd") -> None:
    leafd.ctl("run", "-d", "--name", "a", "--", "sleep", "1000")
    result = leafd.ctl("rm", "a")
    assert result.returncode == 1
    assert result.stderr.startswith("leafctl: rm: a")
    assert leafd.ctl("rm", "-f", "a").returncode == 0


def test_logs_follow_to_the_end(leafd: "Leafd") -> None:
    leafd.ctl("run", "-d", "-i", "--name", "a", "--", "sh", "-c", "echo one; sleep 0.3; echo two; exit 2")
    result = leafd.ctl("logs", "-f", "a")
    assert (result.returncode, result.stdout) == (0, "one\ntwo\n")
    lines = parse_lines(leafd.ctl("--json", "logs", "a").stdout)
    assert "".join(str(line["data"]) for line in lines) == "one\ntwo\n"
    assert all(RFC3339.fullmatch(str(line["time"])) and line["stream"] == "stdout" for line in lines)


def test_events_are_numbered_and_survive_leafd(leafd: "Leafd") -> None:
    leafd.ctl("run", "--name", "a", "--", "sh", "-c", "exit 3")
    leafd.ctl("wait", "a")
    before = parse_lines(leafd.ctl("--json", "events").stdout)
    assert [event["sequence"] for event in before] == list(range(1, len(before) + 1))
    assert [event["type"] for event in before if event["id"] == "a"][:3] == ["create", "start", "exit"]
    leafd.kill()
    leafd.start()
    after = parse_lines(leafd.ctl("--json", "events", "--since", str(len(before))).stdout)
    assert after[0]["sequence"] == len(before) + 1
    assert parse_lines(leafd.ctl("--json", "events").stdout)[: len(before)] == before
    assert "exited 3" in leafd.ctl("events", "a").stdout


def test_events_follow(leafd: "Leafd") -> None:
    process = subprocess.Popen(leafd.command("--json", "events", "-f"), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["type"] == "recovered"
    leafd.ctl("run", "-d", "--name", "a", "--", "true")
    seen = []
    while "exit" not in seen:
        seen.append(json.loads(process.stdout.readline())["type"])
    assert seen == ["create", "start", "exit"]
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) == 130


def test_tree(leafd: "Leafd") -> None:
    leafd.ctl("run", "-d", "--name", "a", "--", "sh", "-c", "sleep 1000 & wait")
    shown = leafd.inspect("a")
    while leafd.ctl("tree").stdout.count("sleep 1000") < 2:  # the shell has not forked yet
        pass
    lines = leafd.ctl("tree").stdout.splitlines()
    assert lines[1].startswith("└─ a  RUNNING")
    assert lines[2].startswith(f"   └─ {shown['pid']}  sh -c")
    assert lines[3].startswith("      └─ ")


def test_doctor(leafd: "Leafd") -> None:
    findings = {finding["check"]: finding for finding in json.loads(leafd.ctl("--json", "doctor").stdout)}
    assert findings["supervisor"]["result"] == findings["nursery"]["result"] == findings["cgroup2"]["result"] == "ok"
    with open(os.path.join(os.path.dirname(leafd.cgroups_root), "cgroup.controllers")) as file:
        offered = file.read().split()
    for controller in ("cpu", "io", "memory", "pids"):
        assert (controller in findings) == (controller not in offered)
    leafd.kill()
    result = leafd.ctl("doctor")
    assert (result.returncode, result.stderr) == (1, "leafctl: doctor: supervisor: see the report\n")
    assert f"{leafd.socket}: nobody listens" in result.stdout


def test_recover(leafd: "Leafd") -> None:
    leafd.ctl("run", "-d", "--name", "a", "--", "sleep", "1000")
    counts = json.loads(leafd.ctl("--json", "recover").stdout)
    assert counts.keys() == {"reconnected", "adopted", "exits_recorded", "orphans", "unknown"}
    assert leafd.ctl("recover").returncode == 0
    assert leafd.inspect("a")["state"] == "RUNNING"


def test_completion_of_ids(leafd: "Leafd") -> None:
    for name in ("alpha", "beta"):
        leafd.ctl("run", "-d", "--name", name, "--", "true")
    environment = {
        **os.environ, "_LEAFCTL_COMPLETE": "bash_complete", "COMP_WORDS": "leafctl inspect al", "COMP_CWORD": "2",
        "LEAFD_SOCKET": str(leafd.socket),
    }  # fmt: skip
    result = subprocess.run(leafd.command()[:1], env=environment, capture_output=True, encoding="utf-8")
    assert result.stdout == "plain,alpha\n"


def test_the_clients_do_the_same(leafd: "Leafd") -> None:
    socket = str(leafd.socket)
    with Client(socket) as client:
        made = client.create("a", describe(["sh", "-c", "echo hello; exit 4"]), labels={"k": "v"})
        assert (made.state, made.labels) == ("ISOLATING", {"k": "v"})
        with pytest.raises(AlreadyExists):
            client.create("a", describe(["true"]))
        with pytest.raises(DeadlineExceeded):
            client.wait("a", timeout=0.1)
        assert client.start("a").state in ("RUNNING", "STOPPED")
        ended = client.wait("a")
        assert ended.exit is not None
        assert ended.exit.status == 4
        with client.logs("a") as chunks:
            assert b"".join(chunk.data for chunk in chunks) == b"hello\n"
        with client.events(container_id="a") as events:
            assert [event.type for event in events][:3] == ["create", "start", "exit"]
        with pytest.raises(NotFound, match="ended"):
            client.pause("a")
        with pytest.raises(InputError, match=r"process\.args"):
            client.create("b", b'{"ociVersion": "1.2.0", "process": {"cwd": "/", "args": []}}')
        client.remove("a")
        with pytest.raises(NotFound):
            client.remove("a")

    async def the_same() -> None:
        async with AsyncClient(socket) as client:
            await client.create("a", describe(["sh", "-c", "echo hello; exec sleep 1000"]), start=True)
            waiting = asyncio.ensure_future(client.wait("a"))
            assert [container.id for container in await client.list()] == ["a"]
            await client.pause("a")
            assert (await client.inspect("a")).paused
            await client.resume("a")
            assert (await client.stop("a", grace=0)).state == "STOPPED"
            ended = await waiting
            assert ended.exit is not None
            assert ended.exit.status == 137
            assert b"".join([chunk.data async for chunk in client.logs("a")]) == b"hello\n"
            assert "create" in [event.type async for event in client.events(container_id="a")]
            await client.remove("a")
            with pytest.raises(NotFound):
                await client.inspect("a")
            assert (await client.recover()).unknown == 0
            assert (await client.version()).root == str(leafd.root)

    asyncio.run(the_same())
