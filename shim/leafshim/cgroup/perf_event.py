"""The perf_event controller: what a container's processes do to the processor (perf_event_open(2), cgroup-v2.rst).

The controller has no files and is on by itself wherever cgroups v2 holds it; yet not in a kernel in whose root cgroup
nobody has ever enabled any controller (its masks are computed at the first write).

A counter is a descriptor, one for each event and CPU, and counts only while it is open: the figures begin with `start`
and end with its owner. That is why this is no Controller, which would keep nothing.

Where there is no PMU (most virtual machines) the kernel has its software events alone.
"""

import errno
import os
import struct

from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import InputError, KernelError, Unsupported
from leafshim.kernel import syscalls

_HARDWARE, _SOFTWARE = 0, 1  # enum perf_type_id
_EVENTS = {
    "cycles": (_HARDWARE, 0),
    "instructions": (_HARDWARE, 1),
    "cache-references": (_HARDWARE, 2),
    "cache-misses": (_HARDWARE, 3),
    "branches": (_HARDWARE, 4),
    "branch-misses": (_HARDWARE, 5),
    "cpu-clock": (_SOFTWARE, 0),
    "task-clock": (_SOFTWARE, 1),
    "page-faults": (_SOFTWARE, 2),
    "context-switches": (_SOFTWARE, 3),
    "cpu-migrations": (_SOFTWARE, 4),
    "minor-faults": (_SOFTWARE, 5),
    "major-faults": (_SOFTWARE, 6),
}
EVENTS = tuple(_EVENTS)
"""All that can be counted, by perf-list(1)'s names. The two clocks are in nanoseconds."""

_FLAG_PID_CGROUP, _FLAG_FD_CLOEXEC = 1 << 2, 1 << 3
_FORMAT_TIMES = 1 << 0 | 1 << 1  # PERF_FORMAT_TOTAL_TIME_ENABLED, _RUNNING
_ATTRIBUTES = struct.Struct("=IIQQQQQIIQ")  # struct perf_event_attr up to its first published size
_READING = struct.Struct("=QQQ")
_NO_SUCH_EVENT = (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP)


def supported() -> tuple[str, ...]:
    """The events that this kernel counts. Raises KernelError: EACCES without the right to."""
    found = []
    for event in EVENTS:
        try:
            _require(event)
        except Unsupported:
            continue
        found.append(event)
    return tuple(found)


def _require(event: str) -> None:
    """Try it on ourselves."""
    try:
        os.close(_open(event, 0, -1, 0, "for ourselves"))
    except KernelError as error:
        if error.errno not in _NO_SUCH_EVENT:
            raise
        raise Unsupported(f"perf event {event}: this kernel, or its processor, does not count it") from error


class Counters:
    """Open counters of one cgroup and all below it: `read`, and `close` in the end. Made by `start`."""

    __slots__ = ("_descriptors",)

    def __init__(self, descriptors: dict[str, list[int]]) -> None:
        self._descriptors = descriptors

    def read(self) -> dict[str, int]:
        """event → what was counted since the start, on all CPUs together.

        With more events than the PMU has counters, the kernel counts each for part of the time; the figure is then
        what it would be for all of it. Raises KernelError.
        """
        return {event: sum(map(_count, fds)) for event, fds in self._descriptors.items()}

    def close(self) -> None:
        """Stop counting."""
        for fds in self._descriptors.values():
            while fds:
                os.close(fds.pop())


def check(events: tuple[str, ...]) -> None:
    """Raises InputError for an unknown event, Unsupported, which names it, for one that this kernel does not count."""
    for event in events:
        if event not in _EVENTS:
            raise InputError(f"perf event {event}: must be one of {', '.join(EVENTS)}")
        _require(event)


def start(cgroup: Cgroup, events: tuple[str, ...]) -> Counters:
    """Count these events (of `EVENTS`) in the cgroup from now on.

    Raises InputError for an unknown event, Unsupported, which names it, for one that this kernel does not count,
    KernelError: EBADF where a cgroup v1 hierarchy holds perf_event.
    """
    check(events)
    counters: dict[str, list[int]] = {event: [] for event in events}
    try:
        # Not O_PATH: perf_event_open takes no such descriptor, other than bpf and clone3.
        directory = os.open(cgroup.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError.of(error, "open") from error
    try:
        for event, fds in counters.items():
            fds.extend(_open(event, directory, cpu, _FLAG_PID_CGROUP, cgroup.path) for cpu in _online())
    except BaseException as error:
        Counters(counters).close()
        if isinstance(error, KernelError) and error.errno == errno.ENOENT:
            raise Unsupported(f"{cgroup.path}: perf_event is off, for no controller is enabled above it") from error
        raise
    finally:
        os.close(directory)
    return Counters(counters)


def _open(event: str, target: int, cpu: int, flags: int, path: str) -> int:
    kind, number = _EVENTS[event]
    attributes = _ATTRIBUTES.pack(kind, _ATTRIBUTES.size, number, 0, 0, _FORMAT_TIMES, 0, 0, 0, 0)
    return syscalls.perf_event_open(attributes, target, cpu, -1, flags | _FLAG_FD_CLOEXEC, path=path)


def _count(fd: int) -> int:
    try:
        reading: tuple[int, int, int] = _READING.unpack(os.read(fd, _READING.size))
    except OSError as error:
        raise KernelError("read", error.errno or 0, "perf event") from error
    count, enabled, running = reading
    return count * enabled // running if 0 < running < enabled else count


def _online() -> list[int]:
    """The CPUs that are on (sysfs-devices-system-cpu): a list of numbers and ranges."""
    try:
        with open("/sys/devices/system/cpu/online", encoding="ascii") as file:
            ranges = [part.split("-") for part in file.read().strip().split(",")]
    except OSError as error:
        raise KernelError.of(error, "read") from error
    return [cpu for ends in ranges for cpu in range(int(ends[0]), int(ends[-1]) + 1)]
