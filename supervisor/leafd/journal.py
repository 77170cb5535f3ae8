"""The event journal: what happened to all containers, in one order, readable again after a crash.

It is a directory of segments, each named by the number of its first event and holding

    8 bytes  b"LEAFEVT" and the schema version (this file writes 1)
    frames   4 bytes length, 4 bytes zlib.crc32, both big-endian and of the payload; payload: msgpack of one event

Rules:
1. Numbers begin at 1 and grow by one: a reader that remembers its last one misses nothing and sees nothing twice. One
   that came too late for what the size limit has taken is told how much that was, by an event of type `missed` that has
   the number of the last one of them.
2. Only appended to. A write that was cut short, by a full disk or a crash, is cut off again: at once, or at the next
   opening. Damage in an older segment loses the rest of that segment and nothing else.
3. At an eighth of its size limit a segment is closed and the next begun; the oldest go when the whole is too big.
4. The shims' own numbers are remembered for each container, so that an event which a shim tells again, because leafd
   was killed between writing it here and acknowledging it there, is not written again. That window is short: the last
   two segments are enough to know them from.
5. A follower is a position in the journal, not a queue: however slowly it reads, it holds a segment of ours at most,
   and however fast, it lets others have their turn.
"""

import asyncio
import errno
import os
import struct
import zlib
from collections import deque
from collections.abc import AsyncIterator, Iterator
from time import time_ns

import msgpack

from leafshim.api.containers import Event
from leafshim.api.shim import Exit, Limitation
from leafshim.errors import DamagedRecord, KernelError
from leafshim.exits import pack, pack_limitation, unpack, unpack_limitation

_MAGIC = b"LEAFEVT\x01"
_FRAME = struct.Struct(">II")
_SEGMENTS = 8
_RECENT = 1024
_LIMIT = 1 << 20
_TURN = 64  # events between two turns of all others


class Journal:
    """Owns the directory and the descriptor of the newest segment. Made by `open`, ended by `close`."""

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.last = 0
        """Number of the newest event; 0: there was none."""
        self.damage: list[DamagedRecord] = []
        """What `open` had to cut off or to leave out."""
        self._segment_size = max(size // _SEGMENTS, 1)
        self._segments: list[int] = []
        self._fd = -1
        self._end = 0
        self._recent: deque[Event] = deque(maxlen=_RECENT)
        self._told: dict[str, int] = {}
        self._news = asyncio.Event()
        self._syncing: asyncio.Future[None] | None = None

    @classmethod
    def open(cls, path: str, size: int) -> "Journal":
        """The journal in the directory `path`, made if absent, of at most about `size` bytes. Raises KernelError."""
        journal = cls(path, size)
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            journal._segments = sorted(int(name) for name in os.listdir(path) if name.isdecimal())
            if journal._segments:
                journal._resume()
            else:
                journal._begin(1)
        except OSError as error:
            raise KernelError.of(error, "open journal") from error
        return journal

    def close(self) -> None:
        """Close the segment. Nothing is lost: every event was written when it was appended."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def append(
        self,
        kind: str,
        container_id: str = "",
        *,
        exec_id: str = "",
        pid: int = 0,
        end: Exit | None = None,
        timestamp: int = 0,
        shim_sequence: int = 0,
        message: str = "",
        limitation: Limitation | None = None,
    ) -> Event | None:
        """Write one event (`timestamp` in ns since the epoch; 0: now) and wake the followers.

        None: that shim's event is in here already. Raises KernelError; then nothing was written.
        """
        if shim_sequence and shim_sequence <= self._told.get(container_id, 0):
            return None
        event = Event(
            sequence=self.last + 1,
            timestamp=timestamp or time_ns(),
            id=container_id,
            type=kind,
            exec_id=exec_id,
            pid=pid,
            exit=end,
            shim_sequence=shim_sequence,
            message=message,
            limitation=limitation,
        )
        try:
            if self._end >= self._segment_size:
                self._begin(event.sequence)
            self._write(_encode(event))
        except OSError as error:
            raise KernelError.of(error, "append to journal") from error
        self._remember(event)
        news, self._news = self._news, asyncio.Event()
        news.set()
        return event

    def told(self, container_id: str) -> int:
        """The number, at its shim, of the newest event of that container that is in here; 0: none is known."""
        return self._told.get(container_id, 0)

    async def sync(self) -> None:
        """Return when everything appended before the call is on the disk (fdatasync(2)), not only with the kernel.

        Callers side by side share one: those who come during a sync wait for the next. Raises KernelError.
        """
        if self._syncing is not None:  # it may have begun before what our caller appended
            await asyncio.shield(self._syncing)
        if self._syncing is None:
            self._syncing = asyncio.get_running_loop().run_in_executor(None, _sync, os.dup(self._fd))
            self._syncing.add_done_callback(self._synced)
        await asyncio.shield(self._syncing)

    def _synced(self, _: object) -> None:
        self._syncing = None

    def read(self, since: int = 0) -> Iterator[Event]:
        """The events after number `since` that are still there, from the disk. Raises KernelError."""
        first = max((index for index, start in enumerate(self._segments) if start <= since + 1), default=0)
        for start in self._segments[first:]:
            try:
                for _, event in _frames(self._name(start), []):
                    if event.sequence > since:
                        yield event
            except FileNotFoundError:
                continue  # the size limit took it while we read
            except OSError as error:
                raise KernelError.of(error, "read journal") from error

    async def follow(self, since: int, *, for_ever: bool = True) -> AsyncIterator[Event]:
        """The events after number `since`, then the new ones as they come, `for_ever` or up to now.

        What is lost in between is an event of type `missed`; from 0 on is from whatever is the first.
        """
        end = self.last
        turns = 0
        while True:
            news = self._news
            if self._recent and since + 1 >= self._recent[0].sequence:
                behind: Iterator[Event] = iter([event for event in self._recent if event.sequence > since])
            else:
                behind = self.read(since)
            for event in behind:
                if since and event.sequence > since + 1:
                    yield _missed(since, event.sequence - 1, event.timestamp)
                since = event.sequence
                yield event
                turns += 1
                if turns % _TURN == 0:  # a reader that is as fast as we are, or skips most of them, never waits
                    await asyncio.sleep(0)
            if not for_ever and since >= end:
                return
            if since >= self.last:
                if not for_ever:
                    return
                await news.wait()

    def _resume(self) -> None:
        """Take up what is there: cut a torn tail off, learn the last numbers, open the newest segment."""
        newest = self._segments[-1]
        self.last = newest - 1
        end = 0
        for start in self._segments[-2:]:
            end = len(_MAGIC)
            for offset, event in _frames(self._name(start), self.damage):
                self._remember(event)
                end = offset
        self._open(newest, os.O_RDWR)
        if os.fstat(self._fd).st_size < len(_MAGIC) or os.pread(self._fd, len(_MAGIC), 0) != _MAGIC:
            os.ftruncate(self._fd, 0)
            os.write(self._fd, _MAGIC)
        self._end = end
        os.ftruncate(self._fd, end)

    def _remember(self, event: Event) -> None:
        self.last = event.sequence
        self._recent.append(event)
        if event.type == "removed":  # the next container of that name counts from 1 again
            self._told.pop(event.id, None)
        elif event.shim_sequence:
            self._told[event.id] = event.shim_sequence

    def _begin(self, first: int) -> None:
        if self._fd >= 0:
            os.fdatasync(self._fd)  # `sync` reaches only the newest segment
        self._open(first, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._segments.append(first)
        os.write(self._fd, _MAGIC)
        self._end = len(_MAGIC)
        while len(self._segments) > _SEGMENTS:
            os.unlink(self._name(self._segments.pop(0)))

    def _open(self, first: int, flags: int) -> None:
        fd = os.open(self._name(first), flags | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self.close()
        self._fd = fd

    def _write(self, frame: bytes) -> None:
        try:
            written = os.write(self._fd, frame)
            if written < len(frame):  # a full disk takes a part without an error; the next write would have had it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        except OSError:
            os.ftruncate(self._fd, self._end)
            raise
        self._end += written

    def _name(self, first: int) -> str:
        return os.path.join(self.path, f"{first:020d}")


def _missed(since: int, last: int, timestamp: int) -> Event:
    """In place of what is not there any more."""
    count = last - since
    message = f"{count} event{'s' if count > 1 else ''}, {since + 1} to {last}, came and went unread"
    return Event(sequence=last, timestamp=timestamp, type="missed", message=message)


def _encode(event: Event) -> bytes:
    payload: bytes = msgpack.packb(
        [
            event.sequence,
            event.timestamp,
            event.id,
            event.type,
            event.exec_id,
            event.pid,
            event.exit and pack(event.exit),
            event.shim_sequence,
            event.message,
            pack_limitation(event.limitation),
        ]
    )
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _decode(payload: bytes) -> Event:
    sequence, timestamp, container_id, kind, exec_id, pid, end, shim_sequence, message, *more = msgpack.unpackb(payload)
    return Event(
        sequence=sequence,
        timestamp=timestamp,
        id=container_id,
        type=kind,
        exec_id=exec_id,
        pid=pid,
        exit=unpack(end),
        shim_sequence=shim_sequence,
        message=message,
        limitation=unpack_limitation(more[0]) if more else None,
    )


def _frames(path: str, damage: list[DamagedRecord]) -> Iterator[tuple[int, Event]]:
    """The events of a segment with the offset where each ends, up to the first damage, which is added to `damage`."""
    with open(path, "rb") as file:
        data = file.read()
    if data[: len(_MAGIC)] != _MAGIC:
        damage.append(DamagedRecord(path, "not a segment of leafd's journal"))
        return
    offset = len(_MAGIC)
    while offset < len(data):
        if len(data) - offset < _FRAME.size:
            break
        length, checksum = _FRAME.unpack_from(data, offset)
        payload = data[offset + _FRAME.size : offset + _FRAME.size + length]
        if length > _LIMIT or len(payload) < length or zlib.crc32(payload) != checksum:
            break
        try:
            event = _decode(payload)
        except (ValueError, DamagedRecord):
            break
        offset += _FRAME.size + length
        yield offset, event
    if offset < len(data):
        damage.append(DamagedRecord(path, f"torn at byte {offset} of {len(data)}"))


def _sync(fd: int) -> None:
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise KernelError.of(error, "sync journal") from error
    finally:
        os.close(fd)
