"""Interface files of limits: what may be written to each, and what a new cgroup has in it.

Rules:
1. A value is checked before anything is written, and becomes what the kernel will show: pages are whole, and what is
   too large to be a limit is `max`. The kernel would round and clamp silently, and read back as something else.
2. `default`, written by the caller, is what the file holds in a new cgroup: the limit is off.

Source: Documentation/admin-guide/cgroup-v2.rst, and for the ranges the controllers' own code (named at each).
"""

import resource
from collections.abc import Callable
from typing import NamedTuple

from leafshim.errors import InputError

MAX = "max"
DEFAULT = "default"

PAGE = resource.getpagesize()
LARGEST = (2**63 - 1) // PAGE * PAGE
"""Bytes; from here on a page counter shows "max" (include/linux/page_counter.h, PAGE_COUNTER_MAX)."""

_UNITS = {"k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}  # lib/cmdline.c, memparse()


class Setting(NamedTuple):
    """One write: `value` to the interface file `file` ("memory.max")."""

    file: str
    value: str

    @property
    def controller(self) -> str:
        """Whose file it is."""
        return self.file.partition(".")[0]

    @property
    def key(self) -> str:
        """The first word, which in a keyed file says which line is meant."""
        return self.value.partition(" ")[0]


class File(NamedTuple):
    """A file that limits are written to. `check` returns the value as the kernel will show it, or raises InputError
    that begins with the file's name. `default`: see above; for a `keyed` file (one line a device) that of one line."""

    check: Callable[[str, str], str]
    default: str
    keyed: bool = False


def refuse(file: str, value: str, expected: str) -> InputError:
    """The error for a value that is none."""
    return InputError(f"{file}: {value!r}: must be {expected}")


def size(granule: int = PAGE, least: int = 0) -> Callable[[str, str], str]:
    """Bytes, whole granules of at least `least`, with K, M, G … for 2¹⁰, 2²⁰, 2³⁰; or `max`."""

    def check(file: str, value: str) -> str:
        if value == MAX:
            return MAX
        digits, unit = (value[:-1], value[-1].lower()) if value[-1:].lower() in _UNITS else (value, "")
        if not (digits.isascii() and digits.isdecimal()):
            raise refuse(file, value, "bytes, or max")
        count = int(digits) << _UNITS.get(unit, 0)
        if count < least:
            raise refuse(file, value, f"at least {least} bytes, or max")
        return MAX if count >= LARGEST else str(count // granule * granule)

    return check


def number(low: int, high: int, *, unlimited: bool = False) -> Callable[[str, str], str]:
    """An integer from `low` to `high`; with `unlimited` also `max`."""

    def check(file: str, value: str) -> str:
        if unlimited and value == MAX:
            return MAX
        if not (value.isascii() and value.isdecimal() and low <= int(value) <= high):
            raise refuse(file, value, f"a number from {low} to {high}{', or max' if unlimited else ''}")
        return str(int(value))

    return check


def choice(*words: str) -> Callable[[str, str], str]:
    """One of these words."""

    def check(file: str, value: str) -> str:
        if value not in words:
            raise refuse(file, value, f"one of {', '.join(words)}")
        return value

    return check


def is_device(text: str) -> bool:
    """Whether this is MAJOR:MINOR."""
    major, colon, minor = text.partition(":")
    return bool(colon) and all(part.isascii() and part.isdecimal() for part in (major, minor))


def pairs(file: str, value: str, keys: dict[str, Callable[[str, str], str]]) -> str:
    """`key=value` words with their values checked, in the order of `keys`; each key at most once, one at least."""
    found: dict[str, str] = {}
    for word in value.split():
        key, equals, given = word.partition("=")
        if key not in keys or key in found or not equals:
            raise refuse(file, word, f"one each of {', '.join(f'{key}=' for key in keys)}")
        found[key] = keys[key](f"{file} {key}", given)
    if not found:
        raise refuse(file, value, f"one or more of {', '.join(f'{key}=' for key in keys)}")
    return " ".join(f"{key}={found[key]}" for key in keys if key in found)


def limit(amount: int) -> str:
    """An OCI limit, where less than 0 means none, as the kernel writes it."""
    return MAX if amount < 0 else str(amount)
