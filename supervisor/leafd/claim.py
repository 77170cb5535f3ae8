"""What one supervisor has for itself: its directories and its cgroup, against every other one.

Rules:
1. ROOT, STATE and the cgroups root are each locked (flock(2)) while leafd runs, the cgroup by its directory. The lock
   ends with the process, however it ends.
2. The cgroups root is marked with ROOT, in an extended attribute, as long as it exists: all that lies below it is
   proven to be of this installation. A supervisor of another ROOT, also while this one is down, is refused: it would
   take our containers for orphans.
3. Directories are 0700 and ours; where they are not, they are made so.
"""

import fcntl
import os

from leafd.config import Config
from leafd.store import private_directory
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.cgroup.layout import MARK, Layout
from leafshim.errors import KernelError, StateError


class Claim:
    """Holds the locks. `layout` is that of the claimed cgroup."""

    def __init__(self, config: Config) -> None:
        """Claim all or raise: StateError names what is taken and by whom, KernelError."""
        self._locks: list[int] = []
        for path in (config.root, config.state, os.path.join(config.state, "exits")):
            private_directory(path)
        for path in (config.root, config.state):
            self._lock_directory(path)
        self.layout = Layout(find_mount(), config.cgroups_root, config.separator)
        self._claim_cgroup(config.root)

    def _lock_directory(self, path: str) -> None:
        lock = os.path.join(path, "lock")
        try:
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise KernelError.of(error, "open") from error
        self._locks.append(fd)
        if not _lock(fd):
            raise StateError(f"{path}: another leafd is there, pid {os.pread(fd, 32, 0).decode().strip()}")
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:  # a full disk: the lock is what counts, the pid is for the message of whoever is refused
            return

    def _claim_cgroup(self, root: str) -> None:
        layout = self.layout
        try:
            made = _make(layout.root)
            fd = os.open(layout.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._locks.append(fd)
            if not _lock(fd):
                raise StateError(f"{layout.root}: another leafd has this cgroup; choose another --cgroups-root")
            owner = _mark(fd)
            if owner not in ("", root) and (Cgroup(layout.root).populated() or any(True for _ in layout.containers())):
                raise StateError(
                    f"{layout.root}: has containers of the leafd at {owner}; choose another --cgroups-root"
                )
            os.setxattr(fd, MARK, os.fsencode(root))
            for path in made:  # so that memory protection is kept up there, too
                os.setxattr(path, MARK, os.fsencode(root))
            for path in (layout.agent_leaf, layout.shims):
                os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise KernelError("claim cgroup", error.errno or 0, layout.root) from error


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make(path: str) -> list[str]:
    """Make a directory and what is missing above it; those that were made."""
    made: list[str] = []
    while not os.path.isdir(path):
        made.append(path)
        path = os.path.dirname(path)
    for each in reversed(made):
        os.makedirs(each, exist_ok=True)
    return made


def _mark(fd: int) -> str:
    try:
        return os.fsdecode(os.getxattr(fd, MARK))
    except OSError:
        return ""
