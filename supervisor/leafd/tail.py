"""Reading a container's log, and following it.

Rules:
1. A follower waits for inotify(7), so an idle log costs nothing, and learns of a rotation as of a write: it reads the
   old file to its end, then the new one.
2. A line is told when its newline is there; what a torn or foreign line says is left out.
3. A reader is a file and a position: it holds no more than one block of the log in memory.
"""

import asyncio
import ctypes
import os
from collections.abc import AsyncIterator, Iterator

from leafshim.errors import DamagedRecord, KernelError
from leafshim.kernel.syscalls import libc
from leafshim.logs import Entry, parse

_BLOCK = 64 << 10
_IN_MODIFY, _IN_MOVED_FROM, _IN_CREATE = 0x2, 0x40, 0x100

libc.inotify_init1.argtypes = [ctypes.c_int]
libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]


class _File:
    """One log file, read line by line from its beginning."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._rest = b""

    def close(self) -> None:
        os.close(self._fd)

    def is_at(self, path: str) -> bool:
        """Whether the file is still the one of that name."""
        try:
            status, own = os.stat(path), os.fstat(self._fd)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == (own.st_dev, own.st_ino)

    def lines(self) -> Iterator[Entry]:
        """The lines that have come since the last call."""
        while block := os.read(self._fd, _BLOCK):
            *lines, self._rest = (self._rest + block).split(b"\n")
            for line in lines:
                try:
                    yield parse(line)
                except DamagedRecord:
                    continue


class _Changes:
    """Says when something happens in a directory, or `over` is set."""

    def __init__(self, directory: str, over: asyncio.Event) -> None:
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise KernelError("inotify_init1", ctypes.get_errno())
        if libc.inotify_add_watch(self._fd, os.fsencode(directory), _IN_MODIFY | _IN_MOVED_FROM | _IN_CREATE) < 0:
            error = ctypes.get_errno()
            os.close(self._fd)
            raise KernelError("inotify_add_watch", error, directory)
        self.happened = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._fd, self._read)
        self._over = loop.create_task(self._until(over))

    async def _until(self, over: asyncio.Event) -> None:
        await over.wait()
        self.happened.set()

    def close(self) -> None:
        self._over.cancel()
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def _read(self) -> None:
        os.read(self._fd, _BLOCK)
        self.happened.set()


async def tail(path: str, over: asyncio.Event | None) -> AsyncIterator[Entry]:
    """The lines of the log at `path`, those before its last rotation first; then those to come until `over` is set.

    `over` None: only those that are there. Raises KernelError.
    """
    changes = _Changes(os.path.dirname(path), over) if over is not None else None
    file = None
    try:
        file = _open(f"{path}.1") or _open(path)
        while True:
            last = over is None or over.is_set()
            if changes is not None:
                changes.happened.clear()
            if file is not None:
                for entry in file.lines():
                    yield entry
            if (file is None or not file.is_at(path)) and (following := _open(path)) is not None:
                if file is not None:
                    file.close()
                file = following
            elif last or changes is None:
                return
            else:
                await changes.happened.wait()
    except OSError as error:
        raise KernelError.of(error, "read log") from error
    finally:
        if file is not None:
            file.close()
        if changes is not None:
            changes.close()


def _open(path: str) -> _File | None:
    try:
        return _File(path)
    except FileNotFoundError:
        return None
