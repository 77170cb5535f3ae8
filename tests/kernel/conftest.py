"""Real cgroups and real processes, gone after the test."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator

import pytest

from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.kernel.clone import clone3

Body = Callable[[], object]
Spawn = Callable[..., tuple[int, int]]


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    """A new cgroup, removed with all below it."""
    made = Cgroup(f"{find_mount()}/leafd-test-{os.getpid()}-{os.urandom(4).hex()}")
    made.create()
    yield made
    made.remove_tree(10)


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """spawn(body, flags=0, cgroup=None, force_fallback=False) -> (pid, pidfd): a child that runs `body` and exits, with
    status 99 if it raises. It is killed and reaped at the end.
    """
    children: list[tuple[int, int]] = []

    def start(
        body: Body, flags: int = 0, cgroup: Cgroup | None = None, force_fallback: bool = False
    ) -> tuple[int, int]:
        directory = cgroup.open() if cgroup else None
        try:
            pid, pidfd = clone3(flags, cgroup=directory, force_fallback=force_fallback)
        finally:
            if directory is not None:
                os.close(directory)
        if pid == 0:
            try:
                body()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(99)
        children.append((pid, pidfd))
        return pid, pidfd

    yield start
    for pid, pidfd in children:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass
        os.close(pidfd)
