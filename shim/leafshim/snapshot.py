"""What a worker knows of its container, as bytes and descriptors: handed to the sleeper, taken up by the next worker.

The checkpoint has it too, for the next shim, which may be of a later release: so a field keeps its meaning for ever,
and one that comes later is read with a default. What cannot be put into it (a launch under
way, a client that is attached) keeps the worker up: see `Container.at_rest`.
"""

import select
from collections.abc import Sequence
from typing import TypedDict, cast

import msgpack

from leafshim import process as processes
from leafshim.api.shim import CreateOptions, Event, Exit, Limitation
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.container import Container
from leafshim.loop import Loop
from leafshim.process import Process
from leafshim.streams import OUTPUT, Streams
from leafshim.watch import Packed

NOTHING: tuple[bytes, list[int], bytes] = (b"", [], b"")
"""What is taken where there is no container."""


class _Process(TypedDict):
    exec_id: str
    args: list[str]
    leaf: str
    stage: str
    pid: int
    start_time: int
    started_at: int
    requested_signal: int
    exit: bytes | None
    adopted: bool
    oom: bytes | None
    targets: list[str]
    terminal: bool


class _Container(TypedDict):
    names: list[str]
    state: str
    created_at: int
    options: bytes
    events: list[bytes]
    last: int
    cgroup: str
    paused: bool
    limitation: bytes | None
    watch: Packed | None
    time_limit: float
    deleted: bool
    init: _Process
    execs: list[_Process]


def take(container: Container) -> tuple[bytes, list[int], bytes]:
    """The snapshot of a container whose init exists, its descriptors, which stay the container's, and for each of them
    the poll(2) events that a worker is needed for."""
    init = container.init
    assert init is not None
    assert container.cgroup is not None
    named = init.streams.descriptors()
    if init.pidfd >= 0:
        named["init"] = init.pidfd
    masks = dict.fromkeys(OUTPUT, select.POLLIN)
    if (watcher := container.watcher) is not None:
        named |= watcher.descriptors()
        masks |= {name: select.POLLPRI for name in watcher.descriptors() if watcher.awaited(name)}
    content: _Container = {
        "names": list(named),
        "state": container.state,
        "created_at": container.created_at,
        "options": container.options.encode(),
        "events": [event.encode() for event in container.events.kept],
        "last": container.events.last,
        "cgroup": container.cgroup.path,
        "paused": container.paused,
        "limitation": _encoded(container.limitation),
        "watch": watcher.pack() if watcher is not None else None,
        "time_limit": container.time_limit,
        "deleted": container.deleted,
        "init": _pack(init),
        "execs": [_pack(added) for added in container.execs.values() if added.told],
    }
    if init.adopted:
        masks["init"] = select.POLLIN
    return cast("bytes", msgpack.packb(content)), list(named.values()), bytes(masks.get(name, 0) for name in named)


def content_of(container: Container) -> bytes:
    """The snapshot alone, for the checkpoint; empty while there is nothing that another shim could take over."""
    if container.init is None or container.cgroup is None:
        return b""
    return take(container)[0]


def names(snapshot: bytes) -> list[str]:
    """What its descriptors are called, in their order."""
    return cast("_Container", msgpack.unpackb(snapshot))["names"]


def restore(container: Container, loop: Loop, snapshot: bytes, named: dict[str, int], rung: Sequence[int] = ()) -> None:
    """Make an empty container the one of the snapshot. It owns the descriptors, by their names, from here on; `rung`:
    those of them that woke the sleeper."""
    content = cast("_Container", msgpack.unpackb(snapshot))
    container.configure(CreateOptions.decode(content["options"]))
    container.state = content["state"]
    container.created_at = content["created_at"]
    container.events.kept = [Event.decode(event) for event in content["events"]]
    container.events.last = content["last"]
    if content["limitation"] is not None:
        container.limitation = Limitation.decode(content["limitation"])
    container.deleted = content["deleted"]
    init = _unpack(content["init"], container, loop)
    init.pidfd = named.pop("init", -1)
    container.restore_init(init)
    watch = content["watch"]
    alarms = {name: named.pop(name) for name in watch["names"] if name in named} if watch is not None else {}
    container.execs = {packed["exec_id"]: _unpack(packed, container, loop) for packed in content["execs"]}
    if not init.told:
        init.streams.resume(named)
    if not container.deleted and Cgroup(content["cgroup"]).exists():
        container.watch(Cgroup(content["cgroup"]), paused=content["paused"])
        if watch is not None:
            container.watch_on(Cgroup(content["cgroup"]), watch, alarms, rung)
    if content["time_limit"]:
        container.limit_time(content["time_limit"])


def _pack(process: Process) -> _Process:
    return {
        "exec_id": process.exec_id,
        "args": list(process.args),
        "leaf": process.leaf,
        "stage": _stage(process),
        "pid": process.pid,
        "start_time": process.start_time,
        "started_at": process.started_at,
        "requested_signal": process.requested_signal,
        "exit": _encoded(process.exit),
        "adopted": process.adopted,
        "oom": _encoded(process.oom),
        "targets": list(process.streams.targets),
        "terminal": process.streams.terminal,
    }


def _stage(process: Process) -> str:
    """The stage at which who takes over goes on."""
    if process.stage in (processes.LAUNCHING, processes.RELEASING):
        return processes.RUNNING  # it is released: whether its program runs yet is learnt from how it ends
    if process.stage == processes.ENDED and process.exit is None:
        return processes.RUNNING  # its end is half told: the sleeper, which still has the status, passes it on again
    return process.stage


def _unpack(packed: _Process, container: Container, loop: Loop) -> Process:
    stdin, stdout, stderr = packed["targets"]
    process = Process(loop, packed["exec_id"], Streams(loop, stdin, stdout, stderr, packed["terminal"], container.log))
    process.args, process.leaf = tuple(packed["args"]), packed["leaf"]
    process.stage, process.pid, process.start_time = packed["stage"], packed["pid"], packed["start_time"]
    process.adopted = packed["adopted"]
    process.started_at, process.requested_signal = packed["started_at"], packed["requested_signal"]
    if packed["oom"] is not None:
        process.oom = Limitation.decode(packed["oom"])
    if packed["exit"] is not None:
        process.exit = Exit.decode(packed["exit"])
        process.told = True
        process.streams.end(process.exit)
    return process


def _encoded(message: Exit | Limitation | None) -> bytes | None:
    return message.encode() if message is not None else None
