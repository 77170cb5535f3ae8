"""The supervisor's records: one for each container, in its directory, and the table of them all in memory.

Rules:
1. A record says what was asked for and how far it got (`state`, which is entered before its effect). What the shim or
   the kernel knows better is not trusted from here, only looked for by it.
2. It is written whole and renamed (`leafshim.record`), never synced: it lives in ROOT, which dies with the boot.
3. A torn or foreign record is moved aside and said so. It does not make an orphan of its container.
4. Nothing in ROOT is deleted in place: a directory is renamed into ROOT/trash first, so that a container is there
   whole or not at all, and a killed supervisor leaves no half of one.
"""

import os
import shutil
from dataclasses import dataclass, field, fields

from leafd.restarts import NO
from leafshim import record, state
from leafshim.bundle import Bundle, directory_name, id_of
from leafshim.cgroup.layout import check_id
from leafshim.checkpoint import Checkpoint
from leafshim.crashes import crash
from leafshim.errors import DamagedRecord, InputError, KernelError, LeafError

KIND = "container"


@dataclass(slots=True)
class Record:
    """What the supervisor has to remember of one container. Times: ns since the epoch, 0 = not yet."""

    id: str
    boot_id: str
    """The boot in which it was launched: of another boot no pid is trusted."""
    cgroup: str
    """Absolute path of the non-leaf."""
    state: str = state.PROVISIONING
    created_at: int = 0
    args: list[str] = field(default_factory=list)
    terminal: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    restart: str = NO
    remove: bool = False
    """Remove it when it has ended for good."""
    start: bool = False
    """Its launch goes on to RUNNING; otherwise it waits for Start in ISOLATING."""
    stdin: bool = False
    timeout: int = 0
    """ns after Start; 0: none."""
    policy: bytes = b""
    """What to do when a limit is hit, as the message leafd.shim.v1.Policy; empty: the defaults."""
    overlay_size: int = 0
    """Bytes for changes to the host's files; 0: not on the host's files."""
    stop_signal: int = 15
    shim_pid: int = 0
    shim_start_time: int = 0
    """Clock ticks after boot: with the pid and the boot id the proof that a process is that shim."""
    pid: int = 0
    started_at: int = 0
    restarts: int = 0
    row: int = 0
    """Restarts in a row, which set the delay of the next."""
    stopping: bool = False
    """Somebody asked for its end: the policy is over, and a recovery goes on with the ending."""
    sequence: int = 0
    """Number of the last event of its shims."""
    exit: record.Value = None
    container_class: str = ""
    """As in CreateRequest."""
    shared_cgroup: str = ""
    """Absolute path of the cgroup of an outer container whose limits and figures are its own; empty: it has its own."""
    parent_start_time: int = 0
    """Clock ticks after boot: when the process began whose namespaces its description names. 0: it names none."""


class Store:
    """The directories below ROOT/containers."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.containers = os.path.join(root, "containers")
        self._trash = os.path.join(root, "trash")
        self._discarded = 0

    def prepare(self) -> None:
        """Make the directories, private to us, and empty the trash of an earlier supervisor. Raises KernelError."""
        for path in (self.containers, self._trash):
            private_directory(path)
        self._empty_trash()

    def bundle(self, container_id: str) -> Bundle:
        """The paths of a container, there or not."""
        return Bundle.of(self.root, container_id)

    def write(self, entry: Record) -> None:
        """Checkpoint. Raises KernelError; the old record then stands."""
        record.write(self.bundle(entry.id).record, KIND, {name: getattr(entry, name) for name in Record.__slots__})

    def ids(self) -> list[str]:
        """The ids that have a directory. What does not look like a container's directory is left alone."""
        found = []
        for name in os.listdir(self.containers):
            try:
                found.append(check_id(id_of(name)))
            except InputError:
                continue
        return sorted(found)

    def read(self, container_id: str) -> Record:
        """The record of one container. Raises NotFound, DamagedRecord (and has then moved it aside), KernelError."""
        path = self.bundle(container_id).record
        try:
            return _parse(path, container_id, record.read(path, KIND))
        except DamagedRecord:
            record.quarantine(path)
            raise

    def shim_version(self, container_id: str) -> str:
        """The version of the shim that is in charge, as its checkpoint says; empty where nothing does."""
        try:
            return Checkpoint.read(self.bundle(container_id).checkpoint).version
        except LeafError:
            return ""

    def discard(self, container_id: str) -> None:
        """Delete the directory of a container; one that is gone already is as good. Raises KernelError."""
        self._discarded += 1
        aside = os.path.join(self._trash, f"{os.getpid()}-{self._discarded}-{directory_name(container_id)}")
        try:
            os.rename(self.bundle(container_id).path, aside)
        except FileNotFoundError:
            return
        except OSError as error:
            raise KernelError.of(error, "remove directory") from error
        crash("remove-renamed")
        shutil.rmtree(aside, ignore_errors=True)

    def _empty_trash(self) -> None:
        for name in os.listdir(self._trash):
            shutil.rmtree(os.path.join(self._trash, name), ignore_errors=True)


def private_directory(path: str) -> None:
    """Have the directory `path`, ours and closed to everybody else: made so, or repaired. Raises KernelError."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.stat(path)
        if status.st_uid != os.geteuid():
            os.chown(path, os.geteuid(), os.getegid())
        if status.st_mode & 0o077:
            os.chmod(path, 0o700)
    except OSError as error:
        raise KernelError.of(error, "make directory") from error


_KINDS = {each.name: each.type for each in fields(Record)}


def _parse(path: str, container_id: str, value: dict[str, record.Value]) -> Record:
    """The record in `value`, every field proven to be of its type. Raises DamagedRecord."""
    unknown = value.keys() - _KINDS.keys()
    missing = {"id", "boot_id", "cgroup"} - value.keys()
    if unknown or missing:
        raise DamagedRecord(path, f"fields {', '.join(sorted(unknown | missing))} unknown or missing")
    for name, content in value.items():
        wanted = getattr(_KINDS[name], "__origin__", _KINDS[name])
        if isinstance(wanted, type) and type(content) is not wanted:
            raise DamagedRecord(path, f"{name}: must be of type {wanted.__name__}")
    entry = Record(**value)  # type: ignore[arg-type]  # proven above
    if entry.id != container_id:
        raise DamagedRecord(path, f"the record of {entry.id!r} in the directory of {container_id!r}")
    if entry.state not in state.TRANSITIONS:
        raise DamagedRecord(path, f"state {entry.state!r}")
    return entry
