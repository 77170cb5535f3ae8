"""The end of a cgroup and of all below it: steps to take, what to wait for between them, and what stands in the way.

`steps` does the work and waits for nothing itself, so that one order serves whoever blocks (`Cgroup.remove_tree`) and
whoever has a loop to run (leafd). Rules:
1. Kill, thaw, wait until the kernel says `populated 0`, remove the deepest first. Nobody looks again and again: what
   has to end is waited for by its event. Only rmdir has none, and is tried again after a pause that grows.
2. Everything may be gone, or going, at any point: that is as good. So it may be begun again, and by several at once.
3. When the time is over, what did not die is named, and nothing is left frozen.

What the kernel does that surprises:
- SIGKILL ends what is frozen, by its own cgroup, by one above it or by one that the workload made. So nothing needs a
  thaw to die; but a cgroup that stays behind must not stay frozen.
- A process in uninterruptible sleep (D) takes no signal until its wait is over: a disk that does not answer, a frozen
  file system, a FUSE server that is stuck. Its cgroup stays populated as long. Where in the kernel it waits is in
  /proc/PID/wchan, for root alone.
- An init of a pid namespace ends after everything in it has (zap_pid_ns_processes), so it is a holder too.
"""

import errno
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from leafshim.errors import KernelError

if TYPE_CHECKING:
    from leafshim.cgroup.hierarchy import Cgroup

GONE = (errno.ENOENT, errno.ENODEV)
_FIRST_ROUND = 1.0  # seconds to wait for the killed before killing those who came since; each round takes twice as long
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.1  # seconds between attempts at rmdir
_HOLDERS_NAMED = 10


class Holder(NamedTuple):
    """A process in a cgroup: name, state (one letter, D is uninterruptible), and where in the kernel it waits or ""."""

    pid: int
    name: str
    state: str
    wchan: str

    def __str__(self) -> str:
        return f"{self.pid} ({self.name}) {self.state}{' in ' + self.wchan if self.wchan else ''}"


def look_at(pid: int) -> Holder | None:
    """The process as it is now; None when it is gone (proc_pid_stat(5), proc_pid_wchan(5))."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            before, _, after = file.read().rpartition(")")
        with open(f"/proc/{pid}/wchan", encoding="ascii") as file:
            wchan = file.read().strip()
    except OSError:
        return None
    return Holder(pid, before.partition("(")[2], after.split()[0], "" if wchan == "0" else wchan)


def name_holders(holders: Sequence[Holder]) -> str:
    """The holders in words: `7 (dd) D in percpu_rwsem_wait, 9 (sh) S in do_wait`, cut where they are many."""
    named = ", ".join(map(str, holders[:_HOLDERS_NAMED])) or "no process that we can see"
    more = len(holders) - _HOLDERS_NAMED
    return f"{named}{f' and {more} more' if more > 0 else ''}"


class Busy(KernelError):
    """A cgroup that could not be removed in time; `holders` are the processes that keep it."""

    def __init__(self, path: str, holders: list[Holder]) -> None:
        super().__init__("rmdir", errno.EBUSY, path)
        self.holders = holders

    def __str__(self) -> str:
        return f"{super().__str__()}, held by {name_holders(self.holders)}"


class Wait(NamedTuple):
    """What to wait for before the next step, `seconds` at most: for `populated 0`, or, not `emptied`, for the time."""

    seconds: float
    emptied: bool


def steps(cgroup: "Cgroup", deadline_s: float) -> Iterator[Wait]:
    """Go through a removal: at its end the cgroup and all below it are gone. It is no error if they were before.

    Tries for `deadline_s` seconds, at least once. Raises Busy, which names those that did not die; KernelError.
    """
    deadline = time.monotonic() + deadline_s
    round_, pause = _FIRST_ROUND, _FIRST_PAUSE
    while True:
        alive = _kill(cgroup)
        if not alive and _remove(cgroup):
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise Busy(cgroup.path, cgroup.holders())
        if alive:
            yield Wait(min(round_, left), emptied=True)
            round_ *= 2
        else:
            yield Wait(min(pause, left), emptied=False)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _kill(cgroup: "Cgroup") -> bool:
    """Whether there was somebody to kill, who will take a while to die."""
    try:
        if not cgroup.populated():
            return False
        cgroup.kill()
        for each in (*cgroup.descendants(), cgroup):
            each.thaw()
    except KernelError as error:
        if error.errno not in GONE:
            raise
        return cgroup.exists()  # one below it went meanwhile: there may be more to kill
    return True


def _remove(cgroup: "Cgroup") -> bool:
    """Whether it is gone now, with all below it."""
    try:
        for each in (*cgroup.descendants(), cgroup):
            each.remove()
    except KernelError as error:
        if error.errno in GONE:
            return not cgroup.exists()
        if error.errno != errno.EBUSY:
            raise
        return False
    return True
