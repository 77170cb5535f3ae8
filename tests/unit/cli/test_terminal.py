"""terminal.py: the keys that detach, raw mode on a real pty, and the relay against a process of the test's own."""

import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

import pytest

from leafd.cli.terminal import DETACH_KEYS, DetachFilter, raw_mode, size


@pytest.mark.parametrize(
    ("typed", "passed", "detached"),
    [
        ([b"ls\r"], b"ls\r", False),
        ([b"\x10\x11"], b"", True),
        ([b"abc\x10\x11def"], b"abc", True),
        ([b"\x10", b"\x11"], b"", True),
        ([b"a\x10", b"b"], b"a\x10b", False),
        ([b"\x10\x10", b"\x11"], b"\x10", True),
        ([b"\x11\x10", b"\x10", b"x"], b"\x11\x10\x10x", False),
        ([b"\x10"], b"", False),
    ],
)
def test_detach_keys(typed: Sequence[bytes], passed: bytes, detached: bool) -> None:
    keys = DetachFilter()
    results = [keys.feed(piece) for piece in typed]
    assert b"".join(data for data, _ in results) == passed
    assert any(found for _, found in results) == detached


def test_raw_mode_ends_however_the_block_does() -> None:
    leader, follower = pty.openpty()
    before = termios.tcgetattr(follower)

    def interrupted() -> None:
        with raw_mode(follower):
            local = termios.tcgetattr(follower)[3]
            assert not local & (termios.ECHO | termios.ICANON | termios.ISIG)
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert termios.tcgetattr(follower) == before
    os.close(leader)
    os.close(follower)


def test_size_of_what_is_no_terminal() -> None:
    reader, writer = os.pipe()
    assert size(reader) is None
    os.close(reader)
    os.close(writer)


# What the relay needs of a session, over a socket: input and <orders> come out, output goes in.
_RELAY = """
import os, sys, socket
from leafd.cli.terminal import Detached, Relay, signals_as_bytes

class Process:
    def __init__(self, channel, terminal):
        self.channel, self.terminal, self.exited, self.window = channel, terminal, None, 1 << 20
        channel.setblocking(False)
    def fileno(self): return self.channel.fileno()
    def receive_ready(self):
        try:
            data = self.channel.recv(1 << 20)
        except BlockingIOError:
            return []
        if not data:
            self.exited = object()
        return [(1, data)]
    def tell(self, what):
        self.channel.sendall(what)
    def send(self, data): self.tell(data)
    def close_stdin(self): self.tell(b"<eof>")
    def resize(self, width, height): self.tell(b"<%dx%d>" % (width, height))
    def kill(self, number): self.tell(b"<signal %d>" % number)

channel = socket.socket(fileno=int(sys.argv[1]))
try:
    with signals_as_bytes() as wakeups:
        Relay(Process(channel, sys.argv[2] == "terminal"), stdin=True).run(wakeups)
except Detached:
    os.write(2, b"detached")
"""


class Relayed:
    """A relay in a process of its own; `channel` is the far end of its session."""

    def __init__(self, terminal: str, stdin: int, stdout: int) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(60)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _RELAY, str(theirs.fileno()), terminal],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def heard(self, text: bytes) -> bytes:
        """Everything up to and including `text`."""
        data = b""
        while text not in data:
            piece = self.channel.recv(65536)
            assert piece, data
            data += piece
        return data


def read_until(fd: int, text: bytes) -> bytes:
    data = b""
    while text not in data:
        data += os.read(fd, 65536)
    return data


def test_bytes_go_both_ways_and_the_last_ones_arrive(tmp_path: Path) -> None:
    stdin_reader, stdin_writer = os.pipe()
    with (tmp_path / "output").open("wb") as output:
        relayed = Relayed("plain", stdin_reader, output.fileno())
    os.close(stdin_reader)
    os.write(stdin_writer, b"input")
    os.close(stdin_writer)
    assert relayed.heard(b"<eof>") == b"input<eof>"
    relayed.channel.sendall(b"output" * 100_000)
    relayed.channel.close()
    assert relayed.process.wait(60) == 0
    assert (tmp_path / "output").read_bytes() == b"output" * 100_000


def test_a_signal_is_forwarded_while_nobody_reads_our_output() -> None:
    stdin_reader, stdin_writer = os.pipe()
    stdout_reader, stdout_writer = os.pipe()
    relayed = Relayed("plain", stdin_reader, stdout_writer)
    os.write(stdin_writer, b"ready")
    relayed.heard(b"ready")
    relayed.channel.sendall(b"x" * 150_000)  # more than the pipe holds
    relayed.process.send_signal(signal.SIGTERM)
    relayed.heard(b"<signal 15>")
    relayed.process.send_signal(signal.SIGINT)
    relayed.heard(b"<signal 2>")
    relayed.channel.close()
    os.close(stdout_writer)
    with open(stdout_reader, "rb") as output:
        assert output.read() == b"x" * 150_000
    assert relayed.process.wait(60) == 0
    os.close(stdin_reader)
    os.close(stdin_writer)


def test_a_terminal_is_raw_sized_and_detachable_and_put_back() -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (30, 100))
    before = termios.tcgetattr(follower)
    relayed = Relayed("terminal", follower, follower)
    assert relayed.heard(b">") == b"<100x30>"
    assert not termios.tcgetattr(follower)[3] & termios.ICANON
    os.write(leader, b"\x03\x1a")  # keys, not signals, in raw mode
    relayed.heard(b"\x03\x1a")
    termios.tcsetwinsize(follower, (31, 101))
    relayed.process.send_signal(signal.SIGWINCH)
    relayed.heard(b"<101x31>")
    relayed.channel.sendall(b"a\nb")
    assert read_until(leader, b"b") == b"a\nb"  # no carriage return is added
    os.write(leader, DETACH_KEYS)
    assert relayed.process.wait(60) == 0
    assert relayed.process.stderr is not None
    assert relayed.process.stderr.read() == b"detached"
    assert termios.tcgetattr(follower) == before
    os.close(leader)
    os.close(follower)


def test_the_end_of_input_of_a_terminal_is_a_key() -> None:
    relayed = Relayed("terminal", os.open(os.devnull, os.O_RDONLY), subprocess.DEVNULL)
    assert relayed.heard(b"\x04") == b"\x04"
    relayed.channel.close()
    assert relayed.process.wait(60) == 0
