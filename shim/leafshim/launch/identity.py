"""Who the process is and what it may do: its last steps before the program, in the only order that works.

Limits come after everything that opens files or maps memory. The bounding set shrinks while CAP_SETPCAP is there,
groups change while CAP_SETGID is, and the user last; the capabilities that shall remain are kept over that change.
"""

import functools
import os

from leafshim.errors import KernelError
from leafshim.kernel import capabilities, process, procfs
from leafshim.kernel.paths import open_in_root
from leafshim.launch.operation import Operation, Setup
from leafshim.spec import Capabilities, Rlimit, User

_DEFAULT_UMASK = 0o022
NO_CAPABILITIES = Capabilities(0, 0, 0, 0, 0)


class SetOomScore(Operation):
    """oom_score_adj(5), through the host's /proc."""

    __slots__ = ()

    def __init__(self, value: int) -> None:
        super().__init__("set oom_score_adj", str(value))

    def execute(self, setup: Setup) -> None:
        procfs.write("self/oom_score_adj", self.path)


class ChangeDirectory(Operation):
    """The working directory, which is proven to be inside the root and stays so (CVE-2024-21626)."""

    __slots__ = ()

    def __init__(self, path: str) -> None:
        super().__init__("chdir", path)

    def execute(self, setup: Setup) -> None:
        # No magic link is followed, so /proc/self/fd/N of a leaked descriptor leads nowhere.
        os.fchdir(open_in_root(setup.root, self.path, os.O_PATH | os.O_DIRECTORY))
        # Raises ENOENT for a directory that was moved out of the root meanwhile (getcwd(3), "(unreachable)").
        os.getcwd()


class SetLimit(Operation):
    """One resource limit. A hard limit can be raised with CAP_SYS_RESOURCE only."""

    __slots__ = ("_limit",)

    def __init__(self, limit: Rlimit) -> None:
        super().__init__("setrlimit", limit.type)
        self._limit = limit

    def detail(self) -> str:
        return f"{self._limit.soft} {self._limit.hard}"

    def execute(self, setup: Setup) -> None:
        process.set_limit(self._limit.resource, self._limit.soft, self._limit.hard)


class SetUser(Operation):
    """Exactly these ids and groups (CVE-2023-25173), and these five capability sets."""

    __slots__ = ("_capabilities", "_user")

    def __init__(self, user: User, sets: Capabilities | None) -> None:
        super().__init__("set user", f"{user.uid}:{user.gid}")
        self._user = user
        self._capabilities = sets or NO_CAPABILITIES

    def detail(self) -> str:
        groups = ",".join(map(str, self._user.additional_gids)) or "none"
        return f"groups {groups}, capabilities {self._capabilities.permitted:#x} of {self._capabilities.bounding:#x}"

    def execute(self, setup: Setup) -> None:
        user, sets = self._user, self._capabilities
        capabilities.limit_bounding(sets.bounding)
        process.set_keep_capabilities(True)
        process.set_groups(list(user.additional_gids))
        process.set_gid(user.gid)
        process.set_uid(user.uid)
        # The change of user made the process dumpable again where fs.suid_dumpable says so.
        process.set_dumpable(False)
        capabilities.set_capabilities(sets.effective, sets.permitted, sets.inheritable)
        capabilities.set_ambient(sets.ambient)
        os.umask(_DEFAULT_UMASK if user.umask is None else user.umask)

    def failure(self, error: KernelError) -> KernelError:
        return KernelError(error.syscall, error.errno, self.path)


class ForbidNewPrivileges(Operation):
    """No execve from here on gains rights: no set-user-ID, no file capabilities."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("set no_new_privs")

    def execute(self, setup: Setup) -> None:
        process.set_no_new_privileges()


def missing_capabilities(sets: Capabilities) -> list[str]:
    """The names of those that we do not have ourselves and so cannot give."""
    lacking = (sets.bounding | sets.permitted) & ~_own_bounding_set()
    return [name for number, name in enumerate(capabilities.NAMES) if lacking >> number & 1]


@functools.cache
def _own_bounding_set() -> int:
    # It cannot grow, and nothing in a shim shrinks it.
    with open("/proc/self/status", encoding="utf-8", errors="replace") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("CapBnd:"))


def own_oom_score() -> int:
    """The oom_score_adj that a child would inherit."""
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        return int(file.read())
