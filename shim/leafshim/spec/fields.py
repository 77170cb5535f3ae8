"""Typed reading of a JSON object: each member is taken once, and what is left over at the end is refused.

    user = Fields(value, "process.user")
    uid = user.integer("uid", 0, MAX_ID)
    user.end()                      InputError("process.user.username: not supported yet")

Every error is an InputError that begins with the member's path in the document. null is the same as absent.
Strings hold neither NUL nor lone surrogates, so they can be given to the kernel as they are.

Every launch reads a document, twice: a path is put together only for an error.
"""

from collections.abc import Iterator
from typing import TypeGuard

from leafshim.errors import InputError

REQUIRED = object()
"""As a default: the member must be there."""

_EMPTY: tuple[object, ...] = ("", [], {})


def _fits(value: object) -> TypeGuard[str]:
    """A string that the kernel can take as it is."""
    return isinstance(value, str) and "\0" not in value and (value.isascii() or _encodes(value))


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _misfit(value: object, path: str) -> InputError:
    """Why a value is no such string."""
    if not isinstance(value, str):
        return InputError(f"{path}: must be a string")
    return InputError(f"{path}: must not contain NUL" if "\0" in value else f"{path}: is not valid Unicode")


def _misplaced(value: object, path: str, low: int, high: int) -> InputError:
    """Why a value is no integer from `low` to `high`."""
    if type(value) is not int:
        return InputError(f"{path}: must be an integer")
    return InputError(f"{path}: must be from {low} to {high}, not {value}")


def relative(path: str) -> InputError:
    """What is said of a path that does not begin at the root."""
    return InputError(f"{path}: must be an absolute path")


class Fields:
    """The members of one JSON object that have not been taken yet. `path` is "" for the document itself."""

    __slots__ = ("_members", "path")

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise InputError(f"{path or 'the document'}: must be an object")
        self._members: dict[str, object] = {key: member for key, member in value.items() if member is not None}
        self.path = path

    def at(self, name: str) -> str:
        """The path of a member of this object."""
        return f"{self.path}.{name}" if self.path else name

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def names(self) -> tuple[str, ...]:
        """The members that have not been taken, where any name may be one."""
        for name in self._members:
            if not _fits(name):
                raise _misfit(name, self.path)
        return tuple(self._members)

    def _take(self, name: str, default: object) -> object:
        value = self._members.pop(name, default)
        if value is REQUIRED:
            raise InputError(f"{self.at(name)}: is required")
        return value

    def string(self, name: str, default: object = REQUIRED) -> str:
        """A string."""
        value = self._take(name, default)
        if not _fits(value):
            raise _misfit(value, self.at(name))
        return value

    def absolute(self, name: str) -> str:
        """An absolute path."""
        value = self.string(name)
        if not value.startswith("/"):
            raise relative(self.at(name))
        return value

    def boolean(self, name: str) -> bool:
        """True or false; absent is false."""
        value = self._take(name, False)
        if not isinstance(value, bool):
            raise InputError(f"{self.at(name)}: must be true or false")
        return value

    def integer(self, name: str, low: int, high: int, default: object = REQUIRED) -> int:
        """An integer from `low` to `high`."""
        value = self._take(name, default)
        if type(value) is not int or not low <= value <= high:
            raise _misplaced(value, self.at(name), low, high)
        return value

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        """An integer from `low` to `high`; None when absent."""
        return self.integer(name, low, high) if name in self else None

    def _array(self, name: str) -> list[object]:
        value = self._take(name, None)
        if value is None:
            return []
        if not isinstance(value, list):
            raise InputError(f"{self.at(name)}: must be an array")
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """An array of strings; absent is empty."""
        found: list[str] = []
        for element in self._array(name):
            if not _fits(element):
                raise _misfit(element, f"{self.at(name)}[{len(found)}]")
            found.append(element)
        return tuple(found)

    def integers(self, name: str, low: int, high: int) -> tuple[int, ...]:
        """An array of integers from `low` to `high`; absent is empty."""
        found: list[int] = []
        for element in self._array(name):
            if type(element) is not int or not low <= element <= high:
                raise _misplaced(element, f"{self.at(name)}[{len(found)}]", low, high)
            found.append(element)
        return tuple(found)

    def paths(self, name: str) -> tuple[str, ...]:
        """An array of absolute paths; absent is empty."""
        found = self.strings(name)
        for index, path in enumerate(found):
            if not path.startswith("/"):
                raise relative(f"{self.at(name)}[{index}]")
        return found

    def objects(self, name: str) -> "Iterator[Fields]":
        """An array of objects; absent is empty. The caller ends each."""
        return (Fields(element, f"{self.at(name)}[{index}]") for index, element in enumerate(self._array(name)))

    def object(self, name: str, default: object = REQUIRED) -> "Fields":
        """An object. The caller ends it."""
        return Fields(self._take(name, default), self.at(name))

    def string_map(self, name: str) -> dict[str, str]:
        """An object whose members are all strings; absent is empty."""
        members = self.object(name, {})
        return {name: members.string(name) for name in members.names()}

    def end(self) -> None:
        """Refuses what nobody took, unless it is empty and so asks for nothing."""
        for name, value in self._members.items():
            if value not in _EMPTY:
                raise InputError(f"{self.at(name)}: not supported yet")
