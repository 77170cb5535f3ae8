"""The watch over a container's limits: what the kernel tells of them, as it happens.

An alarm is an open file that the kernel marks with POLLPRI when it has news: a cgroup's events, a pressure trigger.
The shim's worker waits for it in its loop and the sleeper with poll(2), on the same open file, which goes along with
the snapshot. What the news is worth, the controllers say (cgroup/controller.py), by counters as they were and are.

Rules:
1. A past event is none: the counters are read when the watch begins, and go along with the snapshot.
2. Nothing is missed: each worker looks at all of it when it begins, and so does the end of the container, whatever the
   alarms have said.
3. A workload must not keep us busy. After an alarm its file is left alone, for a second first, then twice as long each
   time, up to a minute, for as long as there was something each time; what happened meanwhile is told then, in one.
4. An alarm that breaks (its controller was disabled, say) is reported and set up again, tried with the same patience.

What the kernel does that surprises: a pressure trigger's news is taken by whoever polls first, also by the epoll_ctl(2)
that adds the file. So it is asked with poll(2) before it is added, and the sleeper says what it has taken. And nobody
is woken up when a file goes with its controller: that is seen by the next poll(2), when worker and sleeper change.
"""

import os
import select
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypedDict

from leafshim import loop as loops
from leafshim.cgroup.controller import Controller
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.isolator import CONTROLLERS
from leafshim.cgroup.limitation import Counters, Limitation, Watch
from leafshim.cgroup.pressure import Pressure, Trigger, arm
from leafshim.errors import KernelError
from leafshim.loop import Loop, Timer

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds


class PackedAlarm(TypedDict):
    """An alarm in a snapshot. `due`: monotonic s until which it is left alone; 0: it is waited for."""

    controller: str
    file: str
    trigger: str
    pause: float
    due: float


class Packed(TypedDict):
    """A watch in a snapshot; `names`: of the alarms whose descriptors go along."""

    names: list[str]
    counters: dict[str, Counters]
    alarms: list[PackedAlarm]


class Alarm:
    """One file that is waited on. `fd` is -1 while it is broken."""

    __slots__ = ("controller", "due", "fd", "listening", "pause", "timer", "watch")

    def __init__(self, controller: str, watch: Watch) -> None:
        self.controller = controller
        self.watch = watch
        self.fd = -1
        self.listening = False
        self.pause = 0.0
        self.due = 0.0
        self.timer: Timer | None = None

    @property
    def name(self) -> str:
        """Its file and trigger, which no other alarm of the container has."""
        return " ".join(filter(None, self.watch))

    def rings(self) -> bool:
        """Whether it has news. Of a trigger that is taken with the question."""
        poll = select.poll()
        poll.register(self.fd, select.POLLPRI)
        return bool(poll.poll(0))


class Watcher:
    """Watches `cgroup`, the container's non-leaf. It owns its descriptors.

    `hit(limitation)` is called for each limit that was hit; False: not now, count on and tell it later. For an alarm
    `broke(message)` is called, and `restored(name)`.
    """

    def __init__(
        self,
        loop: Loop,
        cgroup: Cgroup,
        triggers: Sequence[Trigger],
        hit: Callable[[Limitation], bool],
        broke: Callable[[str], None],
        restored: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._cgroup = cgroup
        self._hit = hit
        self._broke = broke
        self._restored = restored
        self._controllers: dict[str, Controller] = {each.name: each for each in (*CONTROLLERS, Pressure(triggers))}
        self._counters: dict[str, Counters] = {}
        self._alarms: list[Alarm] = []

    def begin(self) -> None:
        """Set everything up for a cgroup that is new. Raises KernelError, also for a trigger without PSI."""
        self._counters = {name: each.baseline(self._cgroup) for name, each in self._controllers.items()}
        try:
            for alarm in self._missing():
                alarm.fd = self._open(alarm)
                self._alarms.append(alarm)
                self._listen(alarm)
        except KernelError:
            self.close()
            raise

    def extend(self) -> None:
        """Watch what is not watched yet: an update may have enabled a controller."""
        for alarm in self._missing():
            self._alarms.append(alarm)
            try:
                alarm.fd = self._open(alarm)
            except KernelError as error:
                self._break(alarm, error)
                self._leave_alone(alarm)
            else:
                self._listen(alarm)

    def _missing(self) -> list[Alarm]:
        known = {alarm.name for alarm in self._alarms}
        wanted = [Alarm(name, watch) for name, each in self._controllers.items() for watch in each.watch(self._cgroup)]
        return [alarm for alarm in wanted if alarm.name not in known]

    def resume(self, packed: Packed, descriptors: dict[str, int], rung: Sequence[int]) -> None:
        """Go on from a snapshot. `rung`: descriptors whose news the sleeper has taken."""
        self._counters = packed["counters"]
        for each in packed["alarms"]:
            alarm = Alarm(each["controller"], Watch(each["file"], each["trigger"]))
            if alarm.name in packed["names"] and alarm.name not in descriptors:
                continue  # its file went with the shim before us: `extend` opens it anew
            alarm.pause, alarm.due = each["pause"], each["due"]
            alarm.fd = descriptors.get(alarm.name, -1)
            self._alarms.append(alarm)
            if alarm.fd in rung and alarm.fd >= 0:
                alarm.timer = self._loop.call_later(0, partial(self._ring, alarm))
            else:
                alarm.timer = self._loop.call_at(alarm.due, partial(self._wake, alarm))
        self._loop.call_later(0, self._catch_up)

    def pack(self) -> Packed:
        """For a snapshot."""
        return {
            "names": list(self.descriptors()),
            "counters": self._counters,
            "alarms": [
                {
                    "controller": alarm.controller,
                    "file": alarm.watch.file,
                    "trigger": alarm.watch.trigger,
                    "pause": alarm.pause,
                    "due": alarm.due,
                }
                for alarm in self._alarms
            ],
        }

    def descriptors(self) -> dict[str, int]:
        """Those that are open, by the names of their alarms."""
        return {alarm.name: alarm.fd for alarm in self._alarms if alarm.fd >= 0}

    def awaited(self, name: str) -> bool:
        """Whether that alarm is waited for now, and not left alone."""
        return any(alarm.name == name and not alarm.due for alarm in self._alarms)

    def watches(self, controller: str) -> bool:
        """Whether that controller has an alarm here."""
        return any(alarm.controller == controller for alarm in self._alarms)

    @property
    def due(self) -> float:
        """When the first of those that are left alone has its turn (monotonic s); 0: none is."""
        return min((alarm.due for alarm in self._alarms if alarm.due), default=0.0)

    def _catch_up(self) -> None:
        self.extend()
        self.look()

    def look(self) -> None:
        """Tell of every limit that was hit and not told yet."""
        for name in self._controllers:
            self._judge(name, None)

    def close(self) -> None:
        """Stop watching."""
        for alarm in self._alarms:
            if alarm.timer is not None:
                alarm.timer.cancel()
            if alarm.fd >= 0:
                self._ignore(alarm)
                os.close(alarm.fd)
        self._alarms = []

    def _judge(self, name: str, fired: Watch | None) -> None:
        """Compare the counters of a controller with those of the last time."""
        controller, before = self._controllers[name], self._counters.get(name, {})
        now = controller.counters(self._cgroup)
        try:
            limitations = list(controller.judge(self._cgroup, before, now, fired))
        except KernelError:  # it went while we read of it: its alarm tells of that
            return
        self._counters[name] = before | now
        if not all(self._hit(limitation) for limitation in limitations):
            self._counters[name] = before

    def _ring(self, alarm: Alarm) -> None:
        """There is news. The read says that we know; it comes first, so that what happens after it rings again."""
        self._leave_alone(alarm)
        try:
            os.pread(alarm.fd, 4096, 0)
        except OSError as error:  # ENODEV: the file is gone, and what is there now by its name is another
            self._break(alarm, KernelError("read", error.errno or 0, f"{self._cgroup.path}/{alarm.watch.file}"))
            return
        self._judge(alarm.controller, alarm.watch)

    def _leave_alone(self, alarm: Alarm) -> None:
        self._ignore(alarm)
        alarm.pause = min(2 * alarm.pause, LONGEST_PAUSE) if alarm.pause else FIRST_PAUSE
        alarm.due = time.monotonic() + alarm.pause
        alarm.timer = self._loop.call_at(alarm.due, partial(self._wake, alarm))

    def _wake(self, alarm: Alarm) -> None:
        """It was left alone for long enough."""
        alarm.timer, alarm.due = None, 0.0
        if alarm.fd < 0:
            self._repair(alarm)
        elif alarm.rings():
            self._ring(alarm)
        else:
            alarm.pause = 0.0
            self._listen(alarm)

    def _listen(self, alarm: Alarm) -> None:
        self._loop.add(alarm.fd, loops.PRIORITY, lambda _mask: self._ring(alarm))
        alarm.listening = True

    def _ignore(self, alarm: Alarm) -> None:
        if alarm.listening:
            self._loop.remove(alarm.fd)
            alarm.listening = False

    def _break(self, alarm: Alarm, error: KernelError) -> None:
        if alarm.fd >= 0:
            os.close(alarm.fd)
            alarm.fd = -1
        if self._cgroup.exists():
            self._broke(str(error))

    def _repair(self, alarm: Alarm) -> None:
        try:
            alarm.fd = self._open(alarm)
        except KernelError:
            self._leave_alone(alarm)
            return
        self._restored(alarm.name)
        self._judge(alarm.controller, None)
        self._wake(alarm)

    def _open(self, alarm: Alarm) -> int:
        return arm(f"{self._cgroup.path}/{alarm.watch.file}", alarm.watch.trigger)
