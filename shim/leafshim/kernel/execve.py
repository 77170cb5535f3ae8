"""execve, and what it would let through: arrays that are ready beforehand, and signals as programs expect them."""

import ctypes
import os
import signal
from collections.abc import Iterator, Sequence
from typing import NoReturn

from leafshim.errors import InternalError
from leafshim.kernel import syscalls

_DEFAULT_ACTION = bytes(32)  # the kernel's struct sigaction: SIG_DFL is 0, the mask is empty
_SIGSET_BYTES = 8
_RESETTABLE = tuple(number for number in range(1, 34) if number not in (signal.SIGKILL, signal.SIGSTOP))
_PYTHONS = (signal.SIGINT.value, signal.SIGPIPE.value, signal.SIGXFSZ.value)
_execve = syscalls.Call("execve", ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p)


class Strings:
    """A NULL-terminated `char *[]`. Unlike os.execve's mapping it keeps an environment's order and its duplicates."""

    __slots__ = ("array",)

    def __init__(self, strings: Sequence[str]) -> None:
        self.array = (ctypes.c_char_p * (len(strings) + 1))(*map(os.fsencode, strings), None)


def execve(path: str, arguments: Strings, environment: Strings) -> NoReturn:
    """Become the program at `path` (execve(2)). Raises KernelError."""
    _execve(os.fsencode(path), ctypes.addressof(arguments.array), ctypes.addressof(environment.array), path=path)
    raise InternalError("execve returned")


def reset_inherited_signals() -> None:
    """Every signal that we do not use ourselves to its default. Raises KernelError.

    Once, at the start of a process whose children become programs: execve keeps what is ignored. Of the real-time
    signals only glibc's own are reset: whoever is started by its posix_spawn, as everything below make is, has 32
    ignored.
    """
    for number in _RESETTABLE:
        if number not in _PYTHONS:
            syscalls.rt_sigaction(number, _DEFAULT_ACTION, None, _SIGSET_BYTES)


def resetting_signals() -> Iterator[tuple[syscalls.Call, tuple[syscalls.Argument, ...]]]:
    """The system calls that set the signals that Python takes or ignores to their default, and block none: for a child
    that becomes a program, of a process that did `reset_inherited_signals`.

    execve resets handlers, but until then one would write to the parent's wake-up descriptor.
    """
    for number in _PYTHONS:
        yield syscalls.rt_sigaction, (number, _DEFAULT_ACTION, None, _SIGSET_BYTES)
    yield syscalls.rt_sigprocmask, (signal.SIG_SETMASK.value, bytes(_SIGSET_BYTES), None, _SIGSET_BYTES)
