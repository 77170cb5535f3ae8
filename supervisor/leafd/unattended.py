"""A container whose shim died: what the supervisor can still do, through the cgroup and the pidfd of init.

Rules:
1. Nothing is signalled by number alone: init by its pidfd, all others by pidfds that were opened before their
   membership in the container's cgroup was proven.
2. The true exit status comes from the kernel, for a pidfd held since before the end; it is never invented.
"""

import asyncio
import os
import select

from leafd.removal import emptied, readable
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import LeafError, NotFound
from leafshim.kernel import pidfd

_SIGKILL = 9


class Unattended:
    """Owns `init`, a pidfd; -1: nobody held one, so init cannot be proven and only the whole cgroup can be killed."""

    def __init__(self, container_id: str, cgroup: str, init: int) -> None:
        self.id = container_id
        self.cgroup = Cgroup(cgroup)
        self.init = init
        self.requested = 0
        """The last signal that was asked for."""

    def close(self) -> None:
        """Close the pidfd."""
        if self.init >= 0:
            os.close(self.init)
            self.init = -1

    async def kill(self, signal: int, *, all_processes: bool = False) -> None:
        """As `ShimClient.kill`."""
        self.requested = signal
        if signal == _SIGKILL and (all_processes or self.init < 0):
            await asyncio.to_thread(self.cgroup.kill)
        elif all_processes:
            signal_members(self.cgroup, signal)
        elif self.init >= 0:
            pidfd.send_signal(self.init, signal)
        else:
            raise NotFound(f"{self.id}: its init is not known any more")

    async def pause(self) -> None:
        """As `ShimClient.pause`."""
        await asyncio.to_thread(self.cgroup.freeze)

    async def resume(self) -> None:
        """As `ShimClient.resume`."""
        await asyncio.to_thread(self.cgroup.thaw)

    async def ended(self) -> None:
        """Return when init has ended; where it is not known, when the cgroup has emptied."""
        if self.init >= 0:
            await readable(self.init)
        else:
            await emptied(self.cgroup)

    async def wait_status(self, deadline: float) -> int | None:
        """The wait status of an init that has ended, None if nobody can tell. `deadline`, s: for its new parent, the
        nursery or the system's init, to reap it, as the kernel tells only then (POLLHUP of a pidfd)."""
        if self.init < 0:
            return None
        poll = select.poll()
        poll.register(self.init, 0)
        await asyncio.to_thread(poll.poll, deadline * 1000)
        return pidfd.exit_info(self.init)


def signal_members(cgroup: Cgroup, signal: int) -> None:
    """Signal each process of a cgroup and of those below it."""
    for each in (cgroup, *cgroup.descendants()):
        for pid in each.processes():
            signal_member(each, pid, signal)


def signal_member(cgroup: Cgroup, pid: int, signal: int) -> bool:
    """Signal the process `pid`, if it is in that very cgroup; whether it was. What ends meanwhile is as good."""
    try:
        fd = pidfd.pidfd_open(pid)
    except LeafError:
        return False
    try:
        # The descriptor was opened first: a pid that is reused after this check cannot be what it names.
        if pid not in cgroup.processes():
            return False
        pidfd.send_signal(fd, signal)
    except LeafError:
        return False
    finally:
        os.close(fd)
    return True


def open_proven(pid: int, start_time: int) -> int:
    """A pidfd of the process `pid`, if it is the one that began at `start_time` (clock ticks after boot); else -1."""
    if not pid or not start_time:
        return -1
    try:
        fd = pidfd.pidfd_open(pid)
    except LeafError:
        return -1
    try:
        if pidfd.start_time(pid) == start_time:
            return fd
    except LeafError:
        pass
    os.close(fd)
    return -1


def choose_init(kept: dict[str, int]) -> int:
    """The descriptor named "init" of those that the nursery kept, or -1; the others are closed."""
    init = kept.pop("init", -1)
    for fd in kept.values():
        os.close(fd)
    return init
