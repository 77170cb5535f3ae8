"""The messages of the wire as leafctl shows them: the JSON that scripts rely on, and its words for a person.

Times are RFC 3339 with nanoseconds; what has not happened yet, or is not known, is null.
"""

import base64

from leafd.cli.output import Json, duration, since
from leafshim.api.containers import Container, Event, LogChunk
from leafshim.api.shim import Exit, Limitation
from leafshim.logs import stamp


def container(shown: Container) -> dict[str, Json]:
    """A container as `inspect` and `ps` show it."""
    ended = shown.exit
    return {
        "id": shown.id,
        "state": shown.state,
        "paused": shown.paused,
        "pid": shown.pid or None,
        "shim_pid": shown.shim_pid or None,
        "shim_version": shown.shim_version or None,
        "cgroup": shown.cgroup,
        "leaf": shown.leaf,
        "created_at": time(shown.created_at),
        "started_at": time(shown.started_at),
        "finished_at": time(shown.finished_at),
        "exit_status": ended.status if ended else None,
        "exit_cause": ended.cause if ended else None,
        "exit": exit_details(ended) if ended else None,
        "restarts": shown.restarts,
        "restart": shown.restart or "no",
        "labels": dict(sorted(shown.labels.items())),
        "args": list(shown.args),
        "terminal": shown.terminal,
        "bundle": shown.bundle,
        "shim_socket": shown.shim_socket,
        "log": shown.log,
        "problem": shown.problem or None,
        "limits": dict(sorted(shown.limits.items())),
        "parent": shown.parent or None,
        "share_cgroups": bool(shown.shared_cgroup),
        "class": shown.container_class or "default",
    }


def exit_details(ended: Exit) -> dict[str, Json]:
    """How a process ended. `duration` is in ns, `cpu_usage` in µs, `memory_peak` in bytes."""
    return {
        "status": ended.status,
        "cause": ended.cause,
        "signal": ended.signal or None,
        "finished_at": time(ended.finished_at),
        "duration": ended.duration,
        "cpu_usage": ended.cpu_usage or None,
        "memory_peak": ended.memory_peak or None,
        "message": ended.message or None,
        "limitation": limitation(ended.limitation) if ended.limitation else None,
        "oom_kills": ended.oom_kills,
    }


def limitation(shown: Limitation) -> dict[str, Json]:
    """A limit that was hit. `cgroup` is null for the host; `figures` are those of docs/watch.md."""
    return {
        "kind": shown.kind,
        "resource": shown.resource,
        "scope": shown.scope,
        "cgroup": shown.cgroup or None,
        "message": shown.message,
        "figures": {figure.name: figure.value for figure in shown.figures},
    }


def event(shown: Event) -> dict[str, Json]:
    """One line of `events --json`."""
    return {
        "sequence": shown.sequence,
        "time": time(shown.timestamp),
        "id": shown.id or None,
        "type": shown.type,
        "exec_id": shown.exec_id or None,
        "pid": shown.pid or None,
        "exit": exit_details(shown.exit) if shown.exit else None,
        "message": shown.message or None,
        "limitation": limitation(shown.limitation) if shown.limitation else None,
    }


def log_chunk(shown: LogChunk) -> dict[str, Json]:
    """One line of `logs --json`: `data`, or `data_base64` for bytes that are no UTF-8."""
    line: dict[str, Json] = {"time": time(shown.timestamp), "stream": shown.stream}
    try:
        return line | {"data": shown.data.decode()}
    except UnicodeDecodeError:
        return line | {"data_base64": base64.b64encode(shown.data).decode()}


def time(nanoseconds: int) -> str | None:
    """RFC 3339 of ns since the epoch; None for 0."""
    return stamp(nanoseconds) if nanoseconds else None


def status(shown: Container) -> str:
    """The STATUS column of `ps`."""
    if shown.problem:
        return shown.problem
    if shown.exit:
        ago = f", {since(shown.finished_at)} ago" if shown.finished_at else ""
        return f"{end(shown.exit)}{ago}"
    if shown.started_at:
        return f"up {since(shown.started_at)}{', paused' if shown.paused else ''}"
    return f"created {since(shown.created_at)} ago" if shown.created_at else ""


def end(ended: Exit) -> str:
    """How a process ended, in a few words: `exited 0`, `signalled 137`."""
    return f"{ended.cause or 'ended'} {'?' if ended.status is None else ended.status}"


def event_line(shown: Event) -> str:
    """One line of `events` for a person."""
    details = [shown.type]
    if shown.exec_id:
        details.append(f"exec={shown.exec_id}")
    if shown.pid:
        details.append(f"pid={shown.pid}")
    if shown.exit:
        details.append(f"{end(shown.exit)} after {duration(shown.exit.duration)}")
    if message := shown.message or (shown.limitation and shown.limitation.message):
        details.append(f"({message})")
    return f"{shown.sequence:>6}  {stamp(shown.timestamp)}  {shown.id or '-'}  {' '.join(details)}"
