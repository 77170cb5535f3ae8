"""The checkpoint: what the next supervisor, or the next shim, needs to find a container and to judge it.

A pid means something only together with its start time and the boot: pids are used again (proc(5), /proc/PID/stat).
"""

from typing import NamedTuple, cast

from leafshim import record
from leafshim.errors import DamagedRecord

KIND = "checkpoint"


class Checkpoint(NamedTuple):
    """Times in ns since the epoch (0: not yet); start times in clock ticks after boot; `state` a launch state."""

    id: str
    boot_id: str
    shim_pid: int
    shim_start_time: int
    state: str
    pid: int
    pid_start_time: int
    cgroup: str
    created_at: int
    started_at: int
    exit_path: str
    sequence: int
    snapshot: bytes = b""
    """All that the next shim needs beside the descriptors that the nursery keeps (snapshot.py)."""
    shared_cgroup: str = ""
    """As in CreateOptions."""
    version: str = ""
    """Of the shim that wrote it."""

    def write(self, path: str) -> None:
        """Put it at `path`, whole or not at all. Raises KernelError."""
        record.write(path, KIND, self._asdict())

    @classmethod
    def read(cls, path: str) -> "Checkpoint":
        """The checkpoint at `path`. Raises NotFound, DamagedRecord, KernelError."""
        value = record.read(path, KIND)
        for name, kind in cls.__annotations__.items():
            if name in cls._field_defaults:  # which came later
                value.setdefault(name, cls._field_defaults[name])
            if type(value.get(name)) is not kind:
                raise DamagedRecord(path, f"field {name}: {value.get(name)!r} is no {kind.__name__}")
        return cls(**{name: cast("str | int", value[name]) for name in cls._fields})  # type: ignore[arg-type]
