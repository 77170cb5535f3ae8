"""Devices on the command line → device nodes and device rules of config.json.

    /dev/fuse                      the host's device of that path, there too, with all accesses
    /dev/fuse:rw                   with these accesses: r read, w write, m make a node
    /dev/fuse:/dev/other:rw        there under another path
    c:10:229:rwm                   by type (c, b, or a for both) and numbers, `*` for any; the accesses may be left out
    mesos                          what Mesos allows more than we do: console, tty0, tty1, net/tun

The first three make a node. So does a type with two numbers, where the host has such a device: under the host's name.
"""

import os
import stat
from typing import NamedTuple, TypeAlias

from leafshim.cgroup.device_rules import MESOS, Entry
from leafshim.errors import InputError, KernelError

Document: TypeAlias = dict[str, object]

DENY_ALL: Document = {"allow": False, "access": "rwm"}
"""The rule that every description begins with: nothing but the defaults, which the shim adds."""


class Grant(NamedTuple):
    """What one --device asks for: elements of linux.devices and of linux.resources.devices."""

    nodes: tuple[Document, ...]
    rules: tuple[Document, ...]


def parse(text: str) -> Grant:
    """What `--device TEXT` asks for. Raises InputError, KernelError for a node that cannot be looked at."""
    if text == "mesos":
        return Grant((), tuple(map(_rule, MESOS)))
    path, *rest = text.split(":")
    if path.startswith("/"):
        return _by_path(text, path, rest)
    letters = rest.pop() if len(rest) == 3 else "rwm"
    try:
        entry = Entry.parse(f"{path} {':'.join(rest)} {letters}")
    except InputError:
        raise InputError(f"--device {text}: must look like /dev/fuse, /dev/fuse:rw or c:10:229:rwm") from None
    name = _host_name(entry)
    return Grant(() if name is None else (_node(name, name),), (_rule(entry),))


def _by_path(text: str, path: str, rest: list[str]) -> Grant:
    place = rest.pop(0) if rest and rest[0].startswith("/") else path
    letters = rest.pop(0) if rest else "rwm"
    if rest or not letters or set(letters) - set("rwm"):
        raise InputError(f"--device {text}: must look like /dev/fuse, /dev/fuse:/dev/other or /dev/fuse:rw")
    node = _node(path, place)
    return Grant((node,), (_rule(Entry.parse(f"{node['type']} {node['major']}:{node['minor']} {letters}")),))


def _node(path: str, place: str) -> Document:
    """The host's device at `path`, to be made at `place`."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise KernelError.of(error, "--device") from error
    if not stat.S_ISCHR(status.st_mode) and not stat.S_ISBLK(status.st_mode):
        raise InputError(f"--device {path}: is no device")
    return {
        "path": place,
        "type": "c" if stat.S_ISCHR(status.st_mode) else "b",
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }


def _rule(entry: Entry) -> Document:
    rule: Document = {"allow": True, "type": entry.type, "access": entry.letters()}
    return rule | {
        name: number for name, number in (("major", entry.major), ("minor", entry.minor)) if number is not None
    }


def _host_name(entry: Entry) -> str | None:
    """The path under which the host's kernel shows this one device (sysfs(5)); None for no such device, or for many."""
    if entry.wildcard():
        return None
    kind = {"c": "char", "b": "block"}[entry.type]
    try:
        with open(f"/sys/dev/{kind}/{entry.major}:{entry.minor}/uevent", encoding="utf-8") as file:
            facts = dict(line.rstrip("\n").split("=", 1) for line in file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KernelError.of(error, "--device") from error
    path = f"/dev/{facts.get('DEVNAME', '')}"
    return path if "DEVNAME" in facts and os.path.exists(path) else None
