"""Who waits for whom at pipes, and whether anybody of them can ever go on.

A process waits in read(2) for a writer, in write(2) for a reader. It is stuck when each of its threads waits at a pipe,
and everybody who has the other end is stuck too: then only a signal can help (the largest such set is the answer). Who
has the other end may be outside the container, so before that is said, the whole host is asked.
"""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from leafd.inspection.processes import Process, Thread

_Key = tuple[int, int]


class Wait(NamedTuple):
    """A thread that waits at the pipe `key` (device, inode); `others`: the pids that have its other end."""

    pid: int
    tid: int
    writes: bool
    key: _Key
    others: frozenset[int]


def waits(processes: Sequence[Process], outsiders: Iterable[int] = ()) -> list[Wait]:
    """Every thread that waits at a pipe. The other ends are looked for in `processes` and in `outsiders`."""
    found = []
    for process in processes:
        for thread in process["threads"]:
            if (writes := _direction(thread)) is not None and (key := _pipe(process["pid"], thread["tid"])) is not None:
                found.append((process["pid"], thread["tid"], writes, key))
    if not found:
        return []
    keys = {key for *_, key in found}
    ends: dict[tuple[_Key, bool], set[int]] = {}
    for pid in {*(process["pid"] for process in processes), *outsiders}:
        for end in _ends(pid, keys):
            ends.setdefault(end, set()).add(pid)
    return [Wait(pid, tid, writes, key, frozenset(ends.get((key, not writes), ()))) for pid, tid, writes, key in found]


def stuck(processes: Sequence[Process], found: Sequence[Wait]) -> set[int]:
    """The pids of those that nobody can wake: pure, on what `waits` found."""
    by_pid: dict[int, list[Wait]] = {}
    for wait in found:
        by_pid.setdefault(wait.pid, []).append(wait)
    threads: Mapping[int, int] = {process["pid"]: len(process["threads"]) for process in processes}
    left = {pid for pid, own in by_pid.items() if len(own) == threads[pid]}
    while True:
        free = {pid for pid in left if not all(wait.others and wait.others <= left for wait in by_pid[pid])}
        if not free:
            return left
        left -= free


def everybody() -> list[int]:
    """Every pid of the host."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _direction(thread: Thread) -> bool | None:
    """True for who waits to write, None for who does not wait at a pipe. Linux 6.15 calls them anon_pipe_…."""
    wchan = thread["wchan"] or ""
    if wchan.endswith("pipe_write"):
        return True
    return False if wchan.endswith("pipe_read") else None


def _pipe(pid: int, tid: int) -> _Key | None:
    """The pipe at which it waits: the descriptor is the first argument of read(2), write(2) and their kin."""
    try:
        with open(f"/proc/{pid}/task/{tid}/syscall", encoding="ascii") as file:
            fields = file.read().split()
        status = os.stat(f"/proc/{pid}/fd/{int(fields[1], 16)}")
    except (OSError, ValueError, IndexError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISFIFO(status.st_mode) else None


def _ends(pid: int, keys: set[_Key]) -> Iterable[tuple[_Key, bool]]:
    """Which ends of these pipes it has: (pipe, whether it can write)."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for name in names:
        try:
            status = os.stat(f"/proc/{pid}/fd/{name}")
            if (status.st_dev, status.st_ino) not in keys:
                continue
            with open(f"/proc/{pid}/fdinfo/{name}", encoding="ascii") as file:
                flags = next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))
        except (OSError, StopIteration):
            continue
        mode = flags & os.O_ACCMODE
        if mode in (os.O_RDONLY, os.O_RDWR):
            yield (status.st_dev, status.st_ino), False
        if mode in (os.O_WRONLY, os.O_RDWR):
            yield (status.st_dev, status.st_ino), True
