"""Who the process is and what it may do: its last steps before the program, in the only order that works.

Limits come after everything that opens files or maps memory. The bounding set shrinks while CAP_SETPCAP is there,
groups change while CAP_SETGID is, and the user last; the capabilities that shall remain are kept over that change.
"""

import functools
import os
from collections.abc import Iterator

from leafshim.errors import KernelError
from leafshim.kernel import capabilities, process, procfs, syscalls
from leafshim.launch.operation import Operation, Setup
from leafshim.launch.rootfs import opening
from leafshim.launch.steps import Step, python, run, step
from leafshim.spec import Capabilities, Rlimit, User

_DEFAULT_UMASK = 0o022
_DROP = "drop capability"
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

    def steps(self, setup: Setup) -> Iterator[Step]:
        # No magic link is followed, so /proc/self/fd/N of a leaked descriptor leads nowhere.
        yield opening(setup, self.path, os.O_PATH | os.O_DIRECTORY)
        yield step(syscalls.fchdir, setup.target)
        yield python(_prove_reachable)


class SetLimit(Operation):
    """One resource limit. A hard limit can be raised with CAP_SYS_RESOURCE only."""

    __slots__ = ("_limit",)

    def __init__(self, limit: Rlimit) -> None:
        super().__init__("setrlimit", limit.type)
        self._limit = limit

    def detail(self) -> str:
        return f"{self._limit.soft} {self._limit.hard}"

    def steps(self, setup: Setup) -> Iterator[Step]:
        limit = self._limit
        yield step(syscalls.setrlimit, limit.resource, process.limit(limit.soft, limit.hard))


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

    def steps(self, setup: Setup) -> Iterator[Step]:
        yield from (
            step(syscalls.prctl, *arguments, name=_DROP)
            for arguments in capabilities.limiting_bounding(self._capabilities.bounding)
        )
        yield from self._change()

    def _change(self) -> Iterator[Step]:
        user, sets = self._user, self._capabilities
        yield step(syscalls.prctl, *process.KEEP_CAPABILITIES)
        yield step(syscalls.setgroups, len(user.additional_gids), process.groups(user.additional_gids))
        yield step(syscalls.setresgid, user.gid, user.gid, user.gid)
        yield step(syscalls.setresuid, user.uid, user.uid, user.uid)
        # The change of user made the process dumpable again where fs.suid_dumpable says so.
        yield step(syscalls.prctl, *process.NOT_DUMPABLE)
        yield step(syscalls.capset, *capabilities.structures(sets.effective, sets.permitted, sets.inheritable))
        for arguments in capabilities.setting_ambient(sets.ambient):
            yield step(syscalls.prctl, *arguments)
        yield step(syscalls.umask, _DEFAULT_UMASK if user.umask is None else user.umask)

    def otherwise(self, setup: Setup, call: str, number: int) -> None:
        if call != _DROP:
            raise KernelError(call, number)
        capabilities.limit_bounding(self._capabilities.bounding)
        run(self._change())

    def failure(self, error: KernelError) -> KernelError:
        return KernelError(error.syscall, error.errno, self.path)


class ForbidNewPrivileges(Operation):
    """No execve from here on gains rights: no set-user-ID, no file capabilities."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("set no_new_privs")

    def steps(self, setup: Setup) -> Iterator[Step]:
        yield step(syscalls.prctl, *process.NO_NEW_PRIVILEGES)


def _prove_reachable() -> int:
    # Raises ENOENT for a directory that was moved out of the root meanwhile (getcwd(3), "(unreachable)").
    os.getcwd()
    return 0


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
