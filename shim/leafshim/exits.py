"""How and why a process ended, in words that are never invented.

Causes:
    exited       it called exit
    signalled    a signal ended it, and we do not know of a reason below
    oom          the kernel's OOM killer, by the container's own count (memory.events, oom_kill)
    killed       a signal that was asked for through the shim
    limitation   the shim ended it because of a limit (the time-out, say)
    lost         it ended and nobody who could know the status is left

A status is the exit code, or 128 + signal, as shells and containerd have it; unknown is None, never a number.
"""

import os
import signal as signals

from leafshim import record
from leafshim.api.shim import Exit
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import KernelError

KIND = "exit"


def describe(wait_status: int | None, *, requested: int = 0, oom: bool = False, limitation: str = "") -> Exit:
    """The Exit of a wait status (wait(2)); None means that it is unknown.

    `requested`: the last signal that was asked for through the shim, 0 for none. `limitation`: which limit ended it.
    """
    if wait_status is None:
        return Exit(cause="lost", message="the exit status was lost with every process that could have known it")
    if os.WIFEXITED(wait_status):
        return Exit(
            status=os.WEXITSTATUS(wait_status), cause="limitation" if limitation else "exited", message=limitation
        )
    number = os.WTERMSIG(wait_status)
    end = Exit(status=128 + number, signal=number, message=f"ended by {_name(number)}")
    if limitation:
        end.cause, end.message = "limitation", limitation
    elif oom and number == signals.SIGKILL:
        end.cause, end.message = "oom", "killed by the kernel: out of memory"
    elif requested == number:
        end.cause, end.message = "killed", f"ended by {_name(number)}, on request"
    else:
        end.cause = "signalled"
    return end


def _name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def figures(cgroup: Cgroup, end: Exit) -> None:
    """Add to `end` what the cgroup can tell of the whole run; what it cannot tell stays 0."""
    end.cpu_usage = flat(cgroup, "cpu.stat").get("usage_usec", 0)
    try:
        end.memory_peak = int(cgroup.read("memory.peak"))
    except KernelError:
        end.memory_peak = 0


def flat(cgroup: Cgroup, name: str) -> dict[str, int]:
    """A flat keyed interface file; empty where its controller is not there."""
    try:
        return cgroup.read_flat(name)
    except KernelError:
        return {}


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
    }
