"""containerd's Task service, the messages of task.proto. Versions 2 and 3 differ in the package's name only,
so a message is the same class in both: `client.call(task.V3.state, task.StateRequest(id="web"))`.
"""

from typing import ClassVar

from leafshim.api.wellknown import Any, Empty, Timestamp
from leafshim.ttrpc import protobuf as pb
from leafshim.ttrpc.service import Method


class _Message(pb.Message):
    package: ClassVar[str] = "containerd.task.v2"


class Status:
    """The states of a process, StateResponse.status."""

    UNKNOWN = 0
    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4
    PAUSING = 5


class Mount(_Message):
    type: str = pb.string(1)
    source: str = pb.string(2)
    target: str = pb.string(3)
    options: list[str] = pb.repeated(pb.string(4))


class ProcessInfo(_Message):
    pid: int = pb.uint32(1)
    info: Any | None = pb.message(Any, 2)


class StateRequest(_Message):
    id: str = pb.string(1)
    exec_id: str = pb.string(2)


class StateResponse(_Message):
    id: str = pb.string(1)
    bundle: str = pb.string(2)
    pid: int = pb.uint32(3)
    status: int = pb.enum(4)
    stdin: str = pb.string(5)
    stdout: str = pb.string(6)
    stderr: str = pb.string(7)
    terminal: bool = pb.boolean(8)
    exit_status: int = pb.uint32(9)
    exited_at: Timestamp | None = pb.message(Timestamp, 10)
    exec_id: str = pb.string(11)


class CreateTaskRequest(_Message):
    id: str = pb.string(1)
    bundle: str = pb.string(2)
    rootfs: list[Mount] = pb.repeated(pb.message(Mount, 3))
    terminal: bool = pb.boolean(4)
    stdin: str = pb.string(5)
    stdout: str = pb.string(6)
    stderr: str = pb.string(7)
    checkpoint: str = pb.string(8)
    parent_checkpoint: str = pb.string(9)
    options: Any | None = pb.message(Any, 10)


class CreateTaskResponse(_Message):
    pid: int = pb.uint32(1)


class StartRequest(_Message):
    id: str = pb.string(1)
    exec_id: str = pb.string(2)


class StartResponse(_Message):
    pid: int = pb.uint32(1)


class DeleteRequest(_Message):
    id: str = pb.string(1)
    exec_id: str = pb.string(2)


class DeleteResponse(_Message):
    pid: int = pb.uint32(1)
    exit_status: int = pb.uint32(2)
    exited_at: Timestamp | None = pb.message(Timestamp, 3)


class PidsRequest(_Message):
    id: str = pb.string(1)


class PidsResponse(_Message):
    processes: list[ProcessInfo] = pb.repeated(pb.message(ProcessInfo, 1))


class PauseRequest(_Message):
    id: str = pb.string(1)


class ResumeRequest(_Message):
    id: str = pb.string(1)


class CheckpointTaskRequest(_Message):
    id: str = pb.string(1)
    path: str = pb.string(2)
    options: Any | None = pb.message(Any, 3)


class KillRequest(_Message):
    id: str = pb.string(1)
    exec_id: str = pb.string(2)
    signal: int = pb.uint32(3)
    all: bool = pb.boolean(4)


class ExecProcessRequest(_Message):
    id: str = pb.string(1)
    exec_id: str = pb.string(2)
    terminal: bool = pb.boolean(3)
    stdin: str = pb.string(4)
    stdout: str = pb.string(5)
    stderr: str = pb.string(6)
    spec: Any | None = pb.message(Any, 7)


class ResizePtyRequest(_Message):
    id: str = pb.string(1)
    exec_id: str = pb.string(2)
    width: int = pb.uint32(3)
    height: int = pb.uint32(4)


class CloseIORequest(_Message):
    id: str = pb.string(1)
    exec_id: str = pb.string(2)
    stdin: bool = pb.boolean(3)


class UpdateTaskRequest(_Message):
    id: str = pb.string(1)
    resources: Any | None = pb.message(Any, 2)
    annotations: dict[str, str] = pb.string_map(3)


class WaitRequest(_Message):
    id: str = pb.string(1)
    exec_id: str = pb.string(2)


class WaitResponse(_Message):
    exit_status: int = pb.uint32(1)
    exited_at: Timestamp | None = pb.message(Timestamp, 2)


class StatsRequest(_Message):
    id: str = pb.string(1)


class StatsResponse(_Message):
    stats: Any | None = pb.message(Any, 1)


class ConnectRequest(_Message):
    id: str = pb.string(1)


class ConnectResponse(_Message):
    shim_pid: int = pb.uint32(1)
    task_pid: int = pb.uint32(2)
    version: str = pb.string(3)


class ShutdownRequest(_Message):
    id: str = pb.string(1)
    now: bool = pb.boolean(2)


class Methods:
    """The methods of the Task service whose full name is `service`."""

    def __init__(self, service: str) -> None:
        self.state = Method(service, "State", StateRequest, StateResponse)
        self.create = Method(service, "Create", CreateTaskRequest, CreateTaskResponse)
        self.start = Method(service, "Start", StartRequest, StartResponse)
        self.delete = Method(service, "Delete", DeleteRequest, DeleteResponse)
        self.pids = Method(service, "Pids", PidsRequest, PidsResponse)
        self.pause = Method(service, "Pause", PauseRequest, Empty)
        self.resume = Method(service, "Resume", ResumeRequest, Empty)
        self.checkpoint = Method(service, "Checkpoint", CheckpointTaskRequest, Empty)
        self.kill = Method(service, "Kill", KillRequest, Empty)
        self.exec = Method(service, "Exec", ExecProcessRequest, Empty)
        self.resize_pty = Method(service, "ResizePty", ResizePtyRequest, Empty)
        self.close_io = Method(service, "CloseIO", CloseIORequest, Empty)
        self.update = Method(service, "Update", UpdateTaskRequest, Empty)
        self.wait = Method(service, "Wait", WaitRequest, WaitResponse)
        self.stats = Method(service, "Stats", StatsRequest, StatsResponse)
        self.connect = Method(service, "Connect", ConnectRequest, ConnectResponse)
        self.shutdown = Method(service, "Shutdown", ShutdownRequest, Empty)


V2 = Methods("containerd.task.v2.Task")
V3 = Methods("containerd.task.v3.Task")
