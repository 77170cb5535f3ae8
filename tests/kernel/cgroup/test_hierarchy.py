"""Cgroups with real processes in them: made, populated, frozen, killed."""

import errno
import os
import select
import signal
import threading
from collections.abc import Callable

import pytest

from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import AlreadyExists, KernelError, Unsupported

Spawn = Callable[..., tuple[int, int]]

old_and_new = pytest.mark.usefixtures("old_and_new_kernels")


def wait_for_end(pidfd: int) -> int:
    """The signal that ended our child, waited for."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(10_000)
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    assert result is not None
    return result.si_status


def fork_for_ever() -> None:
    """A fork bomb of constant size: each generation makes the next and ends."""
    while os.fork() == 0:
        pass


def test_create_and_remove(cgroup: Cgroup) -> None:
    web = cgroup.child("web")
    assert not web.exists()
    web.create()
    assert web.exists()
    assert cgroup.children() == [web]
    with pytest.raises(AlreadyExists, match="web exists already"):
        web.create()
    web.remove()
    assert not web.exists()
    with pytest.raises(KernelError, match=r"rmdir .*web: No such file"):
        web.remove()


def test_create_makes_what_is_above(cgroup: Cgroup) -> None:
    deep = cgroup.child("web").child("mesos").child("db")
    deep.create()
    assert list(cgroup.descendants()) == [deep, cgroup.child("web").child("mesos"), cgroup.child("web")]


def test_value(cgroup: Cgroup) -> None:
    assert Cgroup(cgroup.path) == cgroup
    assert len({Cgroup(cgroup.path), cgroup, cgroup.child("x")}) == 2
    assert repr(cgroup) == f"Cgroup({cgroup.path!r})"


def test_files_of_what_is_gone(cgroup: Cgroup) -> None:
    gone = cgroup.child("gone")
    for attempt in (gone.events, gone.processes, gone.children, gone.open, gone.kill, gone.freeze, gone.controllers):
        with pytest.raises(KernelError) as raised:
            attempt()
        assert raised.value.errno == errno.ENOENT
        assert gone.path in raised.value.path
    assert list(gone.descendants()) == []
    assert gone.holders() == []
    gone.remove_tree(0)


def test_refused_write_names_the_file(cgroup: Cgroup) -> None:
    with pytest.raises(KernelError, match=r"write .*/cgroup\.freeze: Invalid argument"):
        cgroup.write("cgroup.freeze", "ice")


def test_missing_controller_is_named(cgroup: Cgroup) -> None:
    with pytest.raises(Unsupported, match=f"no cgroup2 controller quantum, warp in {cgroup.path}"):
        cgroup.enable({"warp", "quantum"})
    cgroup.enable(())
    assert cgroup.enabled() == frozenset()


def test_processes_and_threads(spawn: Spawn, cgroup: Cgroup) -> None:
    reader, writer = os.pipe()

    def two_threads() -> None:
        threading.Thread(target=signal.pause, daemon=True).start()
        os.write(writer, b"x")
        signal.pause()

    pid, _ = spawn(two_threads, cgroup=cgroup)
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    assert cgroup.processes() == [pid]
    assert len(cgroup.threads()) == 2
    assert pid in cgroup.threads()


def test_populated_counts_what_is_below_and_no_zombies(spawn: Spawn, cgroup: Cgroup) -> None:
    leaf = cgroup.child("leaf")
    leaf.create()
    assert not cgroup.populated()
    _, pidfd = spawn(signal.pause, cgroup=leaf)
    assert cgroup.populated()
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert cgroup.wait("populated", 0, 10)
    assert wait_for_end(pidfd) == signal.SIGKILL  # and it has not been reaped
    leaf.remove_tree(10)


def test_wait_that_does_not_come_true(spawn: Spawn, cgroup: Cgroup) -> None:
    spawn(signal.pause, cgroup=cgroup)
    assert not cgroup.wait("populated", 0, 0.01)
    assert cgroup.wait("populated", 1, 0)


@old_and_new
def test_kill_reaches_every_level(spawn: Spawn, cgroup: Cgroup) -> None:
    levels = [cgroup, cgroup.child("a"), cgroup.child("a").child("b")]
    for level in levels[1:]:
        level.create()
    children = [spawn(signal.pause, cgroup=level) for level in levels for _ in range(3)]
    cgroup.kill()
    assert cgroup.wait("populated", 0, 10)
    assert {wait_for_end(pidfd) for _, pidfd in children} == {signal.SIGKILL}


@old_and_new
def test_kill_outruns_forks(spawn: Spawn, cgroup: Cgroup) -> None:
    for _ in range(3):
        spawn(fork_for_ever, cgroup=cgroup)
    cgroup.kill()
    assert cgroup.wait("populated", 0, 10)


@old_and_new
def test_kill_leaves_the_neighbours_alone(spawn: Spawn, cgroup: Cgroup) -> None:
    one, other = cgroup.child("one"), cgroup.child("other")
    one.create()
    other.create()
    spawn(signal.pause, cgroup=one)
    pid, _ = spawn(signal.pause, cgroup=other)
    one.kill()
    assert one.wait("populated", 0, 10)
    assert other.processes() == [pid]
    assert not one.frozen()


@old_and_new
def test_kill_of_the_frozen(spawn: Spawn, cgroup: Cgroup) -> None:
    spawn(signal.pause, cgroup=cgroup)
    cgroup.freeze()
    assert cgroup.wait("frozen", 1, 10)
    cgroup.kill()
    assert cgroup.wait("populated", 0, 10)


@old_and_new
def test_kill_of_nobody(cgroup: Cgroup) -> None:
    cgroup.kill()
    assert not cgroup.frozen()


def test_frozen_processes_do_nothing_until_thawed(spawn: Spawn, cgroup: Cgroup) -> None:
    there, back = os.pipe(), os.pipe()

    def echo() -> None:
        while True:
            os.write(back[1], os.read(there[0], 1))

    spawn(echo, cgroup=cgroup)
    os.write(there[1], b"1")
    assert os.read(back[0], 1) == b"1"
    cgroup.freeze()
    assert cgroup.wait("frozen", 1, 10)
    assert cgroup.frozen()
    os.write(there[1], b"2")
    assert select.select([back[0]], [], [], 0.05)[0] == []
    cgroup.thaw()
    assert os.read(back[0], 1) == b"2"
    assert cgroup.wait("frozen", 0, 10)
    for fd in (*there, *back):
        os.close(fd)


def test_freeze_reaches_below_and_a_thaw_leaves_what_is_frozen_itself(spawn: Spawn, cgroup: Cgroup) -> None:
    below = cgroup.child("below")
    below.create()
    spawn(signal.pause, cgroup=below)
    below.freeze()
    cgroup.freeze()
    assert cgroup.wait("frozen", 1, 10)
    cgroup.thaw()
    assert cgroup.wait("frozen", 0, 10)
    assert below.frozen()


def test_event_is_an_epoll_priority(spawn: Spawn, cgroup: Cgroup) -> None:
    with open(f"{cgroup.path}/cgroup.events") as file:
        assert file.read() == "populated 0\nfrozen 0\n"
        epoll = select.epoll()
        epoll.register(file.fileno(), select.EPOLLPRI)
        assert epoll.poll(0) == []
        spawn(signal.pause, cgroup=cgroup)
        [(_, events)] = epoll.poll(10)
        assert events & select.EPOLLPRI
        epoll.close()
