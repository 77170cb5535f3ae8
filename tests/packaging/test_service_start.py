"""What a service manager does with leafd: hands a socket over, and sends SIGHUP."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from leafd.client import Client
from leafd.listening import Listener
from leafd.reload import reload_log_level
from tests.harness.leafd import BIN, DEADLINE, Leafd

# Becomes leafd, as systemd's child does after it has descriptor 3: LISTEN_PID is its own pid (sd_listen_fds(3)).
BECOME = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.execve(sys.argv[2], sys.argv[2:], {**os.environ, "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
"""


def bound(path: Path, mode: int = 0o600) -> socket.socket:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(mode)
    listener.listen()
    return listener


def test_a_socket_that_was_handed_over_is_served_and_outlives_leafd(tmp_path: Path) -> None:
    installation = Leafd(tmp_path)
    with bound(installation.socket) as listener:
        flags = ["--root", str(installation.root), "--state", str(installation.state)]
        command = [sys.executable, "-c", BECOME, str(listener.fileno()), str(BIN / "leafd"), *flags]
        command += ["--cgroups-root", installation.name]
        try:
            for _ in range(2):  # the second finds the same socket, after the first has gone
                with installation.output.open("ab") as output:
                    process = subprocess.Popen(command, pass_fds=(listener.fileno(),), stdout=output, stderr=output)
                installation.process = process
                with Client(str(installation.socket)) as client:  # waits in the backlog until leafd serves
                    assert client.version().pid == process.pid
                assert installation.stop() == 0, installation.output.read_text()
                assert installation.socket.is_socket()
        finally:
            installation.close()


@pytest.mark.parametrize(("mode", "path", "complaint"), [
    (0o666, "a", "mode 0666: must not be more than 0600"),
    (0o600, "b", "listens at .*/a, and leafd's socket is .*/b"),
])  # fmt: skip
def test_a_socket_that_is_not_the_right_one_is_refused(tmp_path: Path, mode: int, path: str, complaint: str) -> None:
    program = (
        "import os, sys; from leafd.listening import Listener\n"
        "os.dup2(int(sys.argv[1]), 3)\n"
        "Listener(sys.argv[2], 1, {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'})"
    )
    with bound(tmp_path / "a", mode) as listener:
        command = [sys.executable, "-c", program, str(listener.fileno()), str(tmp_path / path)]
        done = subprocess.run(command, pass_fds=(listener.fileno(),), capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 1
    assert re.search(complaint, done.stderr), done.stderr


def test_variables_of_another_process_hand_nothing_over(tmp_path: Path) -> None:
    listener = Listener(str(tmp_path / "leafd.sock"), 1, {"LISTEN_PID": str(os.getppid()), "LISTEN_FDS": "1"})
    try:
        assert not listener.handed_over
        listener.remove()
        assert not (tmp_path / "leafd.sock").exists()
    finally:
        listener.socket.close()


def test_a_reload_sets_the_log_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "leafd.toml"
    monkeypatch.setattr(sys, "argv", ["leafd", "--config", str(config)])
    root, before = logging.getLogger(), logging.getLogger().level
    try:
        for verbose, level in (("true", logging.INFO), ("false", logging.WARNING)):
            config.write_text(f"verbose = {verbose}\n")
            reload_log_level()
            assert root.level == level
    finally:
        root.setLevel(before)


def test_sighup_reads_the_log_level_again(tmp_path: Path) -> None:
    """A configuration that became wrong is told in one line, and leafd goes on."""
    installation = Leafd(tmp_path)
    config = tmp_path / "leafd.toml"
    config.write_text("")
    try:
        installation.start("--config", str(config))
        assert installation.process is not None
        config.write_text("verbose = 3\n")
        installation.process.send_signal(signal.SIGHUP)
        with installation.client as client:
            assert client.version().pid == installation.process.pid
        assert installation.stop() == 0
        assert installation.output.read_text() == (
            f"leafd: {config}: verbose: must be of type bool; the settings stay as they are\n"
        )
    finally:
        installation.close()
