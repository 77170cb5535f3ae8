"""The child, from the clone to execve. It never returns, and carries out what was decided before it was born.

It is a copy of the shim, and its first acts end that: it is not dumpable, takes no signal for the shim, has a session
of its own, and closes the shim's descriptors. A child may wait long for its release; a connection that the shim closes
meanwhile has to be closed. Its own descriptors, the channel last of all, are closed by execve.
"""

import fcntl
import os
import socket
from typing import NoReturn

from leafshim.errors import InternalError, KernelError, LeafError
from leafshim.kernel.execve import reset_signals
from leafshim.kernel.paths import CLOSE_RANGE_CLOEXEC, close_range
from leafshim.kernel.process import set_dumpable
from leafshim.launch.handshake import READY, RELEASE, Channel, failed
from leafshim.launch.operation import Setup
from leafshim.launch.plan import Plan


def run(plan: Plan, end: socket.socket, stdio: tuple[int, int, int] | None) -> NoReturn:
    """Carry out the plan; tell the parent at `end` when a step fails, and exit with status 1."""
    channel = Channel(end)
    try:
        _launch(plan, Setup(channel), stdio)
    except LeafError as error:
        channel.send(failed(error))
    except BaseException as error:
        # No exception may reach the shim's own frames: this is another process.
        channel.send(failed(InternalError(f"{type(error).__name__}: {error}")))
    finally:
        os._exit(1)


def _launch(plan: Plan, setup: Setup, stdio: tuple[int, int, int] | None) -> NoReturn:
    # A process of the container's pid namespace could otherwise look at the host's interpreter and at the shim's
    # descriptors through /proc/PID (CVE-2019-5736).
    set_dumpable(False)
    reset_signals()
    os.setsid()
    os.umask(0)
    if stdio is not None:
        _connect(stdio)
    _close_all_but(setup.channel.fileno(), plan.init_pidfd)
    for operation in plan.operations:
        try:
            operation.execute(setup)
        except KernelError as error:
            raise operation.failure(error) from None
        except OSError as error:
            raise operation.failure(KernelError.of(error, operation.action)) from None
    file = plan.program.find()
    setup.channel.send(READY, setup.console)
    setup.channel.wait(RELEASE)
    close_range(3, flags=CLOSE_RANGE_CLOEXEC)
    plan.program.run(file)


def _close_all_but(*kept: int | None) -> None:
    first = 3
    for descriptor in sorted(descriptor for descriptor in kept if descriptor is not None):
        if descriptor > first:
            close_range(first, descriptor - 1)
        first = descriptor + 1
    close_range(first)


def _connect(stdio: tuple[int, int, int]) -> None:
    # Copies first: one of the three may itself be 0, 1 or 2.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in stdio]
    for stream, copy in enumerate(copies):
        os.dup2(copy, stream)
