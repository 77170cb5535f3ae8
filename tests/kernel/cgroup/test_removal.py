"""Cgroups that go, whatever is in them; and what does not go, by name."""

import ctypes
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from leafshim.cgroup import removal
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.removal import Busy
from leafshim.errors import KernelError
from tests.harness.stuck import Stuck

Spawn = Callable[..., tuple[int, int]]

PTRACE_CONT, PTRACE_SEIZE, PTRACE_O_TRACEEXIT = 7, 0x4206, 0x40

old_and_new = pytest.mark.usefixtures("old_and_new_kernels")


@old_and_new
def test_remove_tree_of_the_frozen_nested_and_populated(spawn: Spawn, cgroup: Cgroup) -> None:
    web = cgroup.child("web")
    for path in ("leaf", "leaf/app/worker", "mesos/db/leaf", "mesos/db/mesos/cache/leaf"):
        web.child(path).create()
        spawn(signal.pause, cgroup=web.child(path))
    web.child("leaf/app").freeze()
    web.child("mesos/db").freeze()
    web.freeze()
    assert web.wait("frozen", 1, 10)
    web.remove_tree(10)
    assert not web.exists()
    web.remove_tree(0)


@old_and_new
def test_remove_tree_of_a_workload_that_keeps_making_cgroups(spawn: Spawn, cgroup: Cgroup) -> None:
    leaf = cgroup.child("leaf")
    leaf.create()
    reader, writer = os.pipe()

    def make_cgroups() -> None:
        number = 0
        while True:
            own = leaf.child(f"own-{number}")
            own.create()
            if os.fork() == 0:
                own.write("cgroup.procs", "0")
                own.freeze()
                signal.pause()
            number += 1
            if number == 20:
                os.write(writer, b"x")

    spawn(make_cgroups, cgroup=leaf)
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    leaf.remove_tree(20)
    assert not leaf.exists()


@old_and_new
def test_remove_tree_of_a_workload_with_threaded_cgroups(spawn: Spawn, cgroup: Cgroup) -> None:
    leaf, threaded = cgroup.child("leaf"), cgroup.child("leaf").child("threaded")
    threaded.create()
    threaded.write("cgroup.type", "threaded")
    pid, _ = spawn(signal.pause, cgroup=leaf)
    threaded.write("cgroup.threads", str(pid))
    assert threaded.processes() == []
    assert threaded.threads() == [pid]
    assert leaf.processes() == [pid]
    assert [holder.pid for holder in leaf.holders()] == [pid]
    leaf.remove_tree(10)
    assert not leaf.exists()


def test_what_cannot_be_killed_is_named(spawn: Spawn, cgroup: Cgroup) -> None:
    """A tracer may hold a process at its very exit: SIGKILL has been taken, and it does not go."""
    web, leaf = cgroup.child("web"), cgroup.child("web").child("leaf")
    leaf.create()
    pid, _ = spawn(signal.pause, cgroup=leaf)
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    ptrace.restype = ctypes.c_long
    assert ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACEEXIT) == 0
    with pytest.raises(Busy) as raised:
        web.remove_tree(0.2)
    [holder] = raised.value.holders
    assert (holder.pid, holder.state) == (pid, "t")
    assert raised.value.errno == errno.EBUSY
    assert str(raised.value).startswith(f"rmdir {web.path}: Device or resource busy, held by {pid} (")
    assert str(raised.value).endswith(f") t in {holder.wchan}")
    assert not web.child("leaf").frozen()
    os.waitpid(pid, 0)
    assert ptrace(PTRACE_CONT, pid, 0, 0) == 0
    web.remove_tree(10)
    assert not web.exists()


def test_holders_have_a_name_and_a_state(spawn: Spawn, cgroup: Cgroup) -> None:
    reader, writer = os.pipe()

    def rename() -> None:
        with open("/proc/self/comm", "w") as file:
            file.write("a) (b")
        os.write(writer, b"x")
        signal.pause()

    pid, _ = spawn(rename, cgroup=cgroup)
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    cgroup.freeze()
    assert cgroup.wait("frozen", 1, 10)
    [holder] = cgroup.holders()
    assert (holder.pid, holder.name, holder.state) == (pid, "a) (b", "S")


def test_long_list_of_holders_is_cut(spawn: Spawn, cgroup: Cgroup) -> None:
    for _ in range(12):
        spawn(signal.pause, cgroup=cgroup)
    assert str(Busy(cgroup.path, cgroup.holders())).endswith(" and 2 more")


@old_and_new
def test_a_frozen_ancestor_saves_nobody(spawn: Spawn, cgroup: Cgroup) -> None:
    """A nested container of a paused one is destroyed; who is above it stays paused."""
    web, nested = cgroup.child("web"), cgroup.child("web").child("mesos").child("db")
    for each in (web.child("leaf"), nested.child("leaf"), nested.child("leaf").child("own")):
        each.create()
        spawn(signal.pause, cgroup=each)
    web.freeze()
    assert web.wait("frozen", 1, 10)
    nested.remove_tree(10)
    assert not nested.exists()
    assert web.populated()
    assert web.read("cgroup.freeze") == "1\n"


def test_two_removals_at_once_are_as_good_as_one(spawn: Spawn, cgroup: Cgroup) -> None:
    """What one of them has done, the other finds done."""
    web = cgroup.child("web")
    for number in range(20):
        each = web.child(f"leaf/{number}")
        each.create()
        spawn(signal.pause, cgroup=each)
    other, _ = spawn(lambda: web.remove_tree(20))
    web.remove_tree(20)
    assert not web.exists()
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0


def test_steps_wait_for_the_event_and_pause_for_nothing_else(spawn: Spawn, cgroup: Cgroup) -> None:
    """Nothing is looked at again and again while a process dies: there is one wait, for `populated 0`."""
    web = cgroup.child("web")
    web.create()
    spawn(signal.pause, cgroup=web)
    steps = removal.steps(web, 20)
    wait = next(steps)
    assert wait.emptied
    assert web.wait("populated", 0, 10)
    assert not any(each.emptied for each in steps)
    assert not web.exists()


def test_rmdir_is_tried_again_with_pauses_that_grow(cgroup: Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    web = cgroup.child("web")
    web.create()

    def busy(_: Cgroup) -> None:
        raise KernelError("rmdir", errno.EBUSY, web.path)

    with monkeypatch.context() as kernel:
        kernel.setattr(Cgroup, "remove", busy)
        steps = removal.steps(web, 60)
        pauses = [next(steps) for _ in range(10)]
    assert [wait.seconds for wait in pauses][:4] == [0.001, 0.002, 0.004, 0.008]
    assert max(wait.seconds for wait in pauses) == 0.1
    assert list(steps) == []
    assert not web.exists()


def test_uninterruptible_sleep_is_named_and_survived(spawn: Spawn, cgroup: Cgroup, tmp_path: Path) -> None:
    """A process in D does not die, is named with where it waits, and is gone when its wait is over."""
    web, leaf = cgroup.child("web"), cgroup.child("web").child("leaf")
    leaf.create()
    ready, told = os.pipe()
    with Stuck() as stuck:

        def body() -> None:
            stuck.mount(str(tmp_path))
            os.write(told, b"x")
            os.stat(tmp_path / "x")

        pid, _ = spawn(body, cgroup=leaf)
        assert os.read(ready, 1) == b"x"
        stuck.serve()
        stuck.wait_for_caller()
        leaf.freeze()  # what is frozen by its own wish and stays behind is thawed
        with pytest.raises(Busy) as raised:
            web.remove_tree(0.2)
        [holder] = raised.value.holders
        assert (holder.pid, holder.state, holder.wchan) == (pid, "D", "request_wait_answer")
        assert str(raised.value).endswith(f" D in {holder.wchan}")
        assert leaf.read("cgroup.freeze") == "0\n"
        with pytest.raises(Busy):
            web.remove_tree(0)
        stuck.release()
        web.remove_tree(10)
    assert not web.exists()


def test_dying_cgroups_do_not_pile_up(spawn: Spawn, cgroup: Cgroup) -> None:
    """The kernel lets go of a removed cgroup when nothing refers to it any more; nothing of ours does for long."""
    for cycle in range(3000):
        web = cgroup.child("web")
        web.child("leaf").create()
        pid, _ = spawn(signal.pause, cgroup=web.child("leaf"))
        web.remove_tree(10)
        os.waitpid(pid, 0)
        if cycle >= 200 and cgroup.read_flat("cgroup.stat")["nr_dying_descendants"] <= 20:
            return
    pytest.fail(cgroup.read("cgroup.stat"))
