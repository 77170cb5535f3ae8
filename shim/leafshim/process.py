"""One process of the container, init or exec, from its request to its end.

    added ──launch──▶ launching ──Born, Ready──▶ created ──release──▶ releasing ──Executed──▶ running ──reaped──▶ ended
                          └──────────────────Failed──────────────────────┘

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
from leafshim.api.shim import Exit
from leafshim.api.shim import Process as ProcessInfo
from leafshim.errors import KernelError, LeafError, NotFound, StateError
from leafshim.kernel import pidfd
from leafshim.launch.launcher import Launcher, Order
from leafshim.launch.spawn import Child, Executed, Failed, Ready
from leafshim.loop import Loop
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
    """`exec_id` is "" for init; `document` is an exec's OCI process, as JSON. Owns its streams, channel and pidfd."""

    def __init__(self, loop: Loop, exec_id: str, streams: Streams) -> None:
        self.exec_id = exec_id
        self.streams = streams
        self.args: tuple[str, ...] = ()
        self.leaf = ""
        self.document = b""
        self.stage = ADDED
        self.pid = 0
        self.start_time = 0
        self.started_at = 0
        self.requested_signal = 0
        self.wait_status: int | None = None
        self.exit: Exit | None = None
        self._loop = loop
        self._launcher: Launcher | None = None
        self._child: Child | None = None
        self._watching = False
        self._done: Done | None = None
        self._failed: Failure | None = None
        self._problem: LeafError | None = None
        self._waiters: list[Done] = []

    @property
    def pidfd(self) -> int:
        """The descriptor of the process; NotFound before it exists."""
        if self._child is None:
            raise NotFound("the process was not started yet")
        return self._child.pidfd

    @property
    def unborn(self) -> bool:
        """It is being launched, and its pid is not known yet."""
        return self._launcher is not None

    def launch(self, prepare: Callable[[], Order], born: Done, done: Done, failed: Failure) -> None:
        """Make it: `prepare()` is called in the launcher. `born()` as soon as it exists, `done()` when all is set up.

        `failed(error)` in place of either. Raises KernelError.
        """
        self._launcher = Launcher(prepare, self.streams.child)
        self.stage = LAUNCHING
        self._done, self._failed = done, failed
        self._loop.add(self._launcher.line, loops.READ, lambda _mask: self._on_line(born))

    def _on_line(self, born: Done) -> None:
        assert self._launcher is not None
        outcome = self._launcher.advance()
        self._close_launcher()
        if isinstance(outcome, Failed):
            self._fail(outcome.error)
            return
        self._child, self.start_time, self.leaf, self.args = outcome
        self.pid = self._child.pid
        self._loop.add(self._child.channel, loops.READ, lambda _mask: self._on_channel())
        self._watching = True
        born()

    def _close_launcher(self) -> None:
        if self._launcher is not None:
            self._loop.remove(self._launcher.line)
            self._launcher.close()
            self._launcher = None

    def _fail(self, error: LeafError) -> None:
        failed = self._failed
        self._problem, self._done, self._failed = error, None, None
        if failed is not None:
            failed(error)

    def release(self, done: Done, failed: Failure) -> None:
        """Let a created process execute its program, or go on where its plan does not wait; `done()` once it does."""
        if self.stage != CREATED or self._child is None:
            raise StateError(f"process {self.exec_id or 'init'} is {self.stage}, not {CREATED}")
        self.stage = RELEASING
        self.started_at = time.time_ns()
        self._done, self._failed = done, failed
        if not self._child.released:
            self._child.release()

    def _on_channel(self) -> None:
        self._advance()

    def _advance(self) -> bool:
        """Take one thing that the child has to say; True when there may be more."""
        assert self._child is not None
        outcome = self._child.advance()
        if outcome is None:
            return False
        if isinstance(outcome, Failed):
            self._unwatch()
            self._fail(outcome.error)
            return False
        done = self._done
        self._done = None
        if isinstance(outcome, Ready):
            self.stage = CREATED
            self.streams.start(outcome.console)
        elif isinstance(outcome, Executed):
            self._unwatch()
            self.stage = RUNNING
        if done is not None:
            done()
        return self._watching

    def _unwatch(self) -> None:
        if self._watching and self._child is not None:
            self._watching = False
            self._loop.remove(self._child.channel)
            self._child.close()

    def signal(self, number: int) -> None:
        """Send a signal. Raises StateError before it exists, NotFound once it has ended, KernelError."""
        if self.stage == ENDED:
            raise NotFound(f"process {self.exec_id or 'init'} has ended")
        if self.stage == ADDED:
            raise StateError(f"exec {self.exec_id} was not started")
        pidfd.send_signal(self.pidfd, number)
        if number:
            self.requested_signal = number

    def reaped(self, wait_status: int | None) -> None:
        """The kernel handed us its status, or it was never born (None).

        What its channel still holds comes first: the reason of a failed launch.
        """
        while self._watching and self._advance():
            pass
        self.wait_status = wait_status
        self.stage = ENDED
        self.streams.drain()

    def abandon(self) -> None:
        """Undo a launch: kill what there is of it and close all. Nobody is told."""
        self._done = self._failed = None
        if self._launcher is not None:
            self._launcher.abort()
            self._close_launcher()
        self._unwatch()
        if self._child is not None:
            self._child.abort()
            os.close(self._child.pidfd)
            self._child = None
        self.streams.close()

    def settle(self, *, oom: bool = False, limitation: str = "") -> Exit:
        """Decide how it ended; the Exit is not told to anybody yet."""
        end = exits.describe(self.wait_status, requested=self.requested_signal, oom=oom, limitation=limitation)
        if self._problem is not None:
            end = Exit(status=launch_status(self._problem), cause="exited", message=str(self._problem))
        end.finished_at = time.time_ns()
        end.duration = max(0, end.finished_at - self.started_at) if self.started_at else 0
        self.exit = end
        return end

    def tell(self) -> None:
        """Tell the attached clients and everybody who waits. Closes the pidfd: nothing is left to signal."""
        assert self.exit is not None
        self.streams.end(self.exit)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()
        self._unwatch()
        if self._child is not None:
            os.close(self._child.pidfd)
            self._child = None

    def wait(self, done: Done) -> None:
        """Call `done()` once `exit` is told; at once if it is."""
        if self.exit is not None and self._child is None:
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
