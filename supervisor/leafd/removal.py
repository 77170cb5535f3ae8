"""Cgroups on their way out, as a loop waits for them: nothing here blocks it, and no thread waits for a process to die.

What does not die holds up nobody but itself: a thread is taken for the steps of a removal, which the kernel may keep
for some milliseconds (cgroup_mutex), never for the time between them.
"""

import asyncio
import os
import select

from leafshim.cgroup import protection, removal
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.errors import KernelError


async def remove_cgroup(path: str, deadline: float) -> None:
    """Kill all that is in a cgroup of ours, and remove it with those below; fine where there is none.

    Raises Busy, which names what does not die within `deadline` seconds, and KernelError.
    """
    cgroup = Cgroup(path)
    steps = removal.steps(cgroup, deadline)
    # Most often its shim has removed it already, and there is no need of a thread.
    while cgroup.exists() and (wait := await asyncio.to_thread(next, steps, None)) is not None:
        if wait.emptied:
            await emptied(cgroup, wait.seconds)
        else:
            await asyncio.sleep(wait.seconds)
    protection.release(find_mount(), path)


async def emptied(cgroup: Cgroup, seconds: float | None = None) -> bool:
    """Wait until no process is in it or below it, or it is gone; False when that did not come within `seconds`."""
    try:
        await asyncio.wait_for(_emptied(cgroup), seconds)
    except TimeoutError:
        return False
    except KernelError as error:
        if error.errno not in removal.GONE:
            raise
    return True


async def _emptied(cgroup: Cgroup) -> None:
    try:
        events = os.open(os.path.join(cgroup.path, "cgroup.events"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError.of(error, "open") from error
    try:
        with select.epoll() as poll:
            # A change of the file is POLLPRI, which asyncio does not watch for; but an epoll is itself readable.
            poll.register(events, select.EPOLLPRI)
            while cgroup.populated():
                await readable(poll.fileno())
                poll.poll(0)
                os.pread(events, 4096, 0)
    except OSError as error:
        raise KernelError("wait", error.errno or 0, cgroup.path) from error
    finally:
        os.close(events)


async def readable(fd: int) -> None:
    """Wait until the descriptor is readable."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
