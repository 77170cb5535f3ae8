"""The child, from the clone to execve. It never returns, and carries out what was decided before it was born.

It is a copy of the shim, and its first acts end that: it is not dumpable, takes no signal for the shim, has a session
of its own, and closes the shim's descriptors. A child may wait long for its release; a connection that the shim closes
meanwhile has to be closed. Its own descriptors, the channel last of all, are closed by execve.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from ctypes import get_errno
from typing import NoReturn, TypeAlias

from leafshim.errors import InternalError, KernelError, LeafError
from leafshim.kernel import process, syscalls
from leafshim.kernel.execve import resetting_signals
from leafshim.kernel.paths import CLOSE_RANGE_CLOEXEC, LAST_DESCRIPTOR, close_range
from leafshim.launch.handshake import READY, RELEASE, failed
from leafshim.launch.operation import Operation, Setup
from leafshim.launch.plan import Plan
from leafshim.launch.steps import Step, python, step

Script: TypeAlias = Sequence[tuple[Operation, Sequence[Step]]]
"""All that a child does before its program."""


def write_script(plan: Plan, setup: Setup, stdio: tuple[int, int, int] | None) -> Script:
    """Before the clone: the plan's operations as system calls, after those with which a child leaves its parent."""
    leave = _Leave((setup.channel.fileno(), plan.init_pidfd), stdio)
    return [(operation, tuple(operation.steps(setup))) for operation in (leave, *plan.operations)]


def run(plan: Plan, setup: Setup, script: Script) -> NoReturn:
    """Carry out the script; tell the parent when a step fails, and exit with status 1."""
    channel = setup.channel
    try:
        _launch(plan, setup, script)
    except LeafError as error:
        channel.send(failed(error))
    except BaseException as error:
        # No exception may reach the shim's own frames: this is another process.
        channel.send(failed(InternalError(f"{type(error).__name__}: {error}")))
    finally:
        os._exit(1)


def _launch(plan: Plan, setup: Setup, script: Script) -> NoReturn:
    for operation, steps in script:
        try:
            for function, arguments, slot, over, name in steps:
                result = function(*arguments)
                if result >= 0:
                    slot.value = result
                elif get_errno() in over:
                    break
                else:
                    operation.otherwise(setup, name, get_errno())
                    break
        except KernelError as error:
            raise operation.failure(error) from None
        except OSError as error:
            raise operation.failure(KernelError.of(error, operation.action)) from None
    file = plan.program.find()
    setup.channel.send(READY, setup.console)
    setup.channel.wait(RELEASE)
    close_range(3, flags=CLOSE_RANGE_CLOEXEC)
    plan.program.run(file)


class _Leave(Operation):
    """End being a copy of the shim. `kept`: descriptors that stay open."""

    __slots__ = ("_kept", "_stdio")

    def __init__(self, kept: Iterable[int | None], stdio: tuple[int, int, int] | None) -> None:
        super().__init__("leave the shim")
        self._kept = sorted(descriptor for descriptor in kept if descriptor is not None)
        self._stdio = stdio

    def steps(self, setup: Setup) -> Iterator[Step]:
        # A process of the container's pid namespace could otherwise look at the host's interpreter and at the shim's
        # descriptors through /proc/PID (CVE-2019-5736).
        yield step(syscalls.prctl, *process.NOT_DUMPABLE)
        yield from (step(call, *arguments) for call, arguments in resetting_signals())
        yield step(syscalls.setsid)
        yield step(syscalls.umask, 0)
        if self._stdio is not None:
            if min(self._stdio) > 2:
                yield from (step(syscalls.dup2, fd, stream) for stream, fd in enumerate(self._stdio))
            else:
                yield python(_connect, self._stdio)
        first = 3
        for descriptor in self._kept:
            if descriptor > first:
                yield step(syscalls.close_range, first, descriptor - 1, 0)
            first = descriptor + 1
        yield step(syscalls.close_range, first, LAST_DESCRIPTOR, 0)


def _connect(stdio: tuple[int, int, int]) -> int:
    # Copies first: one of the three is itself 0, 1 or 2.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in stdio]
    for stream, copy in enumerate(copies):
        os.dup2(copy, stream)
    return 0
