"""ps: the processes of a container and their threads, as /proc/PID says (proc(5))."""

import os
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

STATES = {
    "R": "running", "S": "sleeping", "D": "uninterruptible", "T": "stopped", "t": "traced", "Z": "zombie",
    "X": "dead", "I": "idle", "P": "parked",
}  # fmt: skip


class Thread(TypedDict):
    """`wchan`: the kernel function in which it waits, None where it runs or the kernel does not tell; `stack`: the
    kernel's, innermost first, likewise."""

    tid: int
    name: str
    state: str
    wchan: str | None
    stack: list[str] | None


class Process(TypedDict):
    """`cpu`: seconds; `rss`: bytes; `tracer`: pid of who traces it, 0 for nobody; the first thread is the main one."""

    pid: int
    parent: int
    state: str
    command: str
    cpu: float
    rss: int
    tracer: int
    threads: list[Thread]


def look(pids: Sequence[int]) -> list[Process]:
    """Those of `pids` that exist."""
    return [found for pid in pids if (found := _process(pid)) is not None]


class _Stat(NamedTuple):
    name: str
    state: str
    parent: int
    ticks: int
    pages: int


def _process(pid: int) -> Process | None:
    base = f"/proc/{pid}"
    try:
        stat = _stat(f"{base}/stat")
        command = " ".join(_read(f"{base}/cmdline").replace("\0", " ").split())
        status = _read(f"{base}/status")
        tids = sorted(map(int, os.listdir(f"{base}/task")))
    except OSError:
        return None
    tracer = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("TracerPid:")), 0)
    return Process(
        pid=pid,
        parent=stat.parent,
        state=stat.state,
        command=command or f"[{stat.name}]",
        cpu=stat.ticks / _TICK,
        rss=stat.pages * _PAGE,
        tracer=tracer,
        threads=[found for tid in tids if (found := thread(f"{base}/task/{tid}", tid)) is not None],
    )


def thread(directory: str, tid: int) -> Thread | None:
    """The thread of that directory in /proc; None when it is gone."""
    try:
        stat = _stat(f"{directory}/stat")
    except OSError:
        return None
    wchan = _told(f"{directory}/wchan")
    stack = _told(f"{directory}/stack")
    return Thread(
        tid=tid,
        name=stat.name,
        state=stat.state,
        wchan=wchan if wchan not in ("", "0") else None,
        stack=[line.split()[-1].partition("+")[0] for line in stack.splitlines()] if stack is not None else None,
    )


def _stat(path: str) -> _Stat:
    """The name may hold anything, brackets and blanks too: what follows it begins after the last bracket."""
    name, _, rest = _read(path).partition("(")[2].rpartition(")")
    fields = rest.split()
    return _Stat(name, fields[0], int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[21]))


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _told(path: str) -> str | None:
    try:
        return _read(path)
    except OSError:  # it is gone, or the kernel does not tell us
        return None
