"""What a worker tells of itself, for `leafctl debug`: only what nobody can read from outside, so that it costs nothing.

Memory, the kernel's stack and all that concerns the container leafctl reads itself, from /proc and the cgroup.
"""

import os
import sys

from leafshim.api.debug import Descriptor, LookResponse, LoopEvent
from leafshim.holding import Holding
from leafshim.loop import Loop


def look(loop: Loop, container: Holding) -> LookResponse:
    """This process, as it is now."""
    return LookResponse(
        worker_pid=os.getpid(),
        at_rest=container.at_rest,
        descriptors=_descriptors(loop),
        history=[
            LoopEvent(timestamp=int(when * 1e9), timer=fd < 0, fd=max(fd, 0), mask=mask, callback=callback)
            for when, fd, mask, callback in loop.history
        ],
        stack=_stack(),
    )


def _descriptors(loop: Loop) -> list[Descriptor]:
    watched = set(loop.descriptors())
    found = []
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # the one that the list was read from
            continue
        found.append(Descriptor(fd=fd, target=target, watched=fd in watched))
    return found


def _stack() -> list[str]:
    frame, found = sys._getframe(1), []
    while frame is not None:
        code = frame.f_code
        found.append(f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}")
        frame = frame.f_back  # type: ignore[assignment]  # the loop ends with it
    return found
