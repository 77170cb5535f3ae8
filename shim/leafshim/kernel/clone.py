"""clone3: a child that is born in its namespaces and in its cgroup, and the pidfd of it, in one step.

Rules:
1. The caller has one thread. After the clone the child's interpreter is as after os.fork: the same hooks run. A child
   that only goes on to execve, starts no thread and imports nothing does without them (`brief`): they would take a
   third of its life until then, most of it for copies of the pages that they write.
2. No child goes on without being where it was asked to be: a kernel's refusal is an error in the parent.
3. The exit signal is SIGCHLD, the pidfd is close-on-exec, and no signal is sent by number afterwards.

CLONE_INTO_CGROUP (Linux 5.7) puts the child under its limits before its first instruction, and spares the kernel the
global lock that a write to cgroup.procs takes. Where clone3 is refused as such, the old clone(2) makes the same
namespaces: kernels without it say ENOSYS, as do seccomp filters, which cannot see into its structure; older kernels
call the cgroup field E2BIG and the flag EINVAL. The child then waits at a gate until the parent has moved it. Other
errors, EBUSY of a cgroup that has controllers for its children or EACCES of one that is not ours, are the answer.
"""

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Callable

from leafshim.errors import KernelError, Unsupported
from leafshim.kernel import syscalls

CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_INTO_CGROUP = 1 << 33

_CLONE_ARGS = struct.Struct("11Q")  # flags pidfd child_tid parent_tid exit_signal stack stack_size tls set_tid* cgroup
_CSIGNAL = 0xFF  # the low byte of clone(2)'s flags is the exit signal
_REFUSED = (errno.ENOSYS, errno.E2BIG, errno.EINVAL)

_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_child = ctypes.pythonapi.PyOS_AfterFork_Child
_after_fork_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
for _hook in (_before_fork, _after_fork_child, _after_fork_parent):
    _hook.argtypes, _hook.restype = (), None


def clone3(
    flags: int, *, cgroup: int | None = None, brief: bool = False, force_fallback: bool = False
) -> tuple[int, int]:
    """Fork into the new namespaces of `flags` (CLONE_NEW*): (pid, pidfd), and (0, -1) in the child.

    With CLONE_PARENT it is the caller's sibling, its parent's to reap.
    `cgroup`: a descriptor of the cgroup's directory, O_PATH will do. `brief`: see rule 1. `force_fallback` takes the
    way of older kernels.
    Raises KernelError (clone3(2), cgroups(7)); Unsupported for a time namespace where there is no clone3.
    """
    if not force_fallback:
        try:
            return _clone3(flags, cgroup, brief)
        except KernelError as error:
            if error.errno not in _REFUSED:
                raise
    return _clone(flags) if cgroup is None else _clone_and_move(flags, cgroup)


def _clone3(flags: int, cgroup: int | None, brief: bool) -> tuple[int, int]:
    pidfd = ctypes.c_int(-1)
    into = 0 if cgroup is None else CLONE_INTO_CGROUP
    # A sibling has our own exit signal, and naming one is EINVAL (clone3(2)).
    exit_signal = 0 if flags & CLONE_PARENT else signal.SIGCHLD
    arguments = _CLONE_ARGS.pack(
        flags | into | CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, exit_signal, 0, 0, 0, 0, 0, cgroup or 0
    )
    if brief:
        return syscalls.clone3(arguments, _CLONE_ARGS.size), pidfd.value
    return _as_fork(lambda: syscalls.clone3(arguments, _CLONE_ARGS.size)), pidfd.value


def _clone(flags: int) -> tuple[int, int]:
    if flags & _CSIGNAL:
        raise Unsupported("time namespace: this kernel has no clone3")
    pidfd = ctypes.c_int(-1)
    flags |= CLONE_PIDFD | signal.SIGCHLD
    return _as_fork(lambda: syscalls.clone(flags, None, ctypes.addressof(pidfd), None, None)), pidfd.value


def _as_fork(clone: Callable[[], int]) -> int:
    """What os.fork does around the system call."""
    _before_fork()
    try:
        pid = clone()
    except KernelError:
        _after_fork_parent()
        raise
    if pid == 0:
        _after_fork_child()
    else:
        _after_fork_parent()
    return pid


def _clone_and_move(flags: int, cgroup: int) -> tuple[int, int]:
    gate, key = os.pipe()
    try:
        pid, pidfd = _clone(flags)
        if pid == 0:
            os.close(key)
            key = -1
            if not os.read(gate, 1):  # the parent could not move us, or is gone
                os._exit(1)
            return 0, -1
        try:
            _move(pid, cgroup)
            os.write(key, b"1")
        except OSError as error:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            if not flags & CLONE_PARENT:
                os.waitpid(pid, 0)
            raise KernelError.of(error, "move") from error
        return pid, pidfd
    finally:
        os.close(gate)
        if key >= 0:
            os.close(key)


def _move(pid: int, cgroup: int) -> None:
    procs = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=cgroup)
    try:
        os.write(procs, str(pid).encode())
    finally:
        os.close(procs)
