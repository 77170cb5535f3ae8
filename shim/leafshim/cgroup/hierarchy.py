"""One cgroup as the kernel shows it: a directory of small files (Documentation/admin-guide/cgroup-v2.rst).

Rules:
1. A Cgroup is a path. It holds nothing open and remembers nothing: what it says, the kernel says now.
2. Every failure is a KernelError with the path. A cgroup that is gone is ENOENT, or ENODEV for a file that was open.
3. Only `wait` and `remove_tree` block, and never past the time they are given.

What the kernel does that surprises:
- Freezing is a wish. The write returns at once; `frozen 1` in cgroup.events is the answer, and a process in
  uninterruptible sleep may withhold it. SIGKILL ends frozen processes, so a kill needs no thaw first.
- A change of cgroup.events is POLLPRI, since the last read of that very open file: read first, poll then, lose nothing.
  The kernel tells at most one change in 10 ms (CGROUP_FILE_NOTIFY_MIN_INTV), so what is short-lived is told late.
- `populated` counts the cgroups below too, and no zombies. An unpopulated cgroup without children can be removed, but
  for an instant after its last process ended rmdir still says EBUSY.
- A workload with rights makes cgroups below its own, freezes them, and makes threaded ones, whose processes are listed
  in the threaded domain above them only (reading theirs is EOPNOTSUPP).
"""

import errno
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from functools import cache

from leafshim.cgroup import removal
from leafshim.errors import AlreadyExists, KernelError, Unsupported
from leafshim.kernel import pidfd as pidfds

UNLIMITED = 2**64 - 1
"""For "max" where a number is wanted, as containerd has it."""

KILL = "cgroup.kill"
"""Since Linux 5.14."""

_STANDSTILL = 1.0  # seconds for everything to stop before it is signalled one by one


@cache
def find_mount(mountinfo: str = "/proc/self/mountinfo") -> str:
    """Where the cgroup2 file system is mounted: /sys/fs/cgroup, /sys/fs/cgroup/unified, or elsewhere.

    Looked up once: a process of ours does not outlive the mount. Of several the first that shows the hierarchy from
    its root, as bind mounts of a part do not. Raises Unsupported without any, KernelError.
    """
    found: list[tuple[str, str]] = []
    try:
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                # proc_pid_mountinfo(5): id, parent, device, root, mount point, options, optional fields, "-", type, …
                fields = line.split()
                if fields[fields.index("-", 6) + 1] == "cgroup2":
                    found.append((_unescape(fields[3]), _unescape(fields[4])))
    except OSError as error:
        raise KernelError.of(error, "read") from error
    for root, point in found:
        if root == "/":
            return point
    if found:
        return found[0][1]
    raise Unsupported("no cgroup2 file system is mounted: leafd needs cgroups v2 (systemd.unified_cgroup_hierarchy=1)")


def _unescape(field: str) -> str:
    for character in " \t\n\\":  # the backslash last: it is what the others are escaped with
        field = field.replace(f"\\{ord(character):03o}", character)
    return field


class Cgroup:
    """The cgroup at the absolute `path`, whether it exists or not."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Cgroup({self.path!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cgroup) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    # Directories.

    def create(self) -> None:
        """Make it, and what is missing above it. Raises AlreadyExists, KernelError."""
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            os.mkdir(self.path)
        except FileExistsError as error:
            raise AlreadyExists(f"cgroup {self.path} exists already") from error
        except OSError as error:
            raise KernelError.of(error, "mkdir") from error

    def exists(self) -> bool:
        """Whether it is there now."""
        return os.path.isdir(self.path)

    def open(self) -> int:
        """A descriptor of the directory, close-on-exec, for clone3. Raises KernelError."""
        try:
            return os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise KernelError.of(error, "open") from error

    def child(self, name: str) -> "Cgroup":
        """The cgroup of that name directly below."""
        return Cgroup(f"{self.path}/{name}")

    def children(self) -> list["Cgroup"]:
        """Those directly below, by name. Raises KernelError."""
        try:
            with os.scandir(self.path) as entries:
                return [self.child(name) for name in sorted(entry.name for entry in entries if entry.is_dir())]
        except OSError as error:
            raise KernelError.of(error, "read") from error

    def descendants(self) -> Iterator["Cgroup"]:
        """All below it, the deepest first; one that goes meanwhile is left out. Raises KernelError."""
        try:
            children = self.children()
        except KernelError as error:
            if error.errno not in removal.GONE:
                raise
            return
        for child in children:
            yield from child.descendants()
            yield child

    # Files.

    def read(self, name: str) -> str:
        """An interface file, whole. Raises KernelError."""
        try:
            with open(f"{self.path}/{name}", "rb", buffering=0) as file:
                return file.read().decode()
        except OSError as error:
            raise KernelError("read", error.errno or 0, f"{self.path}/{name}") from error

    def has(self, name: str) -> bool:
        """Whether it has this interface file: its controller is enabled, and the kernel knows the file."""
        return os.path.exists(f"{self.path}/{name}")

    def read_flat(self, name: str) -> dict[str, int]:
        """A flat keyed interface file: one key and one number a line. Raises KernelError."""
        return parse_flat(self.read(name))

    def read_number(self, name: str) -> int:
        """An interface file of one number; UNLIMITED for "max". Raises KernelError."""
        value = self.read(name).strip()
        return UNLIMITED if value == "max" else int(value)

    def write(self, name: str, value: str) -> None:
        """Write an interface file, in one call: the kernel takes each as a command of its own. Raises KernelError."""
        try:
            fd = os.open(f"{self.path}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise KernelError("write", error.errno or 0, f"{self.path}/{name}") from error

    # Controllers.

    def controllers(self) -> frozenset[str]:
        """Those its parent has enabled for it: they may be enabled below it. Raises KernelError."""
        return frozenset(self.read("cgroup.controllers").split())

    def enabled(self) -> frozenset[str]:
        """Those enabled for its children. Raises KernelError."""
        return frozenset(self.read("cgroup.subtree_control").split())

    def enable(self, names: Iterable[str]) -> None:
        """Enable these for its children, all or none; nothing is written where they are already.

        Raises Unsupported, which names those it does not have; KernelError: EBUSY where it holds processes.
        """
        wanted = sorted(frozenset(names) - self.enabled())
        missing = sorted(frozenset(wanted) - self.controllers())
        if missing:
            raise Unsupported(f"no cgroup2 controller {', '.join(missing)} in {self.path}")
        if wanted:
            self.write("cgroup.subtree_control", " ".join(f"+{name}" for name in wanted))

    # Processes.

    def processes(self) -> list[int]:
        """The pids in this very cgroup; none for a threaded one. Those that our pid namespace lacks are left out.

        Raises KernelError.
        """
        try:
            return [int(pid) for pid in self.read("cgroup.procs").split() if pid != "0"]
        except KernelError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return []

    def threads(self) -> list[int]:
        """The thread ids in this very cgroup. Raises KernelError."""
        return [int(tid) for tid in self.read("cgroup.threads").split() if tid != "0"]

    def holders(self) -> list[removal.Holder]:
        """The processes in it and below it, for a person to read; what goes meanwhile is left out."""
        found: list[removal.Holder] = []
        for cgroup in (*self.descendants(), self):
            try:
                pids = cgroup.processes()
            except KernelError:
                continue
            found.extend(holder for pid in pids if (holder := removal.look_at(pid)) is not None)
        return found

    # State.

    def events(self) -> dict[str, int]:
        """cgroup.events: `populated` and `frozen`. Raises KernelError; ENOENT also for the root, which has none."""
        return self.read_flat("cgroup.events")

    def populated(self) -> bool:
        """Whether a live process is in it or below it. Raises KernelError."""
        return self.events()["populated"] == 1

    def frozen(self) -> bool:
        """Whether everything in it and below it has stopped. Raises KernelError."""
        return self.events()["frozen"] == 1

    def freeze(self) -> None:
        """Ask that everything in it and below it stop; see `wait`. Raises KernelError."""
        self.write("cgroup.freeze", "1")

    def thaw(self) -> None:
        """Take `freeze` back; what is frozen above or below it in its own right stays so. Raises KernelError."""
        self.write("cgroup.freeze", "0")

    def wait(self, event: str, value: int, timeout_s: float) -> bool:
        """Wait until cgroup.events says so; False when it did not within `timeout_s`. Raises KernelError."""
        deadline = time.monotonic() + timeout_s
        path = f"{self.path}/cgroup.events"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                poll = select.poll()
                poll.register(fd, select.POLLPRI)
                while parse_flat(os.pread(fd, 4096, 0).decode())[event] != value:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return False
                    poll.poll(left * 1000)
                return True
            finally:
                os.close(fd)
        except OSError as error:
            raise KernelError("wait", error.errno or 0, path) from error

    def kill(self) -> None:
        """SIGKILL everything in it and below it, forks under way too; `wait` says when they are gone.

        Before Linux 5.14 there is no cgroup.kill: frozen, so that none forks, they are signalled one by one, and the
        cgroup is thawed. Raises KernelError.
        """
        try:
            self.write(KILL, "1")
        except KernelError as error:
            if error.errno != errno.ENOENT or not self.exists():
                raise
            self._kill_each()

    def _kill_each(self) -> None:
        self.freeze()
        try:
            self.wait("frozen", 1, _STANDSTILL)
            for cgroup in (*self.descendants(), self):
                for pid in cgroup.processes():
                    cgroup._kill_one(pid)
        finally:
            self.thaw()

    def _kill_one(self, pid: int) -> None:
        """The pid may be another's by now: the pidfd comes first, and then it must still be one of ours."""
        try:
            pidfd = pidfds.pidfd_open(pid)
            try:
                if pid in self.processes():
                    pidfds.send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)
        except KernelError as error:
            if error.errno not in (errno.ESRCH, *removal.GONE):
                raise

    # The end.

    def remove(self) -> None:
        """Remove this one, which has no live processes and no children (EBUSY). Raises KernelError."""
        try:
            os.rmdir(self.path)
        except OSError as error:
            raise KernelError.of(error, "rmdir") from error

    def remove_tree(self, deadline_s: float) -> None:
        """Kill what is in it and below it, wait until it is dead, and remove all; fine when it is not there.

        Tries for `deadline_s` seconds, at least once. Raises Busy, which names those that did not die, with everything
        thawed; KernelError. The steps are removal.py's.
        """
        for wait in removal.steps(self, deadline_s):
            if not wait.emptied:
                time.sleep(wait.seconds)
                continue
            try:
                self.wait("populated", 0, wait.seconds)
            except KernelError as error:
                if error.errno not in removal.GONE:
                    raise


def parse_flat(content: str) -> dict[str, int]:
    """A flat keyed file: one key and one number a line (cgroup-v2.rst, Format)."""
    return {key: int(value) for key, value in (line.split() for line in content.splitlines())}
