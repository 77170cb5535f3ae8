"""leafctl exec and attach: straight to the shim, byte by byte, with leafd up or down."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from leafd.session import Session, attach, execute
from leafshim.errors import NotFound, StateError

if TYPE_CHECKING:
    from tests.harness.leafd import Leafd, Terminal

DEADLINE = 60


@pytest.fixture
def running(leafd: "Leafd") -> "Leafd":
    """A leafd with a container `a` that sleeps."""
    assert leafd.ctl("run", "-d", "--name", "a", "--env", "FROM=run", "--", "sleep", "1000").returncode == 0
    return leafd


def test_exit_statuses(running: "Leafd") -> None:
    for status in (0, 1, 42, 255):
        assert running.ctl("exec", "a", "--", "sh", "-c", f"exit {status}").returncode == status
    assert running.ctl("exec", "a", "--", "sh", "-c", "kill -KILL $$").returncode == 137


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (["a", "--", "no-such-command"], 127, "exec no-such-command: No such file or directory"),
        (["a", "--", "/etc/passwd"], 126, "exec /etc/passwd: Permission denied"),
        (["b", "--", "true"], 125, "b: no such container"),
        (["../a", "--", "true"], 125, "../a: no such container"),
        (["--user", "nosuchuser", "a", "--", "true"], 125, "--user nosuchuser: no user nosuchuser"),
        (["--cwd", "/no/such", "a", "--", "true"], 125, "chdir /no/such: No such file or directory"),
        (["--cwd", "relative", "a", "--", "true"], 125, "--cwd relative: must be an absolute path"),
        (["--env", "=", "a", "--", "true"], 125, "--env '=': must be"),
    ],
)
def test_failures_are_one_line(running: "Leafd", arguments: list[str], status: int, why: str) -> None:
    result = running.ctl("exec", *arguments)
    assert (result.returncode, result.stdout) == (status, "")
    assert result.stderr.startswith(f"leafctl: exec: {why}")
    assert result.stderr.count("\n") == 1


def test_what_it_sees(running: "Leafd") -> None:
    script = "echo $FROM $X; pwd; id -u; hostname; readlink /proc/self/ns/mnt"
    result = running.ctl("exec", "--env", "X=exec", "--cwd", "/usr", "-u", "nobody", "a", "--", "sh", "-c", script)
    lines = result.stdout.splitlines()
    assert lines[:4] == ["run exec", "/usr", "65534", "a"]
    assert lines[4] == os.readlink(f"/proc/{running.inspect('a')['pid']}/ns/mnt")


def test_streams_stay_apart(running: "Leafd") -> None:
    result = running.ctl("exec", "a", "--", "sh", "-c", "echo out; echo err >&2")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


def test_two_megabytes_both_ways_are_byte_exact(running: "Leafd") -> None:
    data = os.urandom(2 << 20)
    result = subprocess.run(
        running.command("exec", "-i", "a", "--", "cat"), input=data, capture_output=True, timeout=DEADLINE
    )
    assert result.returncode == 0
    assert result.stdout == data
    assert result.stderr == b""


def test_a_slow_reader_loses_nothing(running: "Leafd") -> None:
    """Four megabytes are more than all buffers on the way hold: the command waits for its reader."""
    command = running.command("exec", "a", "--", "sh", "-c", "head -c 4194304 /dev/zero; echo end")
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(1) == b"\0"
    with running.client as client:
        assert client.inspect("a").state == "RUNNING"
    rest = process.stdout.read()
    assert len(rest) == 4194304 - 1 + 4
    assert rest.endswith(b"end\n")
    assert process.wait(DEADLINE) == 0


def test_a_command_that_does_not_read_its_input(running: "Leafd") -> None:
    result = subprocess.run(
        running.command("exec", "-i", "a", "--", "true"), input=b"x" * (4 << 20), capture_output=True, timeout=DEADLINE
    )
    assert (result.returncode, result.stderr) == (0, b"")


def test_its_output_stays_out_of_the_log(running: "Leafd") -> None:
    running.ctl("exec", "a", "--", "echo", "hidden")
    assert running.ctl("logs", "a").stdout == ""


def test_signals_are_forwarded(running: "Leafd") -> None:
    script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(running.command("exec", "a", "--", "sh", "-c", script), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.read() == b"caught\n"
    assert process.wait(DEADLINE) == 9


def test_nobody_reads_any_more(running: "Leafd") -> None:
    process = subprocess.Popen(running.command("exec", "a", "--", "yes"), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait(DEADLINE) == 128 + signal.SIGPIPE
    events = subprocess.Popen(running.command("--json", "events", "-f", "a"), stdout=subprocess.PIPE)
    assert events.stdout is not None
    ended = next(event for event in map(json.loads, events.stdout) if event["type"] == "exec-exited")
    assert ended["exit"]["signal"] == signal.SIGPIPE
    events.kill()
    events.wait(DEADLINE)


def test_a_terminal_without_one_of_ours(running: "Leafd") -> None:
    result = running.ctl("exec", "-t", "a", "--", "tty")
    assert result.returncode == 0
    assert result.stdout.startswith("/dev/pts/")


def test_a_terminal(running: "Leafd", terminal: "Callable[[list[str]], Terminal]") -> None:
    person = terminal(running.command("exec", "-it", "a", "--", "sh"))
    person.type(b"stty size; tty\r")
    person.expect(b"24 80\r\n/dev/pts/0\r\n")
    person.resize(90, 33)
    person.type(b"stty size; echo d''one\r")
    person.expect(b"33 90\r\ndone\r\n")
    person.type(b"cat\rtext\r")
    person.expect(b"text\r\n")  # the terminal's echo; then cat's
    person.expect(b"text\r\n")
    person.type(b"\x03")
    person.expect(b"^C\r\n# ")
    person.type(b"exit 3\r")
    assert person.status() == 3


def test_a_terminal_fed_from_a_pipe(running: "Leafd") -> None:
    result = running.ctl("exec", "-it", "a", "--", "sh", stdin="echo fi''rst\n")
    assert result.returncode == 0
    assert "first" in result.stdout


def test_detaching(running: "Leafd", terminal: "Callable[[list[str]], Terminal]") -> None:
    person = terminal(running.command("exec", "-it", "a", "--", "sh", "-c", "echo re''ady; read x"))
    person.expect(b"ready")
    person.type(b"\x10\x11")
    assert person.status() == 0


def test_nothing_is_kept_of_an_exec_that_ended(running: "Leafd") -> None:
    shim_pid = running.inspect("a")["shim_pid"]
    running.ctl("exec", "-i", "a", "--", "cat", stdin="warm up")
    before = len(os.listdir(f"/proc/{shim_pid}/fd"))
    for _ in range(10):
        assert running.ctl("exec", "-i", "a", "--", "cat", stdin="text").stdout == "text"
        assert running.ctl("exec", "a", "--", "no-such-command").returncode == 127
        assert running.ctl("exec", "-t", "a", "--", "true").returncode == 0
    # One more or less: the line to a worker, which may be there or not at either time.
    assert abs(len(os.listdir(f"/proc/{shim_pid}/fd")) - before) <= 1
    result = running.ctl("--json", "tree")
    assert [process["command"] for process in json.loads(result.stdout)[0]["processes"]] == ["sleep 1000"]


def test_exec_begins_and_goes_on_while_leafd_is_down(running: "Leafd") -> None:
    process = subprocess.Popen(
        running.command("exec", "-i", "a", "--", "cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"before\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"before\n"
    running.kill()
    process.stdin.write(b"after\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"after\n"
    assert running.ctl("exec", "a", "--", "echo", "new").stdout == "new\n"
    process.stdin.close()
    assert process.wait(DEADLINE) == 0
    missing = running.ctl("exec", "b", "--", "true")
    assert missing.returncode == 125
    assert missing.stderr.startswith(f"leafctl: exec: {running.socket}: nobody listens")


def test_attach_sends_input_and_sees_what_comes_and_the_status(leafd: "Leafd") -> None:
    leafd.ctl("run", "-d", "-i", "--name", "a", "--", "sh", "-c", "read x; echo seen $x; exit 6")
    result = leafd.ctl("attach", "a", stdin="input\n")
    assert (result.returncode, result.stdout) == (6, "seen input\n")


def test_attach_that_only_watches(leafd: "Leafd") -> None:
    script = "while [ ! -e /tmp/go ]; do echo tick; sleep 0.02; done; echo end; exit 6"
    leafd.ctl("run", "-d", "-i", "--name", "a", "--", "sh", "-c", script)
    process = subprocess.Popen(leafd.command("attach", "--no-stdin", "a"), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"tick\n"
    leafd.ctl("exec", "a", "--", "touch", "/tmp/go")
    assert process.stdout.read().endswith(b"end\n")
    assert process.wait(DEADLINE) == 6


def test_attach_to_what_is_not_there(leafd: "Leafd") -> None:
    result = leafd.ctl("attach", "a")
    assert (result.returncode, result.stderr) == (1, "leafctl: attach: a: no such container\n")
    leafd.ctl("run", "--name", "a", "--", "true")
    result = leafd.ctl("attach", "a")
    assert (result.returncode, result.stderr) == (1, "leafctl: attach: a is STOPPED\n")


def test_the_session_object(running: "Leafd") -> None:
    socket = str(running.socket)
    with execute(socket, "a", ["sh", "-c", "cat; echo end >&2; exit 3"], stdin=True) as session:
        assert session.communicate(b"x" * 3_000_000) == (b"x" * 3_000_000, b"end\n")
        assert session.exited is not None
        assert (session.exited.status, session.exited.cause) == (3, "exited")
    with execute(socket, "a", ["sh", "-c", "echo ready; read x"], terminal=True, size=(70, 20)) as session:
        assert next(iter(session)).data == b"ready\r\n"
        session.resize(71, 21)
        session.kill(signal.SIGKILL)
        assert list(session) == []
        assert session.exited is not None
        assert session.exited.status == 137
        with pytest.raises(NotFound):
            session.kill(signal.SIGTERM)
    with pytest.raises(NotFound, match="b: no such container"):
        attach(socket, "b")
    with attach(socket, "a") as watching:
        assert isinstance(watching, Session)
        assert running.ctl("kill", "a").returncode == 0
        assert list(watching) == []
        assert watching.exited is not None
        assert watching.exited.signal == signal.SIGKILL
    running.ctl("wait", "a")
    with pytest.raises(StateError, match="a is STOPPED"):
        execute(socket, "a", ["true"])


def test_input_from_one_session_after_another(leafd: "Leafd") -> None:
    """The second one's window is its own, whatever the first one sent."""
    half = 5 << 20
    leafd.ctl("run", "-d", "-i", "--name", "a", "--", "sh", "-c", f"head -c {2 * half} | wc -c")
    with attach(str(leafd.socket), "a", stdin=True) as first:
        first.send(b"x" * half)
        first.flush()
    with attach(str(leafd.socket), "a", stdin=True, lossless=True) as second:
        second.send(b"y" * half)
        assert b"".join(output.data for output in second) == f"{2 * half}\n".encode()


def test_an_exec_as_somebody_that_only_the_rootfs_knows(leafd: "Leafd", tmp_path: Path) -> None:
    leafd.ctl("run", "-d", "--name", "a", "--", "sleep", "1000")
    leafd.ctl("exec", "a", "--", "sh", "-c", "echo 'ann:x:4321:4321::/home/ann:/bin/sh' >> /etc/passwd")
    result = leafd.ctl("exec", "-u", "ann", "a", "--", "sh", "-c", "id -u; echo $HOME")
    assert result.stdout == "4321\n/home/ann\n"
