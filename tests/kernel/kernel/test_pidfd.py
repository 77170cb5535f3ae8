"""Exit statuses of processes that somebody else reaped, and the facts that prove who a pid is."""

import os
import select
import signal
import socket
from collections.abc import Callable

import pytest

from leafshim.errors import KernelError
from leafshim.kernel import fdpass, pidfd

Spawn = Callable[..., tuple[int, int]]


def wait_for(fd: int, events: int) -> int:
    poll = select.poll()
    poll.register(fd, events)
    [(_, happened)] = poll.poll(10_000)
    return happened


@pytest.mark.parametrize("code", [0, 1, 255])
def test_exit_code_is_known_after_reaping_only(spawn: Spawn, code: int) -> None:
    pid, fd = spawn(lambda: os._exit(code))
    assert wait_for(fd, select.POLLIN) & select.POLLIN
    assert pidfd.exit_info(fd) is None
    assert pidfd.pid_of(fd) == pid
    _, status = os.waitpid(pid, 0)
    assert pidfd.exit_info(fd) == status == code << 8
    assert pidfd.pid_of(fd) is None


def test_signal_is_in_the_status(spawn: Spawn) -> None:
    pid, fd = spawn(signal.pause)
    pidfd.send_signal(fd, signal.SIGKILL)
    os.waitpid(pid, 0)
    status = pidfd.exit_info(fd)
    assert status is not None
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_status_of_a_process_that_another_reaped(spawn: Spawn) -> None:
    """A grandchild, whose pidfd we hold, is reaped by its parent; then its parent dies too."""
    ours, theirs = socket.socketpair()

    def parent() -> None:
        pid = os.fork()
        if pid == 0:
            theirs.recv(1)
            os._exit(42)
        fdpass.send(theirs, b"x", [pidfd.pidfd_open(pid)])
        ours.close()
        os.waitpid(pid, 0)

    child, _ = spawn(parent)
    _, [grandchild] = fdpass.receive(ours, 1)
    assert pidfd.exit_info(grandchild) is None
    ours.send(b"x")
    os.waitpid(child, 0)
    assert pidfd.exit_info(grandchild) == 42 << 8
    os.close(grandchild)


def test_signal_to_a_reaped_process_reaches_nobody(spawn: Spawn) -> None:
    pid, fd = spawn(lambda: None)
    os.waitpid(pid, 0)
    with pytest.raises(KernelError, match="pidfd_send_signal: No such process"):
        pidfd.send_signal(fd, signal.SIGKILL)


def test_pidfd_of_nobody() -> None:
    with pytest.raises(KernelError, match="pidfd_open 4194305: "):
        pidfd.pidfd_open(4194305)  # above the largest pid_max


def test_pid_of_what_is_no_pidfd() -> None:
    with pytest.raises(KernelError, match="Bad file descriptor"):
        pidfd.pid_of(0)


def test_start_time_whatever_the_name(spawn: Spawn) -> None:
    reader, writer = os.pipe()

    def rename() -> None:
        with open("/proc/self/comm", "w") as file:
            file.write("x) R 1 1 (")
        os.write(writer, b"x")
        signal.pause()

    ours = pidfd.start_time(os.getpid())
    pid, _ = spawn(rename)
    os.read(reader, 1)
    assert pidfd.start_time(pid) >= ours > 0
    assert pidfd.start_time(pid) == pidfd.start_time(pid)
    os.close(reader)
    os.close(writer)


def test_the_directory_of_a_process_stays_its_own(spawn: Spawn) -> None:
    pid, fd = spawn(signal.pause)
    began = pidfd.start_time(pid)
    directory = pidfd.open_process(pid, began)
    assert os.readlink("ns/pid", dir_fd=directory) == os.readlink("/proc/self/ns/pid")
    for other in (pid, 4194305):
        with pytest.raises(KernelError, match=f"open process /proc/{other}: No such process"):
            pidfd.open_process(other, began + 1)
    pidfd.send_signal(fd, signal.SIGKILL)
    os.waitpid(pid, 0)
    with pytest.raises(OSError, match="No such"):  # whoever has the number now
        os.readlink("ns/pid", dir_fd=directory)
    with pytest.raises(KernelError, match=f"open process /proc/{pid}"):
        pidfd.open_process(pid, began)
    os.close(directory)


def test_boot_id_is_a_uuid() -> None:
    assert [len(part) for part in pidfd.boot_id().split("-")] == [8, 4, 4, 4, 12]
    assert pidfd.boot_id() == pidfd.boot_id()
