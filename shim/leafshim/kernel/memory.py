"""Memory that a process is about to write, made its own beforehand."""

from ctypes import c_int, c_size_t, c_void_p

from leafshim.errors import KernelError
from leafshim.kernel.syscalls import Call

_MADV_POPULATE_WRITE = 23  # Linux 5.14

_madvise = Call("madvise", c_void_p, c_size_t, c_int)


def own_heap() -> None:
    """Copy every page of our data that we share with the process we were forked from.

    After a fork the first write to each page is a fault and a copy, 2 µs each, at a moment that the kernel chooses.
    Whoever has time before it has work takes them all now. Before Linux 5.14 nothing happens.
    """
    for first, length in _heap():
        try:
            _madvise(first, length, _MADV_POPULATE_WRITE)
        except KernelError:
            return


def _heap() -> list[tuple[int, int]]:
    """The mappings that hold objects: private and writable (proc_pid_maps(5)). Those of a file are the interpreter's
    own data, where its types and small integers are."""
    found = []
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        for line in maps:
            addresses, permissions, *_ = line.split()
            if permissions == "rw-p":
                first, last = (int(address, 16) for address in addresses.split("-"))
                found.append((first, last - first))
    return found
