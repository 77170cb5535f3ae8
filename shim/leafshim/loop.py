"""The shim's event loop: one epoll, one heap of deadlines, one thread.

Rules:
1. A descriptor has one callback. Whoever adds a descriptor removes it before closing it.
2. A callback gets the epoll mask. EPOLLHUP and EPOLLERR arrive whether asked for or not (epoll_ctl(2)).
3. With no deadline due the loop blocks for ever: an idle shim does not wake up.
4. An exception in a callback is a defect of ours. It goes to `on_defect` and the loop goes on, because a container must
   not lose its shim to a bug in, say, a debugging call.
5. The last `HISTORY` events are kept for `leafctl debug`.
6. The epoll descriptor is made by the first `add`: a loop can be prepared before a fork and used after it.

The subtle part is a callback that removes another descriptor whose event is already in the batch that epoll returned.
The batch is therefore looked up in the table one by one, at the moment of the call; a descriptor that was removed and
then added again within one batch may see one spurious call, so callbacks read without blocking.
"""

import heapq
import select
import time
from collections import deque
from collections.abc import Callable

HISTORY = 200

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
PRIORITY = select.EPOLLPRI
CLOSED = select.EPOLLHUP | select.EPOLLERR

Callback = Callable[[int], None]


class Timer:
    """A deadline that has not come yet. `when`: seconds, time.monotonic()."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget it. Cancelling twice, or after it fired, is fine."""
        self.callback = None

    def __lt__(self, other: "Timer") -> bool:
        return self.when < other.when


class Loop:
    """One epoll instance; `on_defect` is called with an exception that a callback let out.

    `before_wait()` is called each time that the loop is about to wait; it may call `stop`.
    """

    def __init__(self, on_defect: Callable[[BaseException], None]) -> None:
        self._epoll: select.epoll | None = None
        self._callbacks: dict[int, Callback] = {}
        self._timers: list[Timer] = []
        self._running = False
        self.before_wait: Callable[[], None] = lambda: None
        self._on_defect = on_defect
        self.history: deque[tuple[float, int, int, str]] = deque(maxlen=HISTORY)

    def add(self, fd: int, events: int, callback: Callback) -> None:
        """Call `callback(mask)` whenever one of `events` holds for `fd`."""
        if self._epoll is None:
            self._epoll = select.epoll()
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def modify(self, fd: int, events: int) -> None:
        """Wait for other events on a descriptor that was added; 0 leaves only hang-up and error."""
        assert self._epoll is not None
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forget a descriptor; one that is not there is a defect (KeyError)."""
        del self._callbacks[fd]
        assert self._epoll is not None
        self._epoll.unregister(fd)

    def descriptors(self) -> list[int]:
        """The descriptors being watched."""
        return sorted(self._callbacks)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call `callback()` once, at `when` (seconds, time.monotonic()) or soon after."""
        timer = Timer(when, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call `callback()` once, `delay` seconds from now; 0 means after the events at hand."""
        return self.call_at(time.monotonic() + delay, callback)

    def stop(self) -> None:
        """Let `run` return after the callback at hand."""
        self._running = False

    def run(self) -> None:
        """Serve until `stop`."""
        if self._epoll is None:
            self._epoll = select.epoll()
        self._running = True
        while True:
            self.before_wait()
            if not self._running:
                return
            for fd, mask in self._epoll.poll(self._patience()):
                callback = self._callbacks.get(fd)
                if callback is not None:
                    self._call(fd, mask, callback)
                if not self._running:
                    return
            self._fire()

    def _patience(self) -> float | None:
        """Seconds until the next deadline; None for ever."""
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0].when - time.monotonic())

    def _fire(self) -> None:
        if not self._timers:
            return
        now = time.monotonic()
        while self._timers and self._timers[0].when <= now:
            timer = heapq.heappop(self._timers)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                self._call(-1, 0, lambda _mask, due=callback: due())  # type: ignore[misc]

    def _call(self, fd: int, mask: int, callback: Callback) -> None:
        self.history.append((time.time(), fd, mask, getattr(callback, "__qualname__", "callback")))
        try:
            callback(mask)
        except Exception as error:
            self._on_defect(error)

    def close(self) -> None:
        """Close the epoll descriptor; the watched descriptors stay their owners'."""
        if self._epoll is not None:
            self._epoll.close()
