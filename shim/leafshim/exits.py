"""How and why a process ended, in words that are never invented.

Causes:
    exited       it called exit
    signalled    a signal ended it, and we do not know of a reason below
    oom          the kernel's OOM killer, or the shim after it, where the container's policy is to end then
    killed       a signal that was asked for through the shim
    limitation   the shim ended it because of another limit: its time, or by its policy pids, huge pages, pressure
    lost         it ended and nobody who could know the status is left

A status is the exit code, or 128 + signal, as shells and containerd have it; unknown is None, never a number.
"""

import os
import signal as signals
from typing import Any

from leafshim import record
from leafshim.api.shim import Exit, Figure, Limitation
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.layout import LEAF
from leafshim.cgroup.limitation import counted
from leafshim.errors import DamagedRecord, KernelError

KIND = "exit"


def describe(wait_status: int | None, *, requested: int = 0, limitation: Limitation | None = None) -> Exit:
    """The Exit of a wait status (wait(2)); None means that it is unknown.

    `requested`: the last signal that was asked for through the shim, 0 for none. `limitation`: what ended it.
    """
    if wait_status is None:
        return Exit(cause="lost", message="the exit status was lost with every process that could have known it")
    if os.WIFEXITED(wait_status):
        end = Exit(status=os.WEXITSTATUS(wait_status), cause="exited")
    else:
        number = os.WTERMSIG(wait_status)
        end = Exit(status=128 + number, signal=number, cause="signalled", message=f"ended by {_name(number)}")
    if limitation is not None:
        end.cause = "oom" if limitation.kind == "oom" else "limitation"
        end.limitation, end.message = limitation, limitation.message
    elif end.signal and end.signal == requested:
        end.cause, end.message = "killed", f"{end.message}, on request"
    return end


def _name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def figures(cgroup: Cgroup, end: Exit) -> None:
    """Add to `end` what the cgroup can tell of the whole run; what it cannot tell stays 0."""
    end.cpu_usage = counted(cgroup, "cpu.stat").get("usage_usec", 0)
    end.oom_kills = counted(cgroup.child(LEAF), "memory.events").get("oom_kill", 0)
    try:
        end.memory_peak = int(cgroup.read("memory.peak"))
    except KernelError:
        end.memory_peak = 0


def write(path: str, container_id: str, end: Exit, **facts: record.Value) -> None:
    """Put the exit record on disk, synced: it is the promise that the status is never lost. Raises KernelError."""
    value: dict[str, record.Value] = {"id": container_id, "exit": pack(end), **facts}
    record.write(path, KIND, value, sync=True)


def pack(end: Exit) -> record.Value:
    """An Exit as a record has it."""
    return {
        "status": end.status,
        "signal": end.signal,
        "cause": end.cause,
        "finished_at": end.finished_at,
        "duration": end.duration,
        "cpu_usage": end.cpu_usage,
        "memory_peak": end.memory_peak,
        "message": end.message,
        "limitation": pack_limitation(end.limitation),
        "oom_kills": end.oom_kills,
    }


def pack_limitation(limitation: Limitation | None) -> record.Value:
    """A Limitation as a record has it."""
    if limitation is None:
        return None
    fields: dict[str, record.Value] = {
        name: getattr(limitation, name) for name in ("kind", "resource", "scope", "cgroup", "message")
    }
    return {**fields, "figures": {figure.name: figure.value for figure in limitation.figures}}


def unpack(value: object) -> Exit | None:
    """The Exit in a record; None for None. Raises DamagedRecord."""
    if value is None:
        return None
    try:
        fields: dict[str, Any] = {**value}  # type: ignore[dict-item]  # what is no map is caught
        return Exit(**fields | {"limitation": unpack_limitation(fields.get("limitation"))})
    except TypeError as error:
        raise DamagedRecord("exit", f"not an exit: {error}") from error


def unpack_limitation(value: object) -> Limitation | None:
    """The Limitation in a record; None for None. Raises DamagedRecord."""
    if value is None:
        return None
    try:
        fields: dict[str, Any] = {**value}  # type: ignore[dict-item]
        figures = [Figure(name=name, value=number) for name, number in {**fields.pop("figures", {})}.items()]
        return Limitation(**fields, figures=figures)
    except TypeError as error:
        raise DamagedRecord("limitation", f"not a limitation: {error}") from error
