"""command.py: every failure is one line and a status, whoever is at the other end of the socket."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from leafd.cli.command import BROKEN_PIPE, COMMANDS, execute

# One call of each command that talks to leafd.
CALLS = [
    ["ps"],
    ["inspect", "a"],
    ["tree"],
    ["logs", "a"],
    ["logs", "-f", "a"],
    ["events"],
    ["wait", "a"],
    ["stop", "a"],
    ["kill", "a"],
    ["pause", "a"],
    ["resume", "a"],
    ["rm", "a"],
    ["recover"],
    ["attach", "a"],
    ["run", "--", "true"],
    ["exec", "a", "--", "true"],
]


@contextmanager
def peer(path: Path, answer: bytes) -> Iterator[None]:
    """A server that sends `answer` to whoever asks it something, and hangs up."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def assert_one_line(capsys: pytest.CaptureFixture[str], what: str) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"leafctl: {what}: "), captured.err
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


def expected_status(call: list[str]) -> int:
    return 125 if call[0] in ("run", "exec") else 1


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_nobody_at_the_socket(call: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "leafd.sock"
    assert execute(["--socket", str(path), *call]) == expected_status(call)
    assert str(path) in assert_one_line(capsys, call[0])


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_a_file_that_is_no_socket(call: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "leafd.sock"
    path.write_text("not a socket")
    assert execute(["--socket", str(path), *call]) == expected_status(call)
    assert_one_line(capsys, call[0])


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 40, b"\xff" * 4096, os.urandom(999)]
)
@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_a_peer_that_is_no_leafd(
    call: list[str], answer: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "leafd.sock"
    with peer(path, answer):
        assert execute(["--socket", str(path), *call]) == expected_status(call)
    assert_one_line(capsys, call[0])


def test_a_socket_that_we_may_not_open(tmp_path: Path) -> None:
    """Root may open anything, so somebody else asks, who needs all modules loaded as they may not read those either."""
    (tmp_path / "run").mkdir(mode=0o700)
    code = (
        "import os, sys; from leafd.cli.command import execute\n"
        f"ask = lambda: execute(['--socket', {str(tmp_path / 'run/leafd.sock')!r}, 'ps'])\n"
        "ask(); os.setuid(65534); sys.exit(ask())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60)
    first, second = result.stderr.splitlines()
    assert "No such file" in first
    assert result.returncode == 1
    assert second.startswith("leafctl: ps: ")
    assert second.endswith("Permission denied")


@pytest.mark.parametrize(
    ("call", "status", "message"),
    [
        ([], 2, "leafctl: "),
        (["frob"], 2, "leafctl: No such command 'frob'"),
        (["--frob", "ps"], 2, "leafctl: No such option '--frob'"),
        (["ps", "--frob"], 2, "leafctl: ps: No such option '--frob'"),
        (["ps", "extra"], 2, "leafctl: ps: Got unexpected extra argument"),
        (["inspect"], 2, "leafctl: inspect: Missing argument 'ID'"),
        (["stop", "-t", "x", "a"], 2, "leafctl: stop: Invalid value"),
        (["stop", "-t", "-1", "a"], 2, "leafctl: stop: Invalid value"),
        (["kill", "-s", "NOPE", "a"], 2, "leafctl: kill: Invalid value for '-s' / '--signal': NOPE is no signal"),
        (["kill", "-s", "99", "a"], 2, "leafctl: kill: Invalid value for '-s' / '--signal': 99 is no signal"),
        (["events", "--since", "-1"], 2, "leafctl: events: Invalid value"),
        (["completion", "tcsh"], 2, "leafctl: completion: Invalid value"),
        (["run"], 125, "leafctl: run: no command"),
        (["run", "--"], 125, "leafctl: run: no command"),
        (["run", "--frob", "--", "true"], 125, "leafctl: run: No such option '--frob'"),
        (["run", "--net", "bridge", "--", "true"], 125, "leafctl: run: Invalid value for '--net'"),
        (["run", "--restart", "always", "--", "true"], 125, "leafctl: run: --restart needs -d"),
        (["run", "--bundle", "/x", "--env", "A=1"], 125, "leafctl: run: --env does not go with --bundle"),
        (["run", "--bundle", "/nonexistent"], 125, "leafctl: run: --bundle /nonexistent: no such directory"),
        (["run", "--rootfs", "/nonexistent", "--", "x"], 125, "leafctl: run: --rootfs /nonexistent: no such directory"),
        (["run", "--mount", "src=a,dst=/b", "--", "x"], 125, "leafctl: run: --mount src=a,dst=/b: src must be"),
        (["run", "--memory", "lots", "--", "x"], 125, "leafctl: run: --memory lots: must be a size"),
        (["run", "--timeout", "soon", "--", "x"], 125, "leafctl: run: --timeout soon: must be a time"),
        (["run", "--label", "x", "--", "x"], 125, "leafctl: run: --label x: must be NAME=VALUE"),
        (["exec"], 125, "leafctl: exec: Missing argument"),
        (["exec", "a"], 125, "leafctl: exec: Missing argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(call: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(call) == status
    captured = capsys.readouterr()
    if call:
        assert captured.err.startswith(message), captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([command, "--help"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"Usage: leafctl {command}")
    assert captured.err == ""


def test_help_lists_every_command_and_the_sections(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {command} " in text for command in COMMANDS)
    assert "Examples:" in text


def test_help_imports_no_command() -> None:
    code = (
        "import sys; from leafd.cli.command import execute; execute(['--help']);"
        "print(sorted(name for name in sys.modules if name.startswith('leafd.')), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert result.stderr.strip() == "['leafd.cli', 'leafd.cli.command']"


def test_ps_imports_nothing_that_is_slow() -> None:
    code = (
        "import sys; from leafd.cli.command import execute; execute(['--socket', '/nonexistent', 'ps']);"
        "print(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60, check=True)
    slow = {
        "asyncio",
        "dataclasses",
        "logging",
        "subprocess",
        "psutil",
        "rich",
        "msgpack",
        "google.protobuf",
        "pathlib",
    }
    assert not slow & set(result.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["completion", shell]) == 0
    assert "_LEAFCTL_COMPLETE" in capsys.readouterr().out


def test_completion_completes_commands_without_leafd() -> None:
    environment = {**os.environ, "_LEAFCTL_COMPLETE": "bash_complete", "COMP_WORDS": "leafctl in", "COMP_CWORD": "1"}
    leafctl = str(Path(sys.executable).parent / "leafctl")
    result = subprocess.run([leafctl], env=environment, capture_output=True, encoding="utf-8", timeout=60)
    assert result.stdout == "plain,inspect\n"
    assert result.stderr == ""


def test_completion_of_ids_is_silent_without_leafd() -> None:
    environment = {
        **os.environ,
        "_LEAFCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": "leafctl inspect a",
        "COMP_CWORD": "2",
        "LEAFD_SOCKET": "/nonexistent",
    }
    leafctl = str(Path(sys.executable).parent / "leafctl")
    result = subprocess.run([leafctl], env=environment, capture_output=True, encoding="utf-8", timeout=60)
    assert (result.stdout.strip(), result.stderr) == ("", "")


def test_a_reader_that_goes_away_is_no_failure_to_talk_about() -> None:
    leafctl = str(Path(sys.executable).parent / "leafctl")
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([leafctl, "completion", "fish"], stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert result.returncode == BROKEN_PIPE
    assert result.stderr == b""
