"""The container's events: numbered, kept until they are acknowledged, told to whoever listens.

Rules:
1. Numbers begin at `first` and grow by one. An event never changes; those of a creation that failed are withdrawn.
2. An event stays until somebody says that it is safe elsewhere. What is not acknowledged is told again to the next
   listener that asks for it: telling twice is harmless, since the number is the same.
3. Whoever does not listen all the time is rung for, and collects (`collect` acknowledges what it got before).
4. A listener that does not read holds nobody up: it is fed while less than `HIGH_WATER` bytes wait on its
   connection, and goes on from its own place in the list when they have drained.
"""

import time
from collections.abc import Callable

from leafshim.api.shim import Event, EventsRequest, Exit, Limitation
from leafshim.ttrpc.server import Call

HIGH_WATER = 256 << 10


class _Listener:
    __slots__ = ("call", "seen")

    def __init__(self, call: Call[EventsRequest, Event], seen: int) -> None:
        self.call = call
        self.seen = seen


class Events:
    """The events of one container; `first` is the number of the first one to come.

    `kept`: those not acknowledged. `persist()` is called with each event before it is told, `ring()` after it when
    nobody listens; neither for one that is `expected`: who caused it persists and collects.
    """

    def __init__(self, first: int = 1) -> None:
        self.last = max(first, 1) - 1
        self.kept: list[Event] = []
        self.persist: Callable[[], None] = lambda: None
        self.ring: Callable[[], None] = lambda: None
        self._listeners: list[_Listener] = []

    def publish(
        self,
        kind: str,
        *,
        exec_id: str = "",
        pid: int = 0,
        end: Exit | None = None,
        limitation: Limitation | None = None,
        message: str = "",
        expected: bool = False,
    ) -> Event:
        """Number an event, keep it, and tell the listeners."""
        self.last += 1
        event = Event(
            sequence=self.last,
            timestamp=time.time_ns(),
            type=kind,
            exec_id=exec_id,
            pid=pid,
            exit=end,
            limitation=limitation,
            message=message,
        )
        self.kept.append(event)
        if not expected:
            self.persist()
        for listener in list(self._listeners):
            self._feed(listener)
        if not self._listeners and not expected:
            self.ring()
        return event

    def withdraw(self, first: int) -> None:
        """Forget the events from number `first` on: they are of a creation that failed, and nobody collected them."""
        self.kept = [event for event in self.kept if event.sequence < first]
        self.last = min(self.last, first - 1)

    def acknowledge(self, sequence: int) -> None:
        """Forget the events up to and including `sequence`."""
        self.kept = [event for event in self.kept if event.sequence > sequence]

    def collect(self, after: int) -> list[Event]:
        """What is kept after `after`; the rest is safe elsewhere, and forgotten."""
        self.acknowledge(after)
        return list(self.kept)

    def listen(self, call: Call[EventsRequest, Event], after: int) -> None:
        """Tell `call` every kept event after `after`, and those to come, until its connection ends."""
        listener = _Listener(call, after)
        self._listeners.append(listener)
        call.on_drain = lambda: self._feed(listener)
        call.on_close = lambda: self._leave(listener)
        self._feed(listener)

    def _feed(self, listener: _Listener) -> None:
        for event in self.kept:
            if listener.call.pending >= HIGH_WATER:
                return
            if event.sequence > listener.seen:
                listener.seen = event.sequence
                listener.call.send(event)

    def _leave(self, listener: _Listener) -> None:
        if listener.call.closed and listener in self._listeners:
            self._listeners.remove(listener)
