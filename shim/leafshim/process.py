"""One process of the container, init or exec, from its request to its end.

    added ──spawn──▶ launching ──Ready──▶ created ──release──▶ releasing ──Executed──▶ running ──reaped──▶ ended
                         └────────────────release────────────────▲│
                         └───────────────Failed───────────────────┘

Rules:
1. A process is signalled through its pidfd, never by number.
2. It has ended when it was reaped; what could not be executed has ended too, with the status that a shell would give.
3. Whoever waits is answered once, after the exit is on disk (for init) or known (for an exec).
"""

import errno
import os
import signal as signals
import time
from collections.abc import Callable

from leafshim import exits
from leafshim import loop as loops
from leafshim.api.shim import Exit, Limitation
from leafshim.api.shim import Process as ProcessInfo
from leafshim.errors import KernelError, LeafError, NotFound, StateError
from leafshim.kernel import pidfd as pidfds
from leafshim.kernel.clone import CLONE_PARENT
from leafshim.kernel.signals import is_pending
from leafshim.launch.spawn import Child, Failed, Ready, spawn
from leafshim.loop import Loop
from leafshim.orders import Order
from leafshim.streams import Streams

Done = Callable[[], None]
Failure = Callable[[LeafError], None]

ADDED = "added"
LAUNCHING = "launching"
CREATED = "created"
RELEASING = "releasing"
RUNNING = "running"
ENDED = "ended"

NOT_FOUND_STATUS = 127
NOT_EXECUTABLE_STATUS = 126


class Process:
    """`exec_id` is "" for init; `document` is an exec's OCI process, as JSON. Owns its streams, channel and pidfd.

    `leaf`: the cgroup it was born in. `pidfd` is -1 before that, and once its end was told. `oom`: what made it the OOM
    killer's victim.
    """

    def __init__(self, loop: Loop, exec_id: str, streams: Streams) -> None:
        self.exec_id = exec_id
        self.streams = streams
        self.document = b""
        self.args: tuple[str, ...] = ()
        self.leaf = ""
        self.stage = ADDED
        self.pid = 0
        self.start_time = 0
        self.started_at = 0
        self.requested_signal = 0
        self.wait_status: int | None = None
        self.oom: Limitation | None = None
        self.exit: Exit | None = None
        self.told = False
        self.adopted = False
        """Its shim died: it is not our parent's child, so its end is seen on its pidfd."""
        self._loop = loop
        self.pidfd = -1
        self._child: Child | None = None
        self._ready: Done | None = None
        self._done: Done | None = None
        self._failed: Failure | None = None
        self._problem: LeafError | None = None
        self._waiters: list[Done] = []

    def launch(self, order: Order, ready: Done, failed: Failure) -> None:
        """Clone it; `ready()` once all is set up. Raises InputError, KernelError.

        It becomes the child of our parent, the sleeper, which outlives us and reaps.
        """
        self.streams.make()
        child = spawn(order.plan, leaf=order.leaf, stdio=self.streams.child, flags=CLONE_PARENT)
        self.stage = LAUNCHING
        self.pid, self.pidfd = child.pid, child.pidfd
        try:
            self.start_time = pidfds.start_time(self.pid)
        except KernelError:
            self.start_time = 0  # it has ended, and the sleeper has reaped it: we shall hear of that
        self.args, self.leaf = order.args, order.leaf
        self._ready, self._failed = ready, failed
        self._child = child
        self._loop.add(child.channel, loops.READ, lambda _mask: self._on_channel())

    def release(self, done: Done, failed: Failure) -> None:
        """Let it execute its program, as soon as all is set up; `done()` once it does. `failed` replaces launch's."""
        if self.stage not in (LAUNCHING, CREATED) or self._child is None:
            raise StateError(f"process {self.exec_id or 'init'} is {self.stage}, not {CREATED}")
        self.stage = RELEASING
        self.started_at = self.started_at or time.time_ns()
        self._done, self._failed = done, failed
        self._child.release()

    def _on_channel(self) -> None:
        self._advance()

    def _advance(self) -> bool:
        """Take one thing that the child has to say; True when there may be more."""
        assert self._child is not None
        outcome = self._child.advance()
        if outcome is None:
            return False
        if isinstance(outcome, Ready):
            if self.stage == LAUNCHING:
                self.stage = CREATED
                self._failed = None  # it is made: should it end now, that is an end, and no failure of its launch
            self.streams.start(outcome.console)
            if self._ready is not None:
                self._ready()
            return self._child is not None
        done, failed = self._done, self._failed
        self._forget_callbacks()
        self._hang_up()
        if isinstance(outcome, Failed):
            self._problem = outcome.error
            if failed is not None:
                failed(outcome.error)
            return False
        self.stage = RUNNING
        if done is not None:
            done()
        return False

    def _forget_callbacks(self) -> None:
        self._ready = self._done = self._failed = None

    def _hang_up(self) -> None:
        """The conversation with the child is over."""
        if self._child is not None:
            self._loop.remove(self._child.channel)
            self._child.close()
            self._child = None

    def signal(self, number: int) -> None:
        """Send a signal. Raises StateError before it exists, NotFound once it has ended, KernelError."""
        if self.stage == ENDED:
            raise NotFound(f"process {self.exec_id or 'init'} has ended")
        if self.pidfd < 0:
            raise StateError(f"exec {self.exec_id} was not started")
        pidfds.send_signal(self.pidfd, number)
        if number:
            self.requested_signal = number

    def reaped(self, wait_status: int | None) -> None:
        """It has ended, with this status; None: nobody knows. What its channel still holds comes first: the reason of a
        failed launch."""
        while self._child is not None and self._advance():
            pass
        self.wait_status = wait_status
        self.stage = ENDED
        self.streams.drain()

    def abandon(self) -> None:
        """Undo a launch: kill what there is of it and close all. Nobody is told."""
        self._forget_callbacks()
        if self.pidfd >= 0:
            try:
                pidfds.send_signal(self.pidfd, signals.SIGKILL)
            except KernelError:
                pass  # ESRCH: it was faster, and has been reaped
        self._hang_up()
        self._close_pidfd()
        self.streams.close()

    def killed_by(self, number: int) -> bool:
        """Whether that signal, which nobody asked us for, has ended it or is about to (proc_pid_status(5), ShdPnd)."""
        if self.stage == ADDED or self.told or self.requested_signal == number:
            return False
        if self.stage == ENDED:
            return (
                self.wait_status is not None
                and os.WIFSIGNALED(self.wait_status)
                and os.WTERMSIG(self.wait_status) == number
            )
        return is_pending(self.pid, number)

    def settle(self, limitation: Limitation | None = None) -> Exit:
        """Decide how it ended, by `limitation` if there was one; the Exit is not told to anybody yet."""
        end = exits.describe(self.wait_status, requested=self.requested_signal, limitation=limitation or self.oom)
        if self._problem is not None:
            end = Exit(status=launch_status(self._problem), cause="exited", message=str(self._problem))
        end.finished_at = time.time_ns()
        end.duration = max(0, end.finished_at - self.started_at) if self.started_at else 0
        self.exit = end
        return end

    def tell(self) -> None:
        """Tell the attached clients and everybody who waits. Closes the pidfd: nothing is left to signal."""
        assert self.exit is not None
        self.told = True
        self.streams.end(self.exit)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()
        self._hang_up()
        self._close_pidfd()

    def _close_pidfd(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def wait(self, done: Done) -> None:
        """Call `done()` once `exit` is told; at once if it is."""
        if self.told:
            done()
        else:
            self._waiters.append(done)

    def info(self) -> ProcessInfo:
        """What Shim.Info says of it."""
        return ProcessInfo(
            exec_id=self.exec_id,
            pid=self.pid,
            args=list(self.args),
            terminal=self.streams.terminal,
            exit=self.exit,
        )


def launch_status(problem: LeafError) -> int:
    """The status that a shell would give to a command that could not be executed (POSIX, XCU 2.8.2)."""
    if isinstance(problem, KernelError) and problem.syscall.startswith("exec"):
        return NOT_FOUND_STATUS if problem.errno in (errno.ENOENT, errno.ENOTDIR) else NOT_EXECUTABLE_STATUS
    return 128 + signals.SIGKILL
