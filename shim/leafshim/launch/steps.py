"""A launch as system calls: what the plan's operations come to, put together before the clone.

A child of the clone shares every page with the shim until it writes to it, and in Python all code writes: each page is
then a fault and a copy. So the child runs one loop over tuples that are ready, and no code of the operations. What goes
another way than is usual (a directory that has to be made, a name that is taken) is not foreseen here: the operation
is then executed the long way, from its beginning (`Operation.otherwise`).

Rules:
1. A call that failed has done nothing, and what the calls before it did is in the way of no execution.
2. Nothing is decided here that the kernel does not judge again: a wrong guess is a call that fails.
"""

from collections.abc import Callable, Iterable
from ctypes import c_int, get_errno
from typing import TypeAlias

from leafshim.errors import KernelError
from leafshim.kernel.syscalls import Argument, Call

Slot: TypeAlias = c_int
"""Where the result of a call is put, for calls that follow: mostly a descriptor."""

Step: TypeAlias = tuple[Callable[..., int], tuple[object, ...], Slot, tuple[int, ...], str]
"""Function, arguments, where its result goes, the errnos with which the operation is over, and its name."""

_NOWHERE = c_int()


def step(
    call: Call, *arguments: "Argument | Slot", into: Slot = _NOWHERE, over: tuple[int, ...] = (), name: str = ""
) -> Step:
    """One system call. With an errno of `over` there is nothing left to do in its operation."""
    return call.function, (*call.number, *arguments), into, over, name or call.name


def python(function: Callable[..., int], *arguments: object, into: Slot = _NOWHERE) -> Step:
    """A function of ours in the place of a system call; it raises where it fails."""
    return function, arguments, into, (), ""


def run(steps: Iterable[Step]) -> None:
    """One after the other. Raises KernelError, named after the call; what a function of ours raises."""
    for function, arguments, slot, over, name in steps:
        result = function(*arguments)
        if result >= 0:
            slot.value = result
        elif get_errno() in over:
            return
        else:
            raise KernelError(name, get_errno())
