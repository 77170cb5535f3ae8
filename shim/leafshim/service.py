"""What the shim answers: containerd's Task, versions 2 and 3, and our own Shim.

Every handler is a few lines: turn the message into an operation of the container, and its end into an answer. Who may
ask is decided before any handler runs (shim.py, `authorized`). A request that names another container than ours is
NotFound, everywhere but in Connect and Shutdown, as containerd's shims have it.
"""

import typing

from leafshim import __version__, debug, stats, update
from leafshim import process as processes
from leafshim.api import debug as debug_api
from leafshim.api import shim, task
from leafshim.api.task import (
    CloseIORequest,
    ConnectRequest,
    ConnectResponse,
    CreateTaskRequest,
    CreateTaskResponse,
    DeleteRequest,
    DeleteResponse,
    ExecProcessRequest,
    KillRequest,
    PauseRequest,
    PidsRequest,
    PidsResponse,
    ProcessInfo,
    ResizePtyRequest,
    ResumeRequest,
    ShutdownRequest,
    StartRequest,
    StartResponse,
    StateRequest,
    StateResponse,
    StatsRequest,
    StatsResponse,
    Status,
    UpdateTaskRequest,
    WaitRequest,
    WaitResponse,
)
from leafshim.api.wellknown import Any, Empty, Timestamp
from leafshim.container import Container
from leafshim.crashes import crash
from leafshim.errors import InputError, NotFound, StateError, Unsupported
from leafshim.kernel import network
from leafshim.loop import Loop
from leafshim.streams import Attachment
from leafshim.ttrpc.server import Call, Handler
from leafshim.ttrpc.service import Method

_STATUS = {
    processes.ADDED: Status.CREATED,
    processes.LAUNCHING: Status.CREATED,
    processes.CREATED: Status.CREATED,
    processes.RELEASING: Status.RUNNING,
    processes.RUNNING: Status.RUNNING,
    processes.ENDED: Status.STOPPED,
}


class Service:
    """The handlers of one shim."""

    def __init__(self, loop: Loop, container: Container) -> None:
        self._loop = loop
        self._container = container

    def handlers(self) -> dict[Method[typing.Any, typing.Any], Handler]:
        """Every method that the shim serves."""
        table: dict[Method[typing.Any, typing.Any], Handler] = {
            shim.INFO: self.info,
            shim.EVENTS: self.events,
            shim.COLLECT: self.collect,
            shim.ACKNOWLEDGE: self.acknowledge,
            shim.ATTACH: self.attach,
            shim.STEP_DOWN: self.step_down,
            debug_api.LOOK: self.look,
        }
        for version in (task.V2, task.V3):
            table |= {
                version.state: self.state,
                version.create: self.create,
                version.start: self.start,
                version.delete: self.delete,
                version.pids: self.pids,
                version.pause: self.pause,
                version.resume: self.resume,
                version.kill: self.kill,
                version.exec: self.exec,
                version.resize_pty: self.resize_pty,
                version.close_io: self.close_io,
                version.update: self.update,
                version.stats: self.stats,
                version.wait: self.wait,
                version.connect: self.connect,
                version.shutdown: self.shutdown,
            }
        return table

    def _named(self, container_id: str) -> Container:
        if container_id != self._container.id:
            raise NotFound(f"container {container_id} does not exist here")
        return self._container

    # containerd's Task.

    def create(self, request: CreateTaskRequest, call: Call[CreateTaskRequest, CreateTaskResponse]) -> None:
        """Make init; the answer carries its pid."""
        container = self._named(request.id)
        if request.checkpoint or request.parent_checkpoint:
            raise Unsupported("checkpoint: not supported")
        options = shim.CreateOptions()
        if request.options is not None and request.options.type_url:
            options = request.options.unpack(shim.CreateOptions)
        container.create(
            request, options, lambda: call.reply(CreateTaskResponse(pid=container.process("").pid)), call.fail
        )

    def start(self, request: StartRequest, call: Call[StartRequest, StartResponse]) -> None:
        """Run init, or an exec; the answer carries its pid."""
        container = self._named(request.id)
        process = container.process(request.exec_id)

        def done() -> None:
            call.reply(StartResponse(pid=process.pid))

        if request.exec_id:
            container.start_exec(request.exec_id, done, call.fail)
        else:
            container.start(done, call.fail)

    def state(self, request: StateRequest, call: Call[StateRequest, StateResponse]) -> StateResponse:
        """What containerd wants to know of a process."""
        container = self._named(request.id)
        process = container.process(request.exec_id)
        status = _STATUS[process.stage]
        if status == Status.RUNNING and container.paused:
            status = Status.PAUSED
        answer = StateResponse(
            id=container.id,
            bundle=container.bundle.path,
            pid=process.pid,
            status=status,
            terminal=process.streams.terminal,
            exec_id=request.exec_id,
        )
        if process.exit is not None:
            answer.exit_status = process.exit.status or 0
            answer.exited_at = Timestamp.from_ns(process.exit.finished_at)
        return answer

    def delete(self, request: DeleteRequest, call: Call[DeleteRequest, DeleteResponse]) -> DeleteResponse:
        """Forget an ended process; with init go the cgroups."""
        process = self._named(request.id).delete(request.exec_id)
        answer = DeleteResponse(pid=process.pid)
        if process.exit is not None:
            answer.exit_status = process.exit.status or 0
            answer.exited_at = Timestamp.from_ns(process.exit.finished_at)
        return answer

    def wait(self, request: WaitRequest, call: Call[WaitRequest, WaitResponse]) -> None:
        """Answer when the process has ended; at once if it has."""
        process = self._named(request.id).process(request.exec_id)

        def done() -> None:
            assert process.exit is not None
            ended = Timestamp.from_ns(process.exit.finished_at)
            call.reply(WaitResponse(exit_status=process.exit.status or 0, exited_at=ended))

        process.wait(done)

    def kill(self, request: KillRequest, call: Call[KillRequest, Empty]) -> Empty:
        """Send a signal to init, to an exec, or with `all` to every process."""
        if not 0 <= request.signal <= 64:
            raise InputError(f"signal: {request.signal} is no signal")
        self._named(request.id).kill(request.exec_id, request.signal, request.all)
        return Empty()

    def pause(self, request: PauseRequest, call: Call[PauseRequest, Empty]) -> None:
        """Freeze; answered when everything stands still."""
        self._named(request.id).pause(lambda: call.reply(Empty()), call.fail)

    def resume(self, request: ResumeRequest, call: Call[ResumeRequest, Empty]) -> None:
        """Thaw."""
        self._named(request.id).resume(lambda: call.reply(Empty()), call.fail)

    def exec(self, request: ExecProcessRequest, call: Call[ExecProcessRequest, Empty]) -> Empty:
        """Register an exec; Start runs it."""
        self._named(request.id).add_exec(request)
        return Empty()

    def resize_pty(self, request: ResizePtyRequest, call: Call[ResizePtyRequest, Empty]) -> Empty:
        """Set the size of a terminal; without one, nothing."""
        self._named(request.id).process(request.exec_id).streams.resize(request.width, request.height)
        return Empty()

    def close_io(self, request: CloseIORequest, call: Call[CloseIORequest, Empty]) -> Empty:
        """Close standard input once what is queued was read."""
        process = self._named(request.id).process(request.exec_id)
        if request.stdin:
            process.streams.close_stdin()
        return Empty()

    def pids(self, request: PidsRequest, call: Call[PidsRequest, PidsResponse]) -> PidsResponse:
        """Every process of the container."""
        pids = self._named(request.id).pids()
        return PidsResponse(processes=[ProcessInfo(pid=pid) for pid in pids])

    def update(self, request: UpdateTaskRequest, call: Call[UpdateTaskRequest, Empty]) -> None:
        """Change its limits."""

        def answered() -> None:
            call.reply(Empty())
            crash("updated")

        update.begin(self._loop, self._named(request.id), request, answered, call.fail)

    def stats(self, request: StatsRequest, call: Call[StatsRequest, StatsResponse]) -> StatsResponse:
        """Its figures, until it is deleted."""
        container = self._named(request.id)
        usage, interfaces = container.isolator().usage(), network.interfaces(container.process("").pid)
        return StatsResponse(stats=Any.pack(stats.metrics(usage, interfaces)))

    def connect(self, request: ConnectRequest, call: Call[ConnectRequest, ConnectResponse]) -> ConnectResponse:
        """Who is there, also before a container is."""
        init = self._container.init
        return ConnectResponse(
            shim_pid=self._container.shim_pid, task_pid=init.pid if init is not None else 0, version=__version__
        )

    def shutdown(self, request: ShutdownRequest, call: Call[ShutdownRequest, Empty]) -> Empty:
        """End the shim, unless a container remains (containerd asks after every Delete)."""
        if self._container.init is None or self._container.deleted:
            crash("shutdown")
            self._container.finished = True
            self._loop.call_later(0, self._loop.stop)
        elif request.now:
            raise StateError(f"container {self._container.id} remains")
        return Empty()

    # Our own.

    def info(self, request: shim.InfoRequest, call: Call[shim.InfoRequest, shim.InfoResponse]) -> shim.InfoResponse:
        """All that the shim knows of its container."""
        container = self._container
        answer = shim.InfoResponse(
            version=__version__,
            shim_pid=self._container.shim_pid,
            id=container.id,
            state=container.state,
            paused=container.paused,
            cgroup=container.cgroup.path if container.cgroup is not None else "",
            created_at=container.created_at,
            last_sequence=container.events.last,
            processes=[added.info() for added in container.execs.values()],
        )
        init = container.init
        if init is not None:
            answer.pid, answer.pid_start_time = init.pid, init.start_time
            answer.started_at = init.started_at
            answer.exit = init.exit
            answer.finished_at = init.exit.finished_at if init.exit is not None else 0
        return answer

    def events(self, request: shim.EventsRequest, call: Call[shim.EventsRequest, shim.Event]) -> None:
        """Every kept event after `after`, and those to come."""
        self._container.events.listen(call, request.after)

    def collect(
        self, request: shim.EventsRequest, call: Call[shim.EventsRequest, shim.CollectResponse]
    ) -> shim.CollectResponse:
        """What is kept after `after`; the rest is safe elsewhere."""
        return shim.CollectResponse(events=self._container.events.collect(request.after))

    def acknowledge(
        self, request: shim.AcknowledgeRequest, call: Call[shim.AcknowledgeRequest, shim.AcknowledgeResponse]
    ) -> shim.AcknowledgeResponse:
        """Forget what is safe elsewhere."""
        self._container.events.acknowledge(request.sequence)
        return shim.AcknowledgeResponse()

    def step_down(self, request: shim.StepDownRequest, call: Call[shim.StepDownRequest, shim.StepDownResponse]) -> None:
        """Make room for another shim. The loop stops at once: from the checkpoint on nothing may happen here."""
        call.reply(shim.StepDownResponse(names=self._container.step_down()))
        self._loop.stop()

    def look(
        self, request: debug_api.LookRequest, call: Call[debug_api.LookRequest, debug_api.LookResponse]
    ) -> debug_api.LookResponse:
        """This worker itself, for who looks for a fault in it."""
        return debug.look(self._loop, self._container)

    def attach(self, request: shim.AttachInput, call: Call[shim.AttachInput, shim.AttachOutput]) -> None:
        """Join a process's streams; the first message selects it."""

        def select(first: shim.AttachInput) -> None:
            self._container.process(first.exec_id).streams.attach(Attachment(call, first))

        call.on_message = select
