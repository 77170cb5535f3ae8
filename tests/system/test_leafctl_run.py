"""leafctl run, and what it leaves: exit statuses, output to the last byte, signals, terminals, wrong input."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.harness.leafd import Leafd, Terminal

DEADLINE = 60
BURST = (
    "i=0; while [ $i -lt 40000 ]; do echo line $i of a burst, followed by the words of its long end; i=$((i+1)); done"
)


def test_detached(leafd: "Leafd") -> None:
    result = leafd.ctl("run", "-d", "--name", "a", "--label", "tier=web", "--", "sleep", "1000")
    assert (result.returncode, result.stdout, result.stderr) == (0, "a\n", "")
    shown = leafd.inspect("a")
    assert shown["state"] == "RUNNING"
    assert shown["args"] == ["sleep", "1000"]
    assert shown["labels"] == {"tier": "web"}
    assert shown["cgroup"] == f"{leafd.cgroups_root}/a"
    assert shown["leaf"] == f"{leafd.cgroups_root}/a/leaf"
    assert shown["exit_status"] is None
    assert Path(f"{shown['leaf']}/cgroup.procs").read_text().split() == [str(shown["pid"])]
    assert leafd.ctl("stop", "-t", "0", "a").returncode == 0
    stopped = leafd.inspect("a")
    assert (stopped["state"], stopped["exit_status"], stopped["exit_cause"]) == ("STOPPED", 137, "killed")


@pytest.mark.parametrize("status", [0, 1, 7, 125, 255])
def test_the_exit_status_is_the_commands_own(leafd: "Leafd", status: int) -> None:
    assert leafd.ctl("run", "--name", "a", "--", "sh", "-c", f"exit {status}").returncode == status
    assert leafd.ctl("wait", "a").returncode == status
    assert leafd.inspect("a")["exit_status"] == status


def test_the_exit_status_of_a_signal(leafd: "Leafd") -> None:
    result = leafd.ctl("run", "--name", "a", "--", "sh", "-c", "sh -c 'kill -TERM $$'; exit $?")
    assert result.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("mode", [[], ["-d"]], ids=["foreground", "detached"])
@pytest.mark.parametrize(
    ("command", "status", "why"),
    [
        ("no-such-command", 127, "exec no-such-command: No such file or directory"),
        ("/no/such/command", 127, "exec /no/such/command: No such file or directory"),
        ("/etc/passwd", 126, "exec /etc/passwd: Permission denied"),
        ("/etc", 126, "exec /etc: Permission denied"),
    ],
)
def test_what_cannot_be_executed(leafd: "Leafd", mode: list[str], command: str, status: int, why: str) -> None:
    result = leafd.ctl("run", *mode, "--name", "a", "--", command)
    assert (result.returncode, result.stdout, result.stderr) == (status, "", f"leafctl: run: {why}\n")
    assert leafd.ctl("run", "--name", "a", "--", "true").returncode == 0, "the name was not given back"


def test_streams_stay_apart(leafd: "Leafd") -> None:
    result = leafd.ctl("run", "--name", "a", "--", "sh", "-c", "echo out; echo err >&2")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    logs = leafd.ctl("logs", "a")
    assert (logs.returncode, logs.stdout, logs.stderr) == (0, "out\n", "err\n")


def test_two_megabytes_and_exit_are_byte_exact(leafd: "Leafd") -> None:
    expected = subprocess.run(["sh", "-c", BURST], stdout=subprocess.PIPE, check=True).stdout
    assert len(expected) > 2_000_000
    command = leafd.command("run", "--name", "a", "--", "sh", "-c", BURST)
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=DEADLINE).stdout == expected
    logged = subprocess.run(leafd.command("logs", "a"), stdout=subprocess.PIPE, check=True, timeout=DEADLINE)
    assert logged.stdout == expected


def test_two_random_megabytes_are_byte_exact_in_the_log(leafd: "Leafd", tmp_path: Path) -> None:
    data = os.urandom(2 << 20)
    (tmp_path / "data").write_bytes(data)
    mount = f"src={tmp_path / 'data'},dst=/mnt/data,ro"
    command = leafd.command("run", "-d", "--name", "a", "--mount", mount, "--", "cat", "/mnt/data")
    subprocess.run(command, check=True, timeout=DEADLINE, stdout=subprocess.DEVNULL)
    assert leafd.ctl("wait", "a").returncode == 0
    logged = subprocess.run(leafd.command("logs", "a"), stdout=subprocess.PIPE, check=True, timeout=DEADLINE)
    assert logged.stdout == data


def test_input_goes_in_and_ends(leafd: "Leafd") -> None:
    data = os.urandom(2 << 20)
    command = leafd.command("run", "-i", "--rm", "--", "cat")
    result = subprocess.run(command, input=data, capture_output=True, timeout=DEADLINE)
    assert result.returncode == 0
    assert result.stdout == data


def test_without_i_there_is_no_input(leafd: "Leafd") -> None:
    assert leafd.ctl("run", "--rm", "--", "cat", stdin="text").stdout == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_forwarded(leafd: "Leafd", number: signal.Signals) -> None:
    script = f"trap 'echo caught; exit 9' {number.value}; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(leafd.command("run", "--rm", "--", "sh", "-c", script), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.stdout.read() == b"caught\n"
    assert process.wait(DEADLINE) == 9


def test_rm_leaves_nothing_and_the_name_is_free_at_once(leafd: "Leafd") -> None:
    for _ in range(3):
        assert leafd.ctl("run", "--rm", "--name", "a", "--", "true").returncode == 0
    assert leafd.ctl("ps", "-q").stdout == ""


def test_a_stopped_container_can_be_removed_at_once(leafd: "Leafd") -> None:
    for _ in range(3):
        assert leafd.ctl("run", "--name", "a", "--", "true").returncode == 0
        result = leafd.ctl("rm", "a")
        assert (result.returncode, result.stderr) == (0, "")


def test_nobody_reads_any_more(leafd: "Leafd") -> None:
    process = subprocess.Popen(leafd.command("run", "--name", "a", "--", "yes"), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait(DEADLINE) == 128 + signal.SIGPIPE
    assert leafd.ctl("wait", "a").returncode == 128 + signal.SIGKILL


def test_interrupted_before_it_started(leafd: "Leafd") -> None:
    """leafd is stopped, so that leafctl is for certain waiting for it when it is ended."""
    assert leafd.process is not None
    leafd.process.send_signal(signal.SIGSTOP)
    process = subprocess.Popen(leafd.command("run", "--name", "a", "--", "true"), stderr=subprocess.PIPE)
    poll_for_connection(process.pid)
    process.send_signal(signal.SIGTERM)
    leafd.process.send_signal(signal.SIGCONT)
    assert process.wait(DEADLINE) == 130
    assert leafd.ctl("ps", "-q").stdout == ""


def poll_for_connection(pid: int) -> None:
    """Wait until a process sleeps in poll(2), which leafctl does when it has asked leafd something."""
    while "poll" not in Path(f"/proc/{pid}/wchan").read_text():
        pass


def test_what_it_sees(leafd: "Leafd", tmp_path: Path) -> None:
    script = "hostname; pwd; echo $A $B; id -u; echo $$; ls /run; touch /etc/leafd-was-here /tmp/x && echo written"
    result = leafd.ctl(
        "run", "--rm", "--hostname", "h", "--cwd", "/usr", "--env", "A=1", "-e", "B=2", "--", "sh", "-c", script
    )
    assert result.stdout.splitlines() == ["h", "/usr", "1 2", "0", "1", "written"]
    assert not os.path.exists("/etc/leafd-was-here")


def test_users(leafd: "Leafd") -> None:
    assert leafd.ctl("run", "--rm", "--user", "nobody", "--", "id", "-u").stdout == "65534\n"
    assert leafd.ctl("run", "--rm", "-u", "4321:8765", "--", "sh", "-c", "id -u; id -g").stdout == "4321\n8765\n"


def test_networks(leafd: "Leafd") -> None:
    script = "tail -n +3 /proc/net/dev | wc -l; readlink /proc/self/ns/net"
    alone = leafd.ctl("run", "--rm", "--net", "none", "--", "sh", "-c", script).stdout.split()
    shared = leafd.ctl("run", "--rm", "--", "sh", "-c", script).stdout.split()
    assert alone[0] == "1"
    assert shared[1] == os.readlink("/proc/self/ns/net") != alone[1]


def test_mounts(leafd: "Leafd", tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    script = "cat /mnt/a/file; echo new > /mnt/b/new; echo no > /mnt/a/new"
    result = leafd.ctl(
        "run", "--rm", "--mount", f"type=bind,src={tmp_path},dst=/mnt/a,ro", "--mount", f"src={tmp_path},dst=/mnt/b",
        "--", "sh", "-c", script,
    )  # fmt: skip
    assert result.stdout == "content"
    assert "Read-only file system" in result.stderr
    assert (tmp_path / "new").read_text() == "new\n"


def test_a_bundle(leafd: "Leafd", tmp_path: Path) -> None:
    described = leafd.ctl("run", "-d", "--name", "a", "--", "sh", "-c", "echo from a bundle; exit 3")
    assert described.returncode == 0
    config = json.loads((Path(str(leafd.inspect("a")["bundle"])) / "config.json").read_text())
    config.pop("root", None)
    config["linux"].pop("cgroupsPath", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = leafd.ctl("run", "--rm", "--bundle", str(tmp_path))
    assert (result.returncode, result.stdout, result.stderr) == (3, "from a bundle\n", "")
    assert leafd.ctl("run", "--rm", "--bundle", str(tmp_path), "--", "echo", "other").stdout == "other\n"
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused = leafd.ctl("run", "--bundle", str(tmp_path))
    assert (refused.returncode, refused.stderr) == (125, "leafctl: run: linux.seccomp: not supported yet\n")


def test_a_timeout_is_a_limitation(leafd: "Leafd") -> None:
    assert leafd.ctl("run", "--name", "a", "--timeout", "200ms", "--", "sleep", "1000").returncode == 137
    assert leafd.inspect("a")["exit_cause"] == "limitation"


def test_generated_names(leafd: "Leafd") -> None:
    names = {leafd.ctl("run", "-d", "--", "true").stdout.strip() for _ in range(3)}
    assert len(names) == 3
    assert all(len(name.split("-")) == 2 for name in names)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--name", "a/b"], "a: no such container"),
        (["--name", "../a"], "container id '../a': "),
        (["--name", ""], "container id ''"),
        (["--name", "a\nb"], "container id "),
        (["--name", "x" * 65], "container id "),
        (["--name", "agent"], "container id 'agent': agent is reserved"),
        (["--rootfs", "/no/such/rootfs"], "--rootfs /no/such/rootfs: no such directory"),
        (["--rootfs", "/etc/passwd"], "--rootfs /etc/passwd: no such directory"),
        (["--cwd", "/no/such/directory"], "chdir /no/such/directory: No such file or directory"),
        (["--user", "nosuchuser"], "--user nosuchuser: no user nosuchuser"),
        (["--user", "4294967295"], "--user 4294967295: "),
        (["--mount", "src=/no/such,dst=/mnt"], "/no/such"),
        (["--hostname", "h" * 65], "hostname: "),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(leafd: "Leafd", arguments: list[str], why: str) -> None:
    result = leafd.ctl("run", *arguments, "--", "true")
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr.startswith("leafctl: run: ")
    assert why in result.stderr
    assert result.stderr.count("\n") == 1
    assert leafd.ctl("ps", "-q").stdout == ""
    assert sorted(os.listdir(leafd.root / "containers")) == []


def test_a_name_that_is_taken(leafd: "Leafd") -> None:
    assert leafd.ctl("run", "-d", "--name", "a", "--", "sleep", "1000").returncode == 0
    pid = leafd.inspect("a")["pid"]
    result = leafd.ctl("run", "-d", "--name", "a", "--", "true")
    assert result.returncode == 125
    assert result.stderr == "leafctl: run: a: a container of that name exists\n"
    assert leafd.inspect("a")["pid"] == pid


@pytest.mark.parametrize(
    ("flags", "controller"),
    [
        (["--memory", "64M"], "memory"),
        (["--cpus", "0.5"], "cpu"),
        (["--pids", "10"], "pids"),
        (["--cpuset-cpus", "0"], "cpuset"),
    ],
)
def test_a_limit_is_never_dropped(leafd: "Leafd", flags: list[str], controller: str) -> None:
    with leafd.client as client:
        offered = client.version().controllers
    result = leafd.ctl("run", *flags, "--", "true")
    assert result.returncode == 125
    if controller not in offered:
        assert f"{flags[0]}: this host has no {controller} controller in {leafd.cgroups_root}" in result.stderr
    else:
        assert "linux.resources" in result.stderr


def test_a_terminal(leafd: "Leafd", terminal: "Callable[[list[str]], Terminal]") -> None:
    person = terminal(leafd.command("run", "-it", "--rm", "--", "sh"))
    person.expect(b"# ")
    person.type(b"stty size; tty; echo $TERM-\r")
    person.expect(b"24 80\r\n/dev/pts/0\r\n")
    person.resize(100, 30)
    # The signal and the keys come to leafctl by two ways, in any order.
    person.type(b"until stty size | grep -q '30 100'; do sleep 0.1; done; echo d''one\r")
    person.expect(b"done\r\n")
    person.type(b"cat\rtext\r")
    person.expect(b"text\r\n")  # the terminal's echo; then cat's
    person.expect(b"text\r\n")
    person.type(b"\x03")  # a key to the container's terminal, no signal to leafctl
    person.expect(b"^C\r\n# ")
    person.type(b"exit 5\r")
    assert person.status() == 5


def test_detaching_leaves_it_running_and_attach_comes_back(
    leafd: "Leafd", terminal: "Callable[[list[str]], Terminal]"
) -> None:
    person = terminal(leafd.command("run", "-it", "--name", "a", "--", "sh"))
    person.type(b"echo f''irst\r")
    person.expect(b"first\r\n")
    person.type(b"\x10\x11")
    assert person.status() == 0
    assert leafd.inspect("a")["state"] == "RUNNING"
    again = terminal(leafd.command("attach", "a"))
    again.type(b"echo se''cond\r")
    again.expect(b"second\r\n")
    again.type(b"exit 4\r")
    assert again.status() == 4
    assert "first" in leafd.ctl("logs", "a").stdout


def test_the_terminal_is_put_back_when_leafctl_is_ended(
    leafd: "Leafd", terminal: "Callable[[list[str]], Terminal]"
) -> None:
    person = terminal(leafd.command("run", "-it", "--rm", "--", "sh", "-c", "trap 'exit 6' TERM; echo re''ady; read x"))
    person.expect(b"ready")
    person.process.send_signal(signal.SIGTERM)
    assert person.status() == 6


def test_foreground_goes_on_while_leafd_is_down(leafd: "Leafd") -> None:
    script = "echo one; read x; echo two $x; exit 8"
    process = subprocess.Popen(
        leafd.command("run", "-i", "--name", "a", "--", "sh", "-c", script),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"one\n"
    leafd.kill()
    process.stdin.write(b"input\n")
    process.stdin.close()
    assert process.stdout.read() == b"two input\n"
    assert process.wait(DEADLINE) == 8
    leafd.start()
    assert leafd.ctl("wait", "a").returncode == 8
