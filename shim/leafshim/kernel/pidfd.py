"""Processes by descriptor, and the facts that tell a process from a later one with the same number.

A pidfd names one process for ever: it is readable (POLLIN) once the process has ended, hung up (POLLHUP) once it has
been reaped (pidfd_open(2)). A pid alone proves nothing; with its start time and the boot id it does.
"""

import errno
import fcntl
import os
import signal
import struct

from leafshim.errors import KernelError

_PIDFD_INFO = struct.Struct("=QQ11Ii")  # mask, cgroup id, pid, tgid, ppid, eight ids, exit code (linux/pidfd.h)
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_GET_INFO = 3 << 30 | _PIDFD_INFO.size << 16 | 0xFF << 8 | 11  # _IOWR(0xFF, 11, struct pidfd_info)


def pidfd_open(pid: int) -> int:
    """A descriptor of the process `pid`, close-on-exec. Raises KernelError (ESRCH: there is none)."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise KernelError("pidfd_open", error.errno or 0, str(pid)) from error


def send_signal(pidfd: int, number: int) -> None:
    """Signal that very process. Raises KernelError (ESRCH: it has been reaped)."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except OSError as error:
        raise KernelError.of(error, "pidfd_send_signal") from error


def exit_info(pidfd: int) -> int | None:
    """The wait status (wait(2)) of a process that anybody has reaped; None while it lives or is a zombie.

    The kernel keeps it for as long as somebody holds a pidfd that was opened before the reaping (Linux 6.15,
    PIDFD_INFO_EXIT). Before 6.15 the answer is None for ever: no such ioctl (ENOTTY; EINVAL where a pidfd has others,
    since 6.11), or no process (ESRCH).
    Raises KernelError.
    """
    info = bytearray(_PIDFD_INFO.size)
    _PIDFD_INFO.pack_into(info, 0, _PIDFD_INFO_EXIT, *[0] * 13)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.ENOTTY, errno.EINVAL):
            return None
        raise KernelError.of(error, "PIDFD_GET_INFO") from error
    mask, *_, status = _PIDFD_INFO.unpack(info)
    return status if mask & _PIDFD_INFO_EXIT else None


def pid_of(pidfd: int) -> int | None:
    """The process's number in our pid namespace; None once it has been reaped. Raises KernelError."""
    fields = _read(f"/proc/self/fdinfo/{pidfd}").split()
    if "Pid:" not in fields:
        raise KernelError("pid_of", errno.EBADF, f"descriptor {pidfd}")
    pid = int(fields[fields.index("Pid:") + 1])
    return pid if pid > 0 else None


def start_time(pid: int) -> int:
    """When `pid` started, in clock ticks after the boot (proc_pid_stat(5), field 22). Raises KernelError.

    The name of the program, field 2, may contain anything, blanks and parentheses too: fields count from its last ")".
    """
    return _start_time(_read(f"/proc/{pid}/stat"))


def open_process(pid: int, started: int) -> int:
    """/proc/PID of the process that began at `started`: an O_PATH descriptor, close-on-exec.

    It stays that process's: a later one with the same number is not in it, and once it is gone nothing is.
    Raises KernelError (ESRCH: it is not there, or is another process).
    """
    path = f"/proc/{pid}"
    try:
        process = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        raise KernelError("open process", errno.ESRCH, path) from None
    try:
        if _start_time(_read("stat", directory=process)) == started:
            return process
    except KernelError:
        pass
    os.close(process)
    raise KernelError("open process", errno.ESRCH, path)


def _start_time(stat: str) -> int:
    return int(stat.rpartition(")")[2].split()[19])


def boot_id() -> str:
    """A random name of this boot (proc_sys_kernel(5)). Raises KernelError."""
    return _read("/proc/sys/kernel/random/boot_id").strip()


def _read(path: str, *, directory: int | None = None) -> str:
    """A small file of procfs, in one read. (The text layer of open() costs ten times the system calls.)"""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        try:
            return os.read(fd, 1 << 16).decode(errors="replace")
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelError("read", error.errno or 0, path) from error
