"""The nursery's renewal: the code that is installed now, in place of the code that runs.

    nursery ──fork──▶ trial: the installed code starts, reads the state, builds a nursery of it, and ends
       │ ◀── status 0 ───┘
    execve: the same process, so the same children, cgroup and descriptors

Rules:
1. Whatever is wrong with the installed code shows in the trial; then the nursery goes on as before.
2. The state is a record (record.py) in a memfd. A descriptor in it is a number, and stays open over the execve.
3. What waits to be read on a connection stays there: the next one reads it.
4. The state names every descriptor that it speaks of, so that one of a later release may be read here: a field that
   is not known is ignored, and one that is missing has its default.
"""

import os
import sys
from collections.abc import Iterator
from typing import NamedTuple, NoReturn, cast

from leafshim import record
from leafshim.errors import KernelError, StateError
from leafshim.kernel import paths
from leafshim.loop import Loop

KIND = "nursery"
_TAIL = 4096  # bytes of what a failed trial had to say


class State(NamedTuple):
    """All that a nursery is, as numbers: descriptors, and what it knows of processes."""

    server: int
    """The listening socket."""
    asked: int = -1
    """The supervisor's connection that waits for the answer to its Renew."""
    supervisors: tuple[int, ...] = ()
    """Connections by which supervisors call, `asked` among them."""
    lines: tuple[int, ...] = ()
    """Those by which shims do."""
    shims: tuple[int, ...] = ()
    """Pids."""
    ends: tuple[tuple[int, int, int], ...] = ()
    """(pid, start time, wait status) of what was reaped."""
    kept: dict[str, dict[str, int]] = {}  # a NamedTuple's default; never changed
    """container → name → descriptor."""

    def descriptors(self) -> Iterator[int]:
        """Every descriptor in it."""
        yield self.server
        yield from self.supervisors
        yield from self.lines
        for held in self.kept.values():
            yield from held.values()

    def write(self) -> int:
        """A memfd with it."""
        memory = os.memfd_create("leafd-nursery", os.MFD_CLOEXEC)
        data = record.encode(KIND, cast("dict[str, record.Value]", self._asdict()))
        while data:
            data = data[os.write(memory, data) :]
        return memory

    @classmethod
    def read(cls, memory: int) -> "State":
        """The state in a memfd, which is closed. Its descriptors are close-on-exec again. Raises DamagedRecord."""
        with open(memory, "rb") as file:
            file.seek(0)
            value = record.decode(file.read(), KIND, f"memfd {memory}")
        known = cls(**{name: value[name] for name in cls._fields if name in value})  # type: ignore[arg-type]
        for fd in known.descriptors():
            os.set_inheritable(fd, False)
        return known


def become(state: State, interpreter: str, *flags: str) -> NoReturn:
    """Be the nursery of that state, by the code that `interpreter` finds installed. Raises KernelError, and then
    nothing has changed."""
    image = paths.sealed_copy(interpreter, "leafd-python")  # nursery.py, rule 2
    memory = state.write()
    given = [*state.descriptors(), memory]
    command = [interpreter, "-I", "-m", "leafshim.nursery", "--state", str(memory), *flags]
    try:
        for fd in given:
            os.set_inheritable(fd, True)
        os.execve(f"/proc/self/fd/{image}", command, os.environ)
    except OSError as error:
        for fd in given:
            os.set_inheritable(fd, False)
        os.close(memory)
        os.close(image)
        raise KernelError("execve", error.errno or 0, interpreter) from error


class Trial:
    """One attempt, in a process of its own. `connection`: whose answer it decides. Raises KernelError."""

    def __init__(self, loop: Loop, state: State, interpreter: str, patience: float) -> None:
        """`patience`: seconds, after which it is killed."""
        self.connection = state.asked
        self.interpreter = interpreter or sys.executable
        self._report = os.memfd_create("leafd-trial", os.MFD_CLOEXEC)
        self._late = False
        self.pid = os.fork()
        if self.pid == 0:
            self._run(state)
        self._timer = loop.call_later(patience, self._give_up)

    def _run(self, state: State) -> NoReturn:
        try:
            os.dup2(self._report, 1)
            os.dup2(self._report, 2)
            become(state, self.interpreter, "--trial", "yes")
        except BaseException as error:
            os.write(2, str(error).encode(errors="replace"))
        finally:
            os._exit(1)

    def _give_up(self) -> None:
        self._late = True
        os.kill(self.pid, 9)  # ours to reap, so the number is still its own

    def judge(self, wait_status: int) -> None:
        """It has been reaped. Raises StateError where the installed code cannot take over."""
        self._timer.cancel()
        size = os.fstat(self._report).st_size
        said = os.pread(self._report, _TAIL, max(0, size - _TAIL)).decode(errors="replace").strip()
        os.close(self._report)
        if wait_status:
            why = "it came to no end in time" if self._late else said.rpartition("\n")[2] or f"status {wait_status}"
            raise StateError(f"the installed code cannot take the nursery over: {why}")
