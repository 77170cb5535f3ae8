"""execve with everything ready beforehand: a child that may run any moment allocates no arrays any more."""

import ctypes
import os
from collections.abc import Sequence
from typing import NoReturn

from leafshim.errors import InternalError
from leafshim.kernel import syscalls

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
