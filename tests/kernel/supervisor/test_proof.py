"""A pid is only trusted together with when its process began: what took its number since is not ours."""

import os
import signal
from collections.abc import Callable

from leafd.shims import is_gone, kill_proven
from leafd.unattended import open_proven, signal_member
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.kernel import pidfd

Spawn = Callable[..., tuple[int, int]]


def test_found_wanting_14_a_reused_pid_is_nobodys(spawn: Spawn) -> None:
    """The process of that number began at another time: gone is who we mean, and nobody is signalled."""
    pid, _ = spawn(signal.pause)
    began = pidfd.start_time(pid)
    assert is_gone(pid, began - 1)
    assert open_proven(pid, began - 1) == -1
    kill_proven(pid, began - 1)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    assert not is_gone(pid, began)
    kill_proven(pid, began)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_a_pid_is_signalled_only_in_the_cgroup_that_it_was_found_in(spawn: Spawn, cgroup: Cgroup) -> None:
    web, db = cgroup.child("web"), cgroup.child("db")
    web.create()
    db.create()
    pid, _ = spawn(signal.pause, cgroup=web)
    assert not signal_member(db, pid, signal.SIGKILL)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    assert signal_member(web, pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
