r"""The container's log: CRI format, appended, bounded, never blocking.

A line is `2026-01-02T03:04:05.123456789Z stdout F text\n`. F is a full line; P is a partial one, whose text was not
followed by a newline (the Kubernetes CRI logging format). So the workload's bytes come back exactly: the texts joined,
with a newline after each F.

Rules:
1. A text of any length and any bytes is cut at newlines and nowhere else, but for a piece that is longer than
   `LINE_LIMIT` (P, then more).
2. A write goes to a regular file, which does not block on a reader. When the disk is full or the file broken, what
   cannot be written is dropped and counted, and the next write that succeeds is preceded by a line of stream `leafd`
   that tells how much.
3. At `max_size` bytes the log moves to `LOG.1`, replacing it.
"""

import os
import time
from typing import NamedTuple

from leafshim.errors import DamagedRecord

LINE_LIMIT = 16 << 10
DEFAULT_MAX_SIZE = 64 << 20


class Entry(NamedTuple):
    """One line of the log. `timestamp`: ns since the epoch. `data` ends with a newline if the workload wrote one."""

    timestamp: int
    stream: str
    data: bytes


def stamp(timestamp: int) -> str:
    """RFC 3339 with nanoseconds, UTC; `timestamp` in ns since the epoch."""
    seconds, nanoseconds = divmod(timestamp, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"


def parse(line: bytes) -> Entry:
    """One line, with or without its newline. Raises DamagedRecord."""
    try:
        when, stream, tag, text = line.removesuffix(b"\n").split(b" ", 3)
        if tag not in (b"F", b"P"):
            raise ValueError(f"tag {tag!r}")
        seconds, _, fraction = when.decode().removesuffix("Z").partition(".")
        timestamp = _epoch(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0")[:9] or "0")
        return Entry(timestamp, stream.decode(), text + (b"\n" if tag == b"F" else b""))
    except ValueError as error:
        raise DamagedRecord("log", f"not a line in CRI format: {error}") from error


def _epoch(text: str) -> int:
    """Seconds since the epoch of `2026-01-02T03:04:05`, UTC. (calendar.timegm and strptime would cost an import.)"""
    date, _, clock = text.partition("T")
    year, month, day = (int(part) for part in date.split("-"))
    hour, minute, second = (int(part) for part in clock.split(":"))
    shifted = year - (month <= 2)
    era_day = (153 * (month + (9 if month <= 2 else -3)) + 2) // 5 + day - 1
    days = shifted * 365 + shifted // 4 - shifted // 100 + shifted // 400 + era_day - 719468
    return ((days * 24 + hour) * 60 + minute) * 60 + second


class LogWriter:
    """Appends to one log file. Owns its descriptor."""

    def __init__(self, path: str, max_size: int = DEFAULT_MAX_SIZE) -> None:
        self.path = path
        self.max_size = max_size
        self.dropped = 0
        self._fd = -1
        self._size = 0
        self._partial: str | None = None

    def write(self, stream: str, data: bytes) -> None:
        """Log what the workload wrote on `stream`. Never raises: what does not fit is counted in `dropped`."""
        when = stamp(time.time_ns())
        full = f"{when} {stream} F ".encode()
        partial = f"{when} {stream} P ".encode()
        pieces: list[bytes] = []
        *lines, rest = data.split(b"\n")
        for line in lines:
            whole = len(line) // LINE_LIMIT * LINE_LIMIT
            for start in range(0, whole, LINE_LIMIT):
                pieces += (partial, line[start : start + LINE_LIMIT], b"\n")
            pieces += (full, line[whole:], b"\n")
        for start in range(0, len(rest), LINE_LIMIT):
            pieces += (partial, rest[start : start + LINE_LIMIT], b"\n")
        self._append(b"".join(pieces), len(data))

    def _append(self, block: bytes, weight: int) -> None:
        if self.dropped:
            note = f"{stamp(time.time_ns())} leafd F {self.dropped} bytes of output were dropped here\n"
            block = note.encode() + block
        try:
            self._make_room(len(block))
            written = os.write(self._fd, block)
            if written < len(block):  # the disk filled up in the middle: take the torn piece back
                os.ftruncate(self._fd, self._size)
                self.dropped += weight
                return
            self._size += written
            self.dropped = 0
        except OSError:
            self.dropped += weight

    def _make_room(self, length: int) -> None:
        """Have the file open, with room for `length` bytes below `max_size`."""
        if self._fd >= 0 and self._size and self._size + length > self.max_size:
            os.rename(self.path, f"{self.path}.1")
            self.close()
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o600)
            self._size = os.fstat(self._fd).st_size

    def close(self) -> None:
        """Close the file; the next write opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
