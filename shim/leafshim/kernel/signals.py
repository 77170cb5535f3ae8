"""Signals as readable events (signalfd(2))."""

import os
import signal
from collections.abc import Iterable
from ctypes import c_int, c_void_p

from leafshim.kernel.syscalls import Call

_signalfd = Call("signalfd", c_int, c_void_p, c_int)

_SIGSET_BYTES = 128  # glibc's sigset_t; bit n-1 stands for signal n
_SIGINFO_BYTES = 128  # struct signalfd_siginfo


def signalfd(numbers: Iterable[int]) -> int:
    """Block these signals and give a descriptor that is readable while one is pending. Raises KernelError.

    The mask is inherited by a fork and by execve(2): a child that runs somebody else's program unblocks them first.
    """
    wanted = set(numbers)
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    mask = sum(1 << (number - 1) for number in wanted).to_bytes(_SIGSET_BYTES, "little")
    return _signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK)


def drain(fd: int) -> None:
    """Take every pending signal off the descriptor."""
    try:
        while os.read(fd, 16 * _SIGINFO_BYTES):
            pass
    except BlockingIOError:
        pass


def is_pending(pid: int, number: int) -> bool:
    """Whether that signal waits for the process `pid` as a whole (proc_pid_status(5), ShdPnd). A SIGKILL stays there
    for as long as the process takes to die; one that has died has none."""
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            fields = file.read().split()
    except OSError:
        return False
    return bool(int(fields[fields.index(b"ShdPnd:") + 1], 16) >> (number - 1) & 1)
