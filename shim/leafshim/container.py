"""The container: its cgroup, its init, its execs, and every operation on them.

Rules:
1. What is about to happen is in the checkpoint before it happens: the cgroup before it is made, RUNNING before init is
   released, the exit record before anybody is told of the exit.
2. No operation blocks the loop. One that takes time gets two callbacks, `done()` and `failed(error)`, and exactly one
   of them is called, once. An operation that refuses at once raises instead, and has changed nothing.
3. Init has ended only when nothing of the container's own is left: what init leaves behind (without a pid namespace)
   is killed, and the ends of execs are told before init's.
4. A failed creation leaves no cgroup and no process.
"""

import os
import signal as signals
import time
from collections.abc import Callable

from leafshim import exits, state
from leafshim import process as processes
from leafshim.api.shim import CreateOptions, Exit
from leafshim.api.task import CreateTaskRequest, ExecProcessRequest
from leafshim.bell import ring
from leafshim.bundle import Bundle
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.cgroup.isolator import Isolator
from leafshim.checkpoint import Checkpoint
from leafshim.errors import AlreadyExists, InputError, KernelError, LeafError, NotFound, StateError
from leafshim.events import Events
from leafshim.freezer import Freezer
from leafshim.keeper import Keeper
from leafshim.logs import DEFAULT_MAX_SIZE, LogWriter
from leafshim.loop import Loop, Timer
from leafshim.orders import order_exec, order_init
from leafshim.process import Done, Failure, Process
from leafshim.streams import Streams

END_PATIENCE = 10.0  # seconds that what init left behind gets to die, before the exit is told without waiting for it
EXECS_KEPT = 32  # ended and not deleted
REMOVE_PATIENCE = 2.0  # seconds for rmdir of an empty cgroup to stop saying EBUSY


class Container:
    """One container, from an empty PREPARING to STOPPED and deleted."""

    def __init__(self, loop: Loop, keeper: Keeper) -> None:
        self.id = ""
        self.bundle = Bundle("")
        self.state = state.PREPARING
        self.init: Process | None = None
        self.execs: dict[str, Process] = {}
        self.events = Events()
        self.cgroup: Cgroup | None = None
        self.created_at = 0
        self.deleted = False
        self.finished = False
        self.on_change: Callable[[], None] = lambda: None
        self._loop = loop
        self._keeper = keeper
        self.freezer: Freezer | None = None
        self.options = CreateOptions()
        self.log = LogWriter("")
        self._timeout: Timer | None = None
        self._patience: Timer | None = None
        self.limitation = ""
        self.oom_seen = 0
        self.deadline = 0.0
        self._boot_id = ""
        self._shim = (0, 0)

    def begin(self, container_id: str, bundle: Bundle, shim: tuple[int, int], boot_id: str) -> None:
        """This process works for the shim of `container_id`; `shim` is the shim's pid and start time."""
        self.id, self.bundle = container_id, bundle
        self._shim, self._boot_id = shim, boot_id
        self.events.persist = self._save
        self.events.ring = self._ring

    # Create and start.

    def create(self, request: CreateTaskRequest, options: CreateOptions, done: Done, failed: Failure) -> None:
        """Make init, up to the point where it waits to be started; with `options.start`, up to its program running.

        Refuses with InputError, Unsupported, AlreadyExists, KernelError.
        """
        if self.init is not None:
            raise AlreadyExists(f"container {self.id} exists")
        self.configure(options)
        streams = Streams(self._loop, request.stdin, request.stdout, request.stderr, request.terminal, self.log)
        streams.on_stdin_closed = self._stdin_closed
        self.events.last = max(options.first_sequence, 1) - 1
        self.created_at = time.time_ns()
        self.init = init = Process(self._loop, "", streams)

        def ready() -> None:
            self._keeper.keep(self.id, {"init": init.pidfd, **streams.descriptors()})
            if options.start:
                init.release(running, undo)
                return
            self.events.publish("create", pid=init.pid, expected=True)
            self._move(state.ISOLATING)
            done()

        def running() -> None:
            self.state = state.move(state.move(self.state, state.ISOLATING), state.RUNNING)
            self.events.publish("create", pid=init.pid, expected=True)
            self._started(init)
            self._tell_change()
            done()

        def undo(error: LeafError) -> None:
            self._forget_creation()
            failed(error)

        try:
            order = order_init(self.bundle, request, self._checkpoint(), waits=not options.start)
            self.watch(Cgroup(os.path.dirname(order.leaf)))
            init.launch(order, ready, undo)
        except LeafError:
            self._forget_creation()
            raise

    def configure(self, options: CreateOptions) -> None:
        """Take the options of its creation."""
        self.options = options
        self.log = LogWriter(options.log_path or self.bundle.log, options.log_max_size or DEFAULT_MAX_SIZE)

    def adopt_init(self, init: Process) -> None:
        """Take a process from a snapshot for our init."""
        self.init = init
        init.streams.on_stdin_closed = self._stdin_closed

    def _stdin_closed(self) -> None:
        self._keeper.forget(self.id, ["stdin"])
        self._tell_change()

    def _tell_change(self) -> None:
        """There is something new that must survive us: hand it over, before anybody is told of it."""
        if self.state in (state.RUNNING, state.STOPPED):
            self.on_change()

    def watch(self, cgroup: Cgroup, *, paused: bool = False) -> None:
        """Keep an eye on the container's cgroup and its leaf, which exist."""
        self.cgroup = cgroup
        self.freezer = Freezer(self._loop, cgroup, self._leaf(), self._maybe_ended)
        self.freezer.paused = paused

    def _forget_creation(self) -> None:
        """Back to PREPARING, with nothing left of the attempt."""
        if self.init is not None:
            self.init.abandon()
        self.init = None
        try:
            noted = Checkpoint.read(self.bundle.checkpoint)
        except LeafError:
            return
        # How far the attempt came is not known here: what it was about to make is in the checkpoint.
        if noted.cgroup and (noted.shim_pid, noted.shim_start_time) == self._shim:
            self.cgroup = Cgroup(noted.cgroup)
            self._let_go_of_cgroup()
            self.cgroup = None
            self._save()

    def start(self, done: Done, failed: Failure) -> None:
        """Release init."""
        init = self._init()
        if self.state != state.ISOLATING:
            raise StateError(f"container {self.id} is {self.state}, not {state.ISOLATING}")
        self._move(state.RUNNING)

        def executed() -> None:
            self._started(init)
            self._tell_change()
            done()

        init.release(executed, failed)

    def _started(self, init: Process) -> None:
        self.events.publish("start", pid=init.pid, expected=True)
        self._save()
        if self.options.timeout:
            self.limit_time(time.monotonic() + self.options.timeout / 1e9)

    def limit_time(self, deadline: float) -> None:
        """End it at `deadline` (seconds, time.monotonic())."""
        self.deadline = deadline
        self._timeout = self._loop.call_at(deadline, self._timed_out)

    def _timed_out(self) -> None:
        self.limitation = f"time limit of {self.options.timeout / 1e9:g} s"
        self._kill_all()

    # Execs.

    def add_exec(self, request: ExecProcessRequest) -> None:
        """Register an exec; it is made when it is started."""
        self._init()
        if not request.exec_id:
            raise InputError("exec_id: missing")
        if request.exec_id in self.execs:
            raise AlreadyExists(f"exec {request.exec_id} exists")
        self._init_for_exec()
        if request.spec is None:
            raise InputError("spec: missing")
        streams = Streams(self._loop, request.stdin, request.stdout, request.stderr, request.terminal, self.log)
        self.execs[request.exec_id] = Process(self._loop, request.exec_id, streams)
        self.execs[request.exec_id].document = request.spec.value
        self.events.publish("exec-added", exec_id=request.exec_id)

    def start_exec(self, exec_id: str, done: Done, failed: Failure) -> None:
        """Make a registered exec and run it."""
        added = self._exec(exec_id)
        if added.stage != processes.ADDED:
            raise StateError(f"exec {exec_id} is {added.stage}")
        init = self._init_for_exec()

        def executed() -> None:
            self.events.publish("exec-started", exec_id=exec_id, pid=added.pid)
            done()

        order = order_exec(self.bundle, added.document, init.leaf, init.pidfd, terminal=added.streams.terminal)
        added.launch(order, lambda: added.release(executed, failed), failed)

    def _init_for_exec(self) -> Process:
        """Init, if an exec can join it now. Raises NotFound, StateError."""
        init = self._init()
        if init.stage not in (processes.CREATED, processes.RUNNING) or self.paused:
            raise StateError(f"container {self.id} is {'paused' if self.paused else self.state}")
        return init

    # Signals, pause, resume.

    def kill(self, exec_id: str, number: int, everything: bool) -> None:
        """Signal one process, or all of the container's. An ended one is NotFound, as containerd wants it."""
        if exec_id:
            self._exec(exec_id).signal(number)
            return
        init = self._init()
        if everything and init.stage != processes.ENDED:
            init.requested_signal = number
            if number == signals.SIGKILL:
                self._kill_all()
            else:
                for victim in (init, *self.execs.values()):
                    if victim.stage in (processes.CREATED, processes.RUNNING):
                        victim.signal(number)
        else:
            init.signal(number)

    def _kill_all(self) -> None:
        """Everything in the leaf and below it, in one go; forks cannot escape it (cgroup-v2.rst, cgroup.kill)."""
        self._leaf().kill()

    @property
    def paused(self) -> bool:
        """Frozen on request."""
        return self.freezer is not None and self.freezer.paused

    def pause(self, done: Done, failed: Failure) -> None:
        """Freeze every process of the container."""
        self._freeze("paused", True, done, failed)

    def resume(self, done: Done, failed: Failure) -> None:
        """Thaw it."""
        self._freeze("resumed", False, done, failed)

    def _freeze(self, kind: str, wanted: bool, done: Done, failed: Failure) -> None:
        self._init()
        if self.state != state.RUNNING or self.freezer is None:
            raise StateError(f"container {self.id} is {self.state}, not {state.RUNNING}")

        def told() -> None:
            self.events.publish(kind)
            done()

        self.freezer.want(wanted, told, failed)

    # The end.

    def reaped(self, pid: int, wait_status: int) -> None:
        """The status of a child of our parent's: init, an exec, or something that an exec left behind."""
        if self.init is not None and self.init.pid == pid and self.init.stage != processes.ENDED:
            self._init_ended(self.init, wait_status)
            return
        for added in self.execs.values():
            if added.pid == pid and added.stage != processes.ENDED:
                added.reaped(wait_status)
                added.settle(oom=self._new_oom())
                self.events.publish("exec-exited", exec_id=added.exec_id, pid=pid, end=added.exit)
                added.tell()
                self._forget_old_execs()
                self._maybe_ended()
                return

    def _forget_old_execs(self) -> None:
        """Whoever started an exec should delete it. For those that did not, the last few are kept."""
        for exec_id in [exec_id for exec_id, added in self.execs.items() if added.told][:-EXECS_KEPT]:
            del self.execs[exec_id]

    def _init_ended(self, init: Process, wait_status: int) -> None:
        init.reaped(wait_status)
        if self.init is None:  # it failed before it was ready, and the creation was undone
            return
        self._move(state.DESTROYING)
        if self._timeout is not None:
            self._timeout.cancel()
            self.deadline = 0.0
        if self.freezer is not None and self.freezer.populated():
            self._kill_all()
            self._patience = self._loop.call_later(END_PATIENCE, lambda: self._end(init))
        self._maybe_ended()

    def _maybe_ended(self) -> None:
        """Init's end may be told once nothing of the container runs and every exec's end was told."""
        if self.state != state.DESTROYING or self.init is None or self.freezer is None:
            return
        waiting = any(added.stage not in (processes.ADDED, processes.ENDED) for added in self.execs.values())
        if not waiting and not self.freezer.populated():
            self._end(self.init)

    def _end(self, init: Process) -> None:
        if self.state != state.DESTROYING or self.cgroup is None:
            return
        if self._patience is not None:
            self._patience.cancel()
        end = init.settle(oom=self._new_oom(), limitation=self.limitation)
        exits.figures(self.cgroup, end)
        if self.freezer is not None and self.freezer.populated():
            end.message = f"{end.message}; processes that do not die: {self._leaf().processes()}".lstrip("; ")
        self._record(init, end)
        self._move(state.STOPPED)
        if end.cause == "oom":
            self.events.publish("oom")
        self.events.publish("exit", pid=init.pid, end=end)
        self._tell_change()
        init.tell()

    def _record(self, init: Process, end: Exit) -> None:
        """Put the exit on disk. A disk that refuses is told of in the exit itself, which stays with us until then."""
        try:
            exits.write(
                self.options.exit_path or self.bundle.exit,
                self.id,
                end,
                pid=init.pid,
                created_at=self.created_at,
                started_at=init.started_at,
                sequence=self.events.last + 1 + (end.cause == "oom"),
            )
        except KernelError as error:
            end.message = f"{end.message}; the exit record could not be written: {error}".lstrip("; ")

    def _new_oom(self) -> bool:
        """The OOM killer has killed in this container since we last asked."""
        count = exits.flat(self.cgroup, "memory.events").get("oom_kill", 0) if self.cgroup is not None else 0
        fresh = count > self.oom_seen
        self.oom_seen = count
        return fresh

    def delete(self, exec_id: str) -> Process:
        """Forget an exec that ended, or the container with its cgroups. The process, for its last figures."""
        if exec_id:
            added = self._exec(exec_id)
            if added.stage not in (processes.ADDED, processes.ENDED):
                raise StateError(f"exec {exec_id} is {added.stage}")
            added.streams.close()
            return self.execs.pop(exec_id)
        init = self._init()
        if self.state != state.STOPPED:
            raise StateError(f"container {self.id} is {self.state}, not {state.STOPPED}")
        self._let_go_of_cgroup()
        self.log.close()
        self.deleted = True
        return init

    def _let_go_of_cgroup(self) -> None:
        if self.freezer is not None:
            self.freezer.close()
            self.freezer = None
        if self.cgroup is not None and self.cgroup.exists():
            self.cgroup.remove_tree(REMOVE_PATIENCE)

    # What there is.

    @property
    def shim_pid(self) -> int:
        """The sleeper's, which stays; workers come and go."""
        return self._shim[0]

    @property
    def at_rest(self) -> bool:
        """Nothing is under way: all that can happen next comes from outside, or from the kernel."""
        if self.init is None or self.deleted:
            return True
        if self.init.stage != processes.RUNNING and not self.init.told:
            return False
        if self.freezer is not None and self.freezer.busy:
            return False
        return all(added.told for added in self.execs.values()) and self.init.streams.at_rest

    def process(self, exec_id: str) -> Process:
        """Init for "", else the exec. Raises NotFound."""
        return self._exec(exec_id) if exec_id else self._init()

    def pids(self) -> list[int]:
        """Every process in the leaf and below it."""
        self._init()
        leaf = self._leaf()
        return sorted(pid for cgroup in (leaf, *leaf.descendants()) for pid in cgroup.processes())

    def isolator(self) -> Isolator:
        """For its limits and figures. Raises NotFound without a container."""
        self._init()
        return Isolator(find_mount(), Cgroup(os.path.dirname(self._leaf().path)))

    def _init(self) -> Process:
        if self.init is None or self.deleted:
            raise NotFound(f"container {self.id} does not exist")
        return self.init

    def _exec(self, exec_id: str) -> Process:
        self._init()
        if exec_id not in self.execs:
            raise NotFound(f"exec {exec_id} does not exist")
        return self.execs[exec_id]

    def _leaf(self) -> Cgroup:
        if self.cgroup is None:
            raise NotFound(f"container {self.id} has no cgroup")
        return Cgroup(os.path.join(self.cgroup.path, "leaf"))

    def _ring(self) -> None:
        if self.options.supervisor:
            ring(self.options.supervisor, self.id)

    def _move(self, wanted: str) -> None:
        self.state = state.move(self.state, wanted)
        self._save()

    def _save(self) -> None:
        self._checkpoint().write(self.bundle.checkpoint)

    def _checkpoint(self) -> Checkpoint:
        init = self.init
        return Checkpoint(
            id=self.id,
            boot_id=self._boot_id,
            shim_pid=self._shim[0],
            shim_start_time=self._shim[1],
            state=self.state,
            pid=init.pid if init is not None else 0,
            pid_start_time=init.start_time if init is not None else 0,
            cgroup=self.cgroup.path if self.cgroup is not None else "",
            created_at=self.created_at,
            started_at=init.started_at if init is not None else 0,
            exit_path=self.options.exit_path or self.bundle.exit,
            sequence=self.events.last,
        )
