"""The container: its cgroup, its init, its execs, and every operation on them.

It is one object in four rooms, each built on the one before:

    holding.py    what is known of it, and the checkpoint
    ending.py     how it ends
    creation.py   how it is made and started
    here          what is done with it while it lives: execs, signals, pause

Rule: no operation blocks the loop. One that takes time gets two callbacks, `done()` and `failed(error)`, and exactly
one of them is called, once. An operation that refuses at once raises instead, and has changed nothing.
"""

import signal as signals

from leafshim import process as processes
from leafshim import state
from leafshim.api.task import ExecProcessRequest
from leafshim.crashes import crash
from leafshim.creation import Creation
from leafshim.errors import AlreadyExists, InputError, StateError
from leafshim.orders import order_exec
from leafshim.process import Done, Failure, Process
from leafshim.streams import Streams


class Container(Creation):
    """One container, with everything that can be asked of it."""

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
        crash("exec-added")

    def start_exec(self, exec_id: str, done: Done, failed: Failure) -> None:
        """Make a registered exec and run it."""
        added = self._exec(exec_id)
        if added.stage != processes.ADDED:
            raise StateError(f"exec {exec_id} is {added.stage}")
        init = self._init_for_exec()

        def executed() -> None:
            self.events.publish("exec-started", exec_id=exec_id, pid=added.pid)
            crash("exec-started")
            done()

        spec = self.description.read(self.bundle.config)
        order = order_exec(spec, added.document, init.leaf, init.pidfd, terminal=added.streams.terminal)
        if added.streams.terminal:  # its size is set when it is there, and before the program asks for it
            added.launch(order, lambda: added.release(executed, failed), failed)
        else:
            added.launch(order, lambda: None, failed)
            crash("exec-launched")
            added.release(executed, failed)
            crash("exec-released")

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

    def pause(self, done: Done, failed: Failure) -> None:
        """Freeze every process of the container."""
        self._freeze("paused", True, done, failed)

    def resume(self, done: Done, failed: Failure) -> None:
        """Thaw it."""
        self._freeze("resumed", False, done, failed)

    # Its next shim.

    def step_down(self) -> list[str]:
        """Leave the container to another shim: all that is known is in the checkpoint, and this worker is the last.

        The names of the descriptors that the other one needs. Raises StateError, with nothing changed, while something
        is under way that only this shim can finish: an exec is its child, input that waits is in its memory.
        """
        init = self._init()
        if self.state != state.RUNNING or init.stage != processes.RUNNING:
            raise StateError(f"container {self.id} is {self.state}, not {state.RUNNING}")
        for exec_id, added in self.execs.items():
            if not added.told:
                raise StateError(f"container {self.id}: exec {exec_id} has not ended")
        if init.streams.input_waits:
            raise StateError(f"container {self.id}: input waits for its process")
        busy = self.freezer is not None and self.freezer.busy
        if busy or self.suspicion is not None or (self.follower is not None and self.follower.busy):
            raise StateError(f"container {self.id}: it is being paused, resumed or ended")
        self._save()
        self.leaving = True
        return [*init.streams.descriptors(), "init"]

    def _freeze(self, kind: str, wanted: bool, done: Done, failed: Failure) -> None:
        self._init()
        if self.state != state.RUNNING or self.freezer is None:
            raise StateError(f"container {self.id} is {self.state}, not {state.RUNNING}")

        def told() -> None:
            self.events.publish(kind)
            done()

        self.freezer.want(wanted, told, failed)
