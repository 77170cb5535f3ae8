"""How an init ends that is not our child: its shim died, and we took it over.

A zombie is reaped by its new parent: the nursery, which is the subreaper of all shims, or the system's init. We see on
the pidfd that it has ended (POLLIN) and, since Linux 6.9, that it was reaped (POLLHUP). How it ended tell

1. the nursery, if it is the one to reap, on any kernel;
2. the kernel, for a pidfd that was held since before the reaping (Linux 6.15, PIDFD_GET_INFO);
3. nobody, else: unknown, and never invented.
"""

import os
from collections.abc import Callable

from leafshim import loop as loops
from leafshim.keeper import Keeper
from leafshim.kernel import pidfd
from leafshim.loop import Loop, Timer

PATIENCE = 10.0  # seconds for somebody that we cannot ask, a lazy init say, to reap what has ended


class Follower:
    """Follows the process that the descriptor `fd` names; `ended(wait_status)` is called once, None for unknown."""

    def __init__(
        self, loop: Loop, keeper: Keeper, process: tuple[int, int], fd: int, ended: Callable[[int | None], None]
    ) -> None:
        """`process`: its pid and start time. Of `fd` a copy is kept, as its owner closes it whenever it likes."""
        self._loop = loop
        self._keeper = keeper
        self._process = process
        self._fd = os.dup(fd)
        self._done = ended
        self._timer: Timer | None = None
        self.busy = False
        """It has ended, and we do not know how yet."""
        loop.add(self._fd, loops.READ, self._ready)

    def _ready(self, _mask: int) -> None:
        """Once: what it says now it says for ever. The nursery reaps before it answers."""
        self._loop.remove(self._fd)
        self.busy = True
        status = pidfd.exit_info(self._fd)
        if status is not None:
            self._tell(status)
        else:
            self._keeper.find_end(*self._process, self._answered)

    def _answered(self, status: int | None) -> None:
        if status is not None:
            self._tell(status)
        else:  # another reaps it: POLLHUP tells when, where the kernel knows it
            self._timer = self._loop.call_later(PATIENCE, self._reaped)
            self._loop.add(self._fd, 0, lambda _mask: self._reaped())

    def _reaped(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._loop.remove(self._fd)
            self._timer = None
            self._tell(pidfd.exit_info(self._fd))

    def _tell(self, status: int | None) -> None:
        self.busy = False
        os.close(self._fd)
        self._done(status)
