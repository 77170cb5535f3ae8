"""What the kernel says of the leaf, as it happens: populated or not, frozen or not (cgroup-v2.rst, cgroup.events).

Rules:
1. Freezing is a wish; the kernel answers in cgroup.events when every process has stopped. A process in
   uninterruptible sleep delays the answer, so there is a deadline, and a wish that fails is taken back: nothing stays
   frozen because of an error.
2. The wish is written to the container's cgroup, so that nested containers freeze with it; it is watched on the leaf.
"""

import os
from collections.abc import Callable

from leafshim import loop as loops
from leafshim.cgroup.hierarchy import Cgroup, parse_flat
from leafshim.errors import DeadlineExceeded, KernelError, LeafError
from leafshim.loop import Loop, Timer

PATIENCE = 10.0  # seconds


class Freezer:
    """Watches `leaf`, freezes `cgroup` above it; `changed()` is called whenever the leaf's state may have changed."""

    def __init__(self, loop: Loop, cgroup: Cgroup, leaf: Cgroup, changed: Callable[[], None]) -> None:
        self.paused = False
        self._loop = loop
        self._cgroup = cgroup
        self._changed = changed
        self._wanted: tuple[bool, Callable[[], None], Callable[[LeafError], None], Timer] | None = None
        path = os.path.join(leaf.path, "cgroup.events")
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise KernelError.of(error, "open") from error
        loop.add(self._fd, loops.PRIORITY, lambda _mask: self._wake())

    def _events(self) -> dict[str, int]:
        """Reading is also what arms the next notification."""
        try:
            return parse_flat(os.pread(self._fd, 4096, 0).decode())
        except OSError:  # ENODEV: the cgroup is gone
            return {}

    def populated(self) -> bool:
        """There are processes in the leaf or below it."""
        return bool(self._events().get("populated"))

    @property
    def busy(self) -> bool:
        """A wish is under way."""
        return self._wanted is not None

    def want(self, frozen: bool, done: Callable[[], None], failed: Callable[[LeafError], None]) -> None:
        """Freeze or thaw, and say when it is so. A wish that is under way is overtaken by the new one."""
        if self._wanted is not None:
            self._settle(DeadlineExceeded("overtaken by another pause or resume"))
        timer = self._loop.call_later(PATIENCE, self._give_up)
        self._wanted = (frozen, done, failed, timer)
        try:
            self._cgroup.write("cgroup.freeze", "1" if frozen else "0")
        except LeafError as error:
            self._settle(error)
            return
        self._wake()

    def _wake(self) -> None:
        events = self._events()
        if self._wanted is not None and bool(events.get("frozen")) == self._wanted[0]:
            self.paused = self._wanted[0]
            self._settle(None)
        self._changed()

    def _settle(self, error: LeafError | None) -> None:
        assert self._wanted is not None
        _, done, failed, timer = self._wanted
        self._wanted = None
        timer.cancel()
        if error is None:
            done()
        else:
            failed(error)

    def _give_up(self) -> None:
        try:
            self._cgroup.write("cgroup.freeze", "1" if self.paused else "0")
        finally:
            self._settle(DeadlineExceeded(f"not every process of {self._cgroup.path} stopped within {PATIENCE:g} s"))

    def close(self) -> None:
        """Stop watching."""
        if self._wanted is not None:
            self._settle(DeadlineExceeded("the container ended first"))
        self._loop.remove(self._fd)
        os.close(self._fd)
