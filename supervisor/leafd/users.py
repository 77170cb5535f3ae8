"""Who a container runs as: `USER[:GROUP]` by name or number → numbers.

The rules:
1. Names come from etc/passwd and etc/group of the container's own root file system, read as files: no NSS, and no
   symbolic link leads out of it (openat2 RESOLVE_IN_ROOT).
2. A number that does not fit, and whatever is no name and no number, is refused. It never becomes 0
   (CVE-2024-40635).
3. A user that passwd knows has the groups that group(5) gives them; with an explicit group, only that one. A number
   that passwd does not know, without a group, gets the group of the same number.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

from leafshim.errors import InputError, KernelError, NotFound
from leafshim.kernel.paths import open_in_root

_LARGEST_ID = 2**32 - 2  # -1 means "leave as it is" to setresuid(2)


class Identity(NamedTuple):
    """Numbers of a user in a container."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"

    def as_oci(self) -> dict[str, object]:
        """OCI process.user."""
        return {"uid": self.uid, "gid": self.gid} | ({"additionalGids": list(self.groups)} if self.groups else {})


class _User(NamedTuple):
    name: str
    uid: int
    gid: int
    home: str


class _Group(NamedTuple):
    name: str
    gid: int
    members: tuple[str, ...]


def lookup(text: str, root: str) -> Identity:
    """Resolve `U[:G]`, names or numbers, in the file system at `root`; "" is root.

    Raises InputError for what is malformed or too large, NotFound for a name that is not there.
    """
    user, separator, group = text.partition(":")
    if separator and (not user or not group):
        raise InputError(f"--user {text}: must be USER or USER:GROUP")
    number = _number(text, user or "0")
    for known in _passwd(root):
        if known.name == user if number is None else known.uid == number:
            break
    else:
        if number is None:
            raise NotFound(f"--user {text}: no user {user} in etc/passwd of {root}")
        known = _User("", number, number, "/")
    if group:
        return Identity(known.uid, _group_number(text, group, root), (), known.home)
    extra = (entry.gid for entry in _groups(root) if known.name and known.name in entry.members)
    groups = tuple(sorted({gid for gid in extra if gid != known.gid})) if user else ()
    return Identity(known.uid, known.gid, groups, known.home)


def _group_number(text: str, group: str, root: str) -> int:
    number = _number(text, group)
    if number is not None:
        return number
    for entry in _groups(root):
        if entry.name == group:
            return entry.gid
    raise NotFound(f"--user {text}: no group {group} in etc/group of {root}")


def _number(text: str, value: str) -> int | None:
    """A user's or group's number, None for a name."""
    if not value.lstrip("+-").isdecimal():
        return None
    if not value.isascii() or not value.isdecimal() or int(value) > _LARGEST_ID:
        raise InputError(f"--user {text}: {value} is not between 0 and {_LARGEST_ID}")
    return int(value)


def _passwd(root: str) -> Iterator[_User]:
    for fields in _entries(root, "etc/passwd", 7):
        uid, gid = _number_in_file(fields[2]), _number_in_file(fields[3])
        if uid is not None and gid is not None:
            yield _User(fields[0], uid, gid, fields[5] or "/")


def _groups(root: str) -> Iterator[_Group]:
    for fields in _entries(root, "etc/group", 4):
        gid = _number_in_file(fields[2])
        if gid is not None:
            yield _Group(fields[0], gid, tuple(fields[3].split(",")))


def _number_in_file(value: str) -> int | None:
    """A line of the file that is wrong is no entry, whatever the file's owner meant."""
    return int(value) if value.isascii() and value.isdecimal() and int(value) <= _LARGEST_ID else None


def _entries(root: str, path: str, fields: int) -> Iterator[list[str]]:
    """The lines of a colon-separated file below `root`; none where there is no such file."""
    try:
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        finally:
            os.close(root_fd)
    except (OSError, KernelError):
        return
    with open(fd, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            parts = line.rstrip("\n").split(":")
            if len(parts) == fields:
                yield parts
