"""clone3 and its fallback: where the child is born, and what it is then."""

import ctypes
import errno
import os
import random
import signal
import struct
import threading
from collections.abc import Callable

import pytest

from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.errors import KernelError, Unsupported
from leafshim.kernel import namespaces, process, syscalls
from leafshim.kernel.clone import clone3

CLONE_FS = 0x200

Spawn = Callable[..., tuple[int, int]]

both_ways = pytest.mark.parametrize("force_fallback", [False, True], ids=["clone3", "fallback"])


def cgroup_of(process: int | str) -> str:
    with open(f"/proc/{process}/cgroup") as file:
        name = next(line[3:].rstrip("\n") for line in file if line.startswith("0::"))
    return find_mount() + name


def refuse_clone3(answer: int) -> None:
    """A seccomp filter, as container engines have it for programs that they cannot see through (seccomp(2))."""
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # load the number of the call
            (0x15, 0, 1, 435),  # clone3?
            (0x06, 0, 0, 0x00050000 | answer),  # SECCOMP_RET_ERRNO
            (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
        )
    )
    instructions = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(instructions)))
    syscalls.prctl(*process.NO_NEW_PRIVILEGES)
    syscalls.prctl(22, 2, ctypes.addressof(header), 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def told(spawn: Spawn, question: Callable[[], str], **options: object) -> str:
    """The answer of a child."""
    reader, writer = os.pipe()
    pid, _ = spawn(lambda: os.write(writer, question().encode()), **options)
    os.close(writer)
    with open(reader) as file:
        answer = file.read()
    assert os.waitpid(pid, 0)[1] == 0
    return answer


@both_ways
def test_child_is_in_the_cgroup_before_its_first_line(spawn: Spawn, cgroup: Cgroup, force_fallback: bool) -> None:
    answer = told(spawn, lambda: cgroup_of("self"), cgroup=cgroup, force_fallback=force_fallback)
    assert answer == cgroup.path


@both_ways
def test_parent_sees_it_there_at_once(spawn: Spawn, cgroup: Cgroup, force_fallback: bool) -> None:
    pid, _ = spawn(signal.pause, cgroup=cgroup, force_fallback=force_fallback)
    assert cgroup_of(pid) == cgroup.path
    assert cgroup.processes() == [pid]


@both_ways
@pytest.mark.parametrize("name", sorted(set(namespaces.FLAG) - {"time"}))
def test_each_namespace_is_new(spawn: Spawn, name: str, force_fallback: bool) -> None:
    path = f"/proc/self/ns/{namespaces.PROC_NAME[name]}"
    child = told(
        spawn, lambda: str(namespaces.namespace_id(path)), flags=namespaces.FLAG[name], force_fallback=force_fallback
    )
    assert child != str(namespaces.namespace_id(path))


@both_ways
def test_all_namespaces_and_the_cgroup_at_once(spawn: Spawn, cgroup: Cgroup, force_fallback: bool) -> None:
    flags = sum(namespaces.FLAG.values()) & ~namespaces.CLONE_NEWTIME & ~namespaces.CLONE_NEWCGROUP
    answer = told(
        spawn, lambda: f"{os.getpid()} {os.getppid()}", flags=flags, cgroup=cgroup, force_fallback=force_fallback
    )
    assert answer == "1 0"


def test_time_namespace_of_a_child(spawn: Spawn) -> None:
    pid, _ = spawn(signal.pause, flags=namespaces.CLONE_NEWTIME)
    assert namespaces.namespace_id(f"/proc/{pid}/ns/time") != namespaces.namespace_id("/proc/self/ns/time")


def test_time_namespace_without_clone3_is_refused() -> None:
    with pytest.raises(Unsupported, match="time namespace"):
        clone3(namespaces.CLONE_NEWTIME, force_fallback=True)


@both_ways
def test_interpreter_of_the_child_is_as_after_fork(spawn: Spawn, force_fallback: bool) -> None:
    random.seed(1)  # random reseeds itself in a child by a hook of os.fork's
    expected = random.random()
    random.seed(1)
    assert told(spawn, lambda: str(random.random()), force_fallback=force_fallback) != str(expected)


@both_ways
def test_pidfd_is_close_on_exec_and_the_childs(spawn: Spawn, force_fallback: bool) -> None:
    pid, pidfd = spawn(signal.pause, force_fallback=force_fallback)
    assert not os.get_inheritable(pidfd)
    signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


@both_ways
def test_child_gets_no_descriptor_of_ours(spawn: Spawn, cgroup: Cgroup, force_fallback: bool) -> None:
    before = len(os.listdir("/proc/self/fd"))
    answer = told(spawn, lambda: str(len(os.listdir("/proc/self/fd"))), cgroup=cgroup, force_fallback=force_fallback)
    assert int(answer) <= before + 3  # the pipe of `told` and the open cgroup
    assert len(os.listdir("/proc/self/fd")) == before + 1  # the pidfd


@both_ways
def test_refusal_of_the_cgroup_is_the_parents_error(cgroup: Cgroup, force_fallback: bool) -> None:
    cgroup.child("gone").create()
    directory = cgroup.child("gone").open()
    cgroup.child("gone").remove()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KernelError) as raised:
        clone3(0, cgroup=directory, force_fallback=force_fallback)
    assert raised.value.errno in (errno.ENODEV, errno.ENOENT)
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(directory)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_parent_goes_on_after_a_refusal() -> None:
    with pytest.raises(KernelError) as raised:
        clone3(namespaces.CLONE_NEWUSER | CLONE_FS)
    assert raised.value.errno == errno.EINVAL
    thread = threading.Thread(target=lambda: __import__("colorsys"))  # the import lock is free again
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("refusal", [errno.ENOSYS, errno.E2BIG, errno.EINVAL], ids=errno.errorcode.get)
def test_kernel_that_refuses_clone3_still_puts_the_child_there(spawn: Spawn, cgroup: Cgroup, refusal: int) -> None:
    def grandchild() -> str:
        refuse_clone3(refusal)
        return told(spawn, lambda: f"{cgroup_of('self')} {os.getpid()}", cgroup=cgroup, flags=namespaces.CLONE_NEWPID)

    assert told(spawn, grandchild) == f"{cgroup.path} 1"


def test_other_refusals_are_no_reason_to_fall_back(spawn: Spawn, cgroup: Cgroup) -> None:
    def outcome() -> str:
        refuse_clone3(errno.EACCES)
        with pytest.raises(KernelError) as raised:
            clone3(0)
        return str(raised.value)

    assert told(spawn, outcome) == "clone3: Permission denied"
