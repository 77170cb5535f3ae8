"""shim: the process that owns a container: what it tells of itself, and what the kernel tells of one that hangs."""

import os
from typing import TypedDict

from leafd.inspection import processes
from leafd.inspection.processes import Process
from leafd.inspection.target import Target


class Descriptor(TypedDict):
    fd: int
    target: str
    watched: bool


class LoopEvent(TypedDict):
    """`time`: ns since the epoch; `fd`: None for a deadline; `mask`: as epoll_ctl(2) has it."""

    time: int
    fd: int | None
    mask: int
    callback: str


class Memory(TypedDict):
    """Bytes; None where the kernel does not tell."""

    pss: int | None
    private: int | None


class Shim(TypedDict):
    """`silence`: why it told nothing of itself, None where it did; then `worker_pid` and what follows are not empty.
    `processes` and `memory`: of the sleeper and of its workers, by pid."""

    pid: int
    version: str
    state: str
    silence: str | None
    worker_pid: int | None
    at_rest: bool | None
    descriptors: list[Descriptor]
    history: list[LoopEvent]
    stack: list[str]
    processes: list[Process]
    memory: dict[str, Memory]


def look(target: Target) -> Shim:
    """The shim of `target`."""
    told = target.look
    pids = [target.shim_pid, *_workers(target)] if target.shim_pid else []
    return Shim(
        pid=target.shim_pid,
        version=target.version,
        state=target.state,
        silence=target.silence or None,
        worker_pid=told.worker_pid if told else None,
        at_rest=told.at_rest if told else None,
        descriptors=[Descriptor(fd=each.fd, target=each.target, watched=each.watched) for each in told.descriptors]
        if told else [],
        history=[
            LoopEvent(time=each.timestamp, fd=None if each.timer else each.fd, mask=each.mask, callback=each.callback)
            for each in told.history
        ] if told else [],
        stack=list(told.stack) if told else [],
        processes=processes.look(pids),
        memory={str(pid): _memory(pid) for pid in pids},
    )  # fmt: skip


def _workers(target: Target) -> list[int]:
    """The sleeper's children that are no part of the container; those run in the sleeper's own cgroup."""
    try:
        with open(f"/proc/{target.shim_pid}/task/{target.shim_pid}/children", encoding="ascii") as file:
            children = {int(pid) for pid in file.read().split()}
    except OSError:
        return []
    return sorted(children - set(target.pids()) - {target.pid, os.getpid()})


def _memory(pid: int) -> Memory:
    """smaps_rollup (proc_pid_smaps(5)) is in kB."""
    found: dict[str, int] = {}
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if rest.endswith("kB\n"):
                    found[name] = int(rest.split()[0]) * 1024
    except OSError:
        pass
    private = [found[name] for name in ("Private_Clean", "Private_Dirty") if name in found]
    return Memory(pss=found.get("Pss"), private=sum(private) if private else None)
