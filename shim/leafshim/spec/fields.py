"""Typed reading of a JSON object: each member is taken once, and what is left over at the end is refused.

    user = Fields(value, "process.user")
    uid = user.integer("uid", 0, MAX_ID)
    user.end()                      InputError("process.user.username: not supported yet")

Every error is an InputError that begins with the member's path in the document. null is the same as absent.
Strings hold neither NUL nor lone surrogates, so they can be given to the kernel as they are.
"""

from collections.abc import Iterator

from leafshim.errors import InputError

REQUIRED = object()
"""As a default: the member must be there."""

_EMPTY: tuple[object, ...] = ("", [], {})


def string(value: object, path: str) -> str:
    """`value` as a string that the kernel can take, or InputError."""
    if not isinstance(value, str):
        raise InputError(f"{path}: must be a string")
    if "\0" in value:
        raise InputError(f"{path}: must not contain NUL")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: is not valid Unicode") from None
    return value


def integer(value: object, path: str, low: int, high: int) -> int:
    """`value` as an integer from `low` to `high`, or InputError. A boolean is none, nor is 1.0."""
    if type(value) is not int:
        raise InputError(f"{path}: must be an integer")
    if not low <= value <= high:
        raise InputError(f"{path}: must be from {low} to {high}, not {value}")
    return value


def absolute(value: str, path: str) -> str:
    """`value` as an absolute path, or InputError."""
    if not value.startswith("/"):
        raise InputError(f"{path}: must be an absolute path")
    return value


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
        return tuple(string(name, self.path) for name in self._members)

    def _take(self, name: str, default: object) -> object:
        value = self._members.pop(name, default)
        if value is REQUIRED:
            raise InputError(f"{self.at(name)}: is required")
        return value

    def string(self, name: str, default: object = REQUIRED) -> str:
        """A string."""
        return string(self._take(name, default), self.at(name))

    def boolean(self, name: str) -> bool:
        """True or false; absent is false."""
        value = self._take(name, False)
        if not isinstance(value, bool):
            raise InputError(f"{self.at(name)}: must be true or false")
        return value

    def integer(self, name: str, low: int, high: int, default: object = REQUIRED) -> int:
        """An integer from `low` to `high`."""
        return integer(self._take(name, default), self.at(name), low, high)

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        """An integer from `low` to `high`; None when absent."""
        return self.integer(name, low, high) if name in self else None

    def _array(self, name: str) -> Iterator[tuple[str, object]]:
        value = self._take(name, [])
        if not isinstance(value, list):
            raise InputError(f"{self.at(name)}: must be an array")
        return ((f"{self.at(name)}[{index}]", element) for index, element in enumerate(value))

    def strings(self, name: str) -> tuple[str, ...]:
        """An array of strings; absent is empty."""
        return tuple(string(element, path) for path, element in self._array(name))

    def integers(self, name: str, low: int, high: int) -> tuple[int, ...]:
        """An array of integers from `low` to `high`; absent is empty."""
        return tuple(integer(element, path, low, high) for path, element in self._array(name))

    def paths(self, name: str) -> tuple[str, ...]:
        """An array of absolute paths; absent is empty."""
        return tuple(absolute(string(element, path), path) for path, element in self._array(name))

    def objects(self, name: str) -> "Iterator[Fields]":
        """An array of objects; absent is empty. The caller ends each."""
        return (Fields(element, path) for path, element in self._array(name))

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
