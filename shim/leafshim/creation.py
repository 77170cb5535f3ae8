"""How a container is made and started, and how an attempt that failed is undone.

Rules:
1. The cgroup is in the checkpoint before it is made, RUNNING before init is released.
2. A failed creation leaves no cgroup and no process.
3. While init sets itself up nobody waits for us: what is not needed for the clone is done after it, and what must
   survive us (checkpoint, the sleeper's snapshot) is told before init runs, so that afterwards only the answer is left.
"""

import time

from leafshim import process as processes
from leafshim import state
from leafshim.api.shim import CreateOptions
from leafshim.api.task import CreateTaskRequest
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.checkpoint import Checkpoint
from leafshim.crashes import crash
from leafshim.ending import Ending
from leafshim.errors import AlreadyExists, LeafError, StateError
from leafshim.follower import Follower
from leafshim.orders import order_init
from leafshim.process import Done, Failure, Process
from leafshim.streams import Streams


class Creation(Ending):
    """A container that can be made."""

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
            if streams.terminal:
                self._keeper.keep(self.id, streams.descriptors())
            if options.start and streams.terminal:  # its size is set now, before the program asks for it
                init.release(answered, undo)
            if not options.start:
                self.events.publish("create", pid=init.pid, expected=True)
                self._move(state.ISOLATING)
                answered()

        def answered() -> None:
            done()
            crash("create-answered")

        def undo(error: LeafError) -> None:
            self._forget_creation()
            failed(error)

        try:
            order = order_init(self.bundle, self.description.read(self.bundle.config), request, options)
            crash("create-judged")
            self._checkpoint()._replace(cgroup=order.cgroup.path).write(self.bundle.checkpoint)
            crash("create-written")
            order.make()
            crash("create-made")
            init.launch(order.init, ready, undo)
            crash("create-cloned")
            # From here on init sets itself up, on another processor where there is one.
            self.watch_anew(order.cgroup)
            order.guard()
            crash("create-guarded")
            self._keeper.keep(self.id, {"init": init.pidfd, "listener": self.listener, **streams.descriptors()})
            crash("create-kept")
            if options.start:
                self.state = state.move(state.move(self.state, state.ISOLATING), state.RUNNING)
                self.events.publish("create", pid=init.pid, expected=True)
                self._started(init)
                self._save()
                crash("create-noted")
                if not streams.terminal:
                    init.release(answered, undo)
                crash("create-released")
                self._tell_change()
                crash("create-handed-over")
        except LeafError:
            self._forget_creation()
            raise

    def foresee(self) -> None:
        """Read the description before anybody asks for the creation. One that is wrong, or not there yet, is an error
        only then."""
        try:
            self.description.read(self.bundle.config)
        except LeafError:
            return

    def restore_init(self, init: Process) -> None:
        """Take a process from a snapshot for our init."""
        self.init = init
        init.streams.on_stdin_closed = self._stdin_closed
        if init.adopted and init.stage == processes.RUNNING:
            who = init.pid, init.start_time

            def ended(status: int | None) -> None:
                self._init_ended(init, status)

            self.follower = Follower(self._loop, self._keeper, who, init.pidfd, ended)

    def adopt(self) -> None:
        """Be the shim of a container whose shim died, and whose init runs on: it has been restored from the checkpoint
        of that, and is in ours before anybody can ask."""
        crash("adopting")
        init = self._init()
        self.state, init.stage = state.RUNNING, processes.RUNNING
        if not init.adopted:
            init.adopted = True
            self.restore_init(init)
        self._save()
        crash("adopt-noted")
        self._tell_change()

    def _stdin_closed(self) -> None:
        self._keeper.forget(self.id, ["stdin"])
        self._tell_change()

    def _forget_creation(self) -> None:
        """Back to PREPARING, with nothing left of the attempt."""
        if self.init is not None:
            self.init.abandon()
        self.init = None
        self.events.withdraw(max(self.options.first_sequence, 1))
        self._cancel_time_limit()
        if self.state == state.RUNNING:  # the sleeper knows of an init that there is no more
            self.on_change()
        self.state = state.PREPARING
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
        crash("start-noted")

        def executed() -> None:
            self._started(init)
            self._save()
            crash("start-executed")
            self._tell_change()
            done()
            crash("start-answered")

        init.release(executed, failed)
        crash("start-released")

    def _started(self, init: Process) -> None:
        init.started_at = init.started_at or time.time_ns()
        self.events.publish("start", pid=init.pid, expected=True)
        if self.options.timeout:
            self.limit_time(time.monotonic() + self.options.timeout / 1e9)
