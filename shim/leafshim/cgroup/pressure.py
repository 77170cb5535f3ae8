"""Pressure stall information: how long the container's processes waited for cpu, io or memory.

A trigger has the kernel watch: it fires when the stalls within a window have come to a threshold, at most once a window
(Documentation/accounting/psi.rst). What the kernel does that surprises:
- A trigger lives as long as its open file, across fork and SCM_RIGHTS.
- poll(2) itself takes what has fired: whoever is told is the only one, and a read does not bring it back.
- Without CAP_SYS_RESOURCE a window must be a multiple of 2 s.

The leaf is what is looked at, so that the stalls of nested containers are theirs alone.
"""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from leafshim.cgroup.controller import Controller
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.layout import LEAF
from leafshim.cgroup.limitation import OWN, Counters, Limitation, Watch
from leafshim.errors import InputError, KernelError

RESOURCES = ("cpu", "io", "memory")
_WINDOWS = (500_000, 10_000_000)  # µs: psi.rst


class Trigger(NamedTuple):
    """Fires when some processes, or `full`, all that are not idle, stalled for `stall` within `window`, both in µs."""

    resource: str
    full: bool
    stall: int
    window: int

    def check(self) -> None:
        """Raises InputError for what the kernel would not take."""
        if self.resource not in RESOURCES:
            raise InputError(f"pressure {self.resource}: must be of one of {', '.join(RESOURCES)}")
        if not _WINDOWS[0] <= self.window <= _WINDOWS[1]:
            raise InputError(f"pressure {self.resource}: a window must be 500ms to 10s, not {self.window / 1e6:g} s")
        if not 0 < self.stall <= self.window:
            raise InputError(f"pressure {self.resource}: the threshold must be more than 0, and at most the window")

    @property
    def kind(self) -> str:
        """The line of the file that it watches."""
        return "full" if self.full else "some"

    @property
    def watch(self) -> Watch:
        """Where it is set."""
        return Watch(f"{LEAF}/{self.resource}.pressure", f"{self.kind} {self.stall} {self.window}")


class Pressure(Controller):
    """The triggers of one container. No controller has to be enabled for them; the kernel must have PSI (psi=1)."""

    name = "pressure"

    def __init__(self, triggers: Sequence[Trigger] = ()) -> None:
        self.triggers = triggers

    def watch(self, cgroup: Cgroup) -> Sequence[Watch]:
        """One for each trigger."""
        return [trigger.watch for trigger in self.triggers]

    def counters(self, cgroup: Cgroup) -> Counters:
        """All that stalled so far, in µs, as `memory some`."""
        return {
            f"{resource} {kind}": total
            for resource in dict.fromkeys(trigger.resource for trigger in self.triggers)
            for kind, total in _read(cgroup, resource).items()
        }

    def judge(self, cgroup: Cgroup, before: Counters, now: Counters, fired: Watch | None) -> Iterator[Limitation]:
        """`pressure`, when a trigger has fired: what grew is no reason by itself."""
        for trigger in self.triggers:
            if trigger.watch == fired:
                total = now.get(f"{trigger.resource} {trigger.kind}", 0)
                figures = {"stall": trigger.stall, "window": trigger.window, "full": trigger.full, "total": total}
                who = "all" if trigger.full else "some"
                message = (
                    f"{trigger.resource} pressure: {who} of its processes stalled for {trigger.stall / 1e3:g} ms "
                    f"or more within {trigger.window / 1e6:g} s (in all {total / 1e6:.3f} s)"
                )
                yield Limitation("pressure", trigger.resource, OWN, cgroup.path, message, figures)


def _read(cgroup: Cgroup, resource: str) -> dict[str, int]:
    """`some` and `full` → their `total`; empty without PSI."""
    try:
        lines = cgroup.child(LEAF).read(f"{resource}.pressure").splitlines()
    except KernelError:
        return {}
    return {line.split(" ", 1)[0]: int(line.rpartition("total=")[2]) for line in lines}


def arm(path: str, trigger: str) -> int:
    """A descriptor of the file at `path`, close-on-exec, for POLLPRI: with `trigger` set, or "", for what changes from
    now on. Raises KernelError."""
    try:
        fd = os.open(path, (os.O_RDWR if trigger else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError.of(error, "open") from error
    try:
        if trigger:
            os.write(fd, trigger.encode() + b"\0")
        else:
            os.pread(fd, 4096, 0)  # until its first read it is news (fs/kernfs/file.c)
    except OSError as error:
        os.close(fd)
        raise KernelError("write", error.errno or 0, path) from error
    return fd
