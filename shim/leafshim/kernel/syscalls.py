"""Every kernel entry that leafshim calls through ctypes: its prototype, declared once, and the one place that raises.

Rules:
1. Calling a Call returns the kernel's result or raises KernelError; nobody else looks at errno.
2. The library is a PyDLL: the GIL is kept, so that a call costs a microsecond and clone3 can be told apart from a
   thread switch. Nothing here may therefore block for long.
3. What os, socket, signal, fcntl and resource already offer is not repeated here, but for what a launch wants as data.
4. Structures are packed with `struct` beside their use; here they are pointers.

Calls that glibc wraps go by name. glibc wraps the newer ones late or never, so they go by number; since 5.1 a new call
has one number on every architecture but alpha (Documentation/process/adding-syscalls.rst). Older numbers are a table.
"""

import ctypes
import os
from ctypes import c_char_p, c_int, c_long, c_uint, c_ulong, c_void_p
from typing import TypeAlias

from leafshim.errors import KernelError

libc = ctypes.PyDLL(None, use_errno=True)

Argument: TypeAlias = "int | bytes | ctypes.Array[ctypes.c_char] | None"


class Call:
    """A kernel entry, callable. `number`: for syscall(2), where libc has no function of that name.

    `function(*number, *arguments)` is the bare call: its result is negative where the kernel refused.
    """

    __slots__ = ("function", "name", "number")

    def __init__(self, name: str, *argtypes: type, number: int | None = None) -> None:
        # Indexing a library, unlike an attribute, makes a new function object: each has its own argtypes.
        self.name = name
        self.function = libc[name if number is None else "syscall"]
        self.function.restype = c_int if number is None else c_long
        self.function.argtypes = argtypes if number is None else (c_long, *argtypes)
        self.number = () if number is None else (number,)

    def __call__(self, *arguments: Argument, path: str = "") -> int:
        """The call's result. Raises KernelError, with `path` in its message."""
        result: int = self.function(*self.number, *arguments)
        if result < 0:
            raise KernelError(self.name, ctypes.get_errno(), path)
        return result


def _number(x86_64: int, generic: int) -> int:
    """`generic` is asm-generic/unistd.h: aarch64, riscv64, loongarch64."""
    return x86_64 if os.uname().machine == "x86_64" else generic


# Processes. The flags of the old clone(2) come before the pointers, in that order, on all of the above.
clone3 = Call("clone3", c_void_p, c_ulong, number=435)
clone = Call("clone", c_ulong, c_void_p, c_void_p, c_void_p, c_void_p, number=_number(56, 220))
unshare = Call("unshare", c_int)
setns = Call("setns", c_int, c_int)
prctl = Call("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
setsid = Call("setsid")
umask = Call("umask", c_uint)
setrlimit = Call("setrlimit", c_int, c_void_p)
sethostname = Call("sethostname", c_char_p, c_ulong)
setdomainname = Call("setdomainname", c_char_p, c_ulong)
capset = Call("capset", c_void_p, c_void_p)

# Raw, because glibc's wrapper refuses its own two signals, and its posix_spawn leaves one of them ignored.
rt_sigaction = Call("rt_sigaction", c_int, c_void_p, c_void_p, c_ulong, number=_number(13, 134))
rt_sigprocmask = Call("rt_sigprocmask", c_int, c_void_p, c_void_p, c_ulong, number=_number(14, 135))

# Raw, because glibc's wrappers signal every thread that it believes to exist, and after clone3 it believes wrongly.
setgroups = Call("setgroups", c_ulong, c_void_p, number=_number(116, 159))
setresgid = Call("setresgid", c_uint, c_uint, c_uint, number=_number(119, 149))
setresuid = Call("setresuid", c_uint, c_uint, c_uint, number=_number(117, 147))

# Mounts.
mount = Call("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
umount2 = Call("umount2", c_char_p, c_int)
pivot_root = Call("pivot_root", c_char_p, c_char_p, number=_number(155, 41))
open_tree = Call("open_tree", c_int, c_char_p, c_uint, number=428)
move_mount = Call("move_mount", c_int, c_char_p, c_int, c_char_p, c_uint, number=429)
fsopen = Call("fsopen", c_char_p, c_uint, number=430)
fsconfig = Call("fsconfig", c_int, c_uint, c_char_p, c_char_p, c_int, number=431)
fsmount = Call("fsmount", c_int, c_uint, c_uint, number=432)
mount_setattr = Call("mount_setattr", c_int, c_char_p, c_uint, c_void_p, c_ulong, number=442)

# Files.
openat2 = Call("openat2", c_int, c_char_p, c_void_p, c_ulong, number=437)
close_range = Call("close_range", c_uint, c_uint, c_uint, number=436)
fstatfs = Call("fstatfs", c_int, c_void_p)
openat = Call("openat", c_int, c_char_p, c_int, c_uint)
mkdirat = Call("mkdirat", c_int, c_char_p, c_uint)
mknodat = Call("mknodat", c_int, c_char_p, c_uint, c_ulong)
symlinkat = Call("symlinkat", c_char_p, c_int, c_char_p)
fchdir = Call("fchdir", c_int)
chdir = Call("chdir", c_char_p)
dup2 = Call("dup2", c_int, c_int)

# Programs and counters of the kernel's own.
bpf = Call("bpf", c_int, c_void_p, c_uint, number=_number(321, 280))
perf_event_open = Call("perf_event_open", c_void_p, c_int, c_int, c_int, c_ulong, number=_number(298, 241))
