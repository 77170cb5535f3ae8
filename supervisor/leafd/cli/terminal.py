"""The person's terminal: raw mode, size, the keys that detach, and the relay between it and a process.

The rules:
1. The terminal's mode is put back however the relay ends.
2. The relay waits in one place, poll(2), and blocks nowhere else: input is read only while the shim takes more, output
   is written in pieces that a writable pipe has room for (PIPE_BUF, pipe(7)). So a signal is forwarded at once even
   while nobody reads our output.
3. Nothing is lost: what the process wrote before its end is written before the relay returns.
"""

import os
import select
import signal
import socket
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import Protocol

from leafshim.errors import NotFound

DETACH_KEYS = b"\x10\x11"  # ctrl-p ctrl-q
END_OF_INPUT = b"\x04"  # ctrl-d: a terminal has no other end of file
FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

_CHUNK = 64 << 10
_WAKEUP_BYTES = 4096


class Process(Protocol):
    """What the relay needs of a session."""

    terminal: bool

    @property
    def exited(self) -> object | None: ...
    def fileno(self) -> int: ...
    @property
    def window(self) -> int: ...
    def receive_ready(self) -> Sequence[tuple[int, bytes]]: ...
    def send(self, data: bytes) -> None: ...
    def close_stdin(self) -> None: ...
    def resize(self, width: int, height: int) -> None: ...
    def kill(self, number: int) -> None: ...


class Detached(Exception):
    """The person typed the keys that leave the process alone."""


class DetachFilter:
    """Finds DETACH_KEYS in what is typed, also when they come in two reads."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what goes on to the process, whether the keys were typed). A first key is held until the next one."""
        data = self._held + data
        self._held = b""
        before, keys, _ = data.partition(DETACH_KEYS)
        if keys:
            return before, True
        if data.endswith(DETACH_KEYS[:1]):
            self._held = DETACH_KEYS[:1]
            data = data[:-1]
        return data, False


def size(fd: int) -> tuple[int, int] | None:
    """Columns and rows of the terminal `fd`; None when it is none."""
    try:
        found = os.get_terminal_size(fd)
    except OSError:
        return None
    return found.columns, found.lines


@contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """The terminal `fd` hands over every key as it is typed (cfmakeraw in termios(3)), until the block ends."""
    before = termios.tcgetattr(fd)
    mode = termios.tcgetattr(fd)
    mode[0] &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP)
    mode[0] &= ~(termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
    mode[1] &= ~termios.OPOST
    mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    termios.tcsetattr(fd, termios.TCSANOW, mode)
    try:
        yield
    finally:
        with suppress(termios.error):  # it has hung up
            termios.tcsetattr(fd, termios.TCSANOW, before)


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """SIGHUP and SIGTERM raise KeyboardInterrupt, as SIGINT does, so that what is half made is undone."""
    with _handling((signal.SIGHUP, signal.SIGTERM), signal.default_int_handler):
        yield


@contextmanager
def signals_as_bytes() -> Iterator[socket.socket]:
    """A socket that gets one byte, the number, for each signal of FORWARDED and SIGWINCH, until the block ends."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)  # signal.set_wakeup_fd demands it
    with reader, writer, _handling((*FORWARDED, signal.SIGWINCH), lambda _number, _frame: None):
        previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(previous)


@contextmanager
def _handling(numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


class Relay:
    """Carries bytes between our own standard streams and a process until it ends.

    `stdin`: forward standard input; from our terminal to that of the process, key by key, with keys to detach.
    """

    def __init__(self, process: Process, *, stdin: bool) -> None:
        self._process = process
        self._terminal = process.terminal
        self._stdin_open = stdin
        self._keys = DetachFilter() if stdin and self._terminal and os.isatty(0) else None
        self._unwritten = {1: bytearray(), 2: bytearray()}

    def run(self, wakeups: socket.socket) -> None:
        """Returns when the process has ended and all it wrote is written. `wakeups`: from `signals_as_bytes`.

        Raises Detached, BrokenPipeError when nobody reads our output, and LeafError when the shim fails us.
        """
        with raw_mode(0) if self._keys is not None else nullcontext():
            self._resize()
            while self._process.exited is None or any(self._unwritten.values()):
                self._step(wakeups)

    def _step(self, wakeups: socket.socket) -> None:
        if not any(self._unwritten.values()):
            for fd, output in self._process.receive_ready():
                self._unwritten[fd] += output
            if self._process.exited is not None:
                return
        poll = select.poll()
        poll.register(wakeups, select.POLLIN)
        for fd, waiting in self._unwritten.items():
            if waiting:
                poll.register(fd, select.POLLOUT)
        if self._process.exited is None:
            if not any(self._unwritten.values()):
                poll.register(self._process.fileno(), select.POLLIN)
            if self._stdin_open and self._process.window > 0:
                poll.register(0, select.POLLIN)
        ready = dict(poll.poll())
        if wakeups.fileno() in ready:
            self._on_signals(wakeups.recv(_WAKEUP_BYTES))
        for fd in self._unwritten.keys() & ready.keys():
            del self._unwritten[fd][: os.write(fd, self._unwritten[fd][: select.PIPE_BUF])]
        if 0 in ready:
            self._read_input()

    def _read_input(self) -> None:
        try:
            data = os.read(0, min(_CHUNK, self._process.window))
        except OSError:  # EIO: our terminal has hung up
            data = b""
        if not data:
            self._stdin_open = False
            if self._terminal:
                self._process.send(END_OF_INPUT)
            else:
                self._process.close_stdin()
            return
        detach = False
        if self._keys is not None:
            data, detach = self._keys.feed(data)
        if data:
            self._process.send(data)
        if detach:
            raise Detached

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self._resize()
            elif number in FORWARDED:
                with suppress(NotFound):  # it has ended in this instant: the stream will say so
                    self._process.kill(number)

    def _resize(self) -> None:
        found = size(1) or size(0) if self._terminal else None
        if found is not None:
            self._process.resize(*found)
