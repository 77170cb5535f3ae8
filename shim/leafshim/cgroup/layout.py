"""Where containers are in the tree: names only, and their inverse.

    <mount>/<root>/agent/leaf          leafd and its nursery
    <mount>/<root>/agent/shims         the shims
    <mount>/<root>/web                 the container web; limits are written here
    <mount>/<root>/web/leaf            its processes
    <mount>/<root>/web/mesos/db        the nested container web/db
    <mount>/<root>/web/mesos/db/leaf   its processes

It is the layout of Apache Mesos (src/slave/containerizer/mesos/paths.cpp, cgroups2), whose separator word is `mesos`.
Rules:
1. The inverse is strict: what is not exactly the cgroup or the leaf of a container is none. Below a leaf is the
   workload's own, whatever it calls it.
2. An id is checked before it becomes a path, with the words that mean something here, and those that the kernel uses
   for its own files beside them (`memory.max`), refused.
3. The root may have several levels, as a delegated systemd scope has.
"""

import os
from collections.abc import Iterator

from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import InputError, KernelError

AGENT = "agent"
LEAF = "leaf"
SHIMS = "shims"

MARK = "trusted.leafd.root"
"""The extended attribute of a cgroups root that leafd has claimed, and of the levels that it made for that: its ROOT.

Of the trusted class, as cgroup2 has that one from its beginning, and no workload may write it (xattr(7))."""

_LONGEST_NAME = 64
_LONGEST_ID = 200
# An interface file is named after its controller and a dot (cgroup-v2.rst, "Conventions"); `irq` is the PSI one.
_KERNEL = ("cgroup", "cpu", "cpuset", "dmem", "hugetlb", "io", "irq", "memory", "misc", "perf_event", "pids", "rdma")


def check_id(container_id: str, separator: str = "mesos") -> str:
    """The id itself, when it is one: 1 to 64 of `A-Za-z0-9_.-` beginning with a letter or digit, nested ones joined by
    "/", 200 in all; none of the words agent, leaf and `separator`, no kernel file's name. Raises InputError.
    """
    if len(container_id) > _LONGEST_ID:
        raise InputError(f"container id of {len(container_id)} characters: must be at most {_LONGEST_ID}")
    for name in container_id.split("/"):
        if not 1 <= len(name) <= _LONGEST_NAME:
            raise InputError(f"container id {container_id!r}: each name must have 1 to {_LONGEST_NAME} characters")
        if not _is_name(name):
            raise InputError(f"container id {container_id!r}: only A-Z a-z 0-9 _ . - and first a letter or digit")
        prefix, dot, _ = name.partition(".")
        if name in (AGENT, LEAF, separator) or (dot and prefix in _KERNEL):
            raise InputError(f"container id {container_id!r}: {name} is reserved")
    return container_id


def _is_name(text: str) -> bool:
    return text.isascii() and text[:1].isalnum() and all(letter.isalnum() or letter in "_.-" for letter in text)


def is_root_of_ours(path: str) -> bool:
    """Whether a leafd has claimed the cgroup at this absolute path as its root."""
    return bool(owner_of(path))


def owner_of(path: str) -> str:
    """ROOT of the leafd that has claimed the cgroup at this absolute path; empty where none has."""
    try:
        return os.fsdecode(os.getxattr(path, MARK))
    except OSError:
        return ""


class Layout:
    """Absolute paths below the cgroup2 file system at `mount`. `root`: the cgroup of all of ours, from the mount on.

    Raises InputError for a root that is no path, a separator that is no name.
    """

    __slots__ = ("agent_leaf", "mount", "root", "separator", "shims")

    def __init__(self, mount: str, root: str = "leafd", separator: str = "mesos") -> None:
        levels = root.strip("/").split("/")
        if any(level in ("", ".", "..") or not level.isprintable() for level in levels):
            raise InputError(f"cgroups root {root!r}: must be a path below the cgroup2 mount, without . and ..")
        if separator in (AGENT, LEAF) or not _is_name(separator):
            raise InputError(f"separator {separator!r}: must be a name, and neither {AGENT} nor {LEAF}")
        self.mount = mount
        self.separator = separator
        self.root = os.path.join(mount, *levels)
        self.agent_leaf = f"{self.root}/{AGENT}/{LEAF}"
        self.shims = f"{self.root}/{AGENT}/{SHIMS}"

    def container(self, container_id: str) -> str:
        """The container's non-leaf. Raises InputError."""
        names = check_id(container_id, self.separator).split("/")
        return f"{self.root}/{f'/{self.separator}/'.join(names)}"

    def below(self, parent: str, container_id: str) -> str:
        """The non-leaf of a container whose parent's non-leaf is `parent`. Raises InputError."""
        name = check_id(container_id, self.separator).rpartition("/")[2]
        return f"{parent}/{self.separator}/{name}"

    def leaf(self, container_id: str) -> str:
        """The cgroup of its processes. Raises InputError."""
        return f"{self.container(container_id)}/{LEAF}"

    def name(self, container_id: str) -> str:
        """The non-leaf from the mount on, as `linux.cgroupsPath` has it: "/leafd/web". Raises InputError."""
        return self.container(container_id)[len(self.mount.rstrip("/")) :]

    def id_of(self, cgroup_path: str) -> str | None:
        """The container whose non-leaf or leaf is at this absolute path; None where it is no container's."""
        inside = cgroup_path.rstrip("/").removeprefix(self.root + "/")
        if inside == cgroup_path.rstrip("/"):
            return None
        container_id = inside.removesuffix("/" + LEAF).replace(f"/{self.separator}/", "/")
        try:
            expected = self.container(container_id)
        except InputError:
            return None
        return container_id if f"{self.root}/{inside}" in (expected, f"{expected}/{LEAF}") else None

    def containers(self) -> Iterator[str]:
        """The ids of all containers that have cgroups now, each after its parent. Raises KernelError."""
        if os.path.isdir(self.root):
            yield from self._below(Cgroup(self.root))

    def _below(self, cgroup: Cgroup) -> Iterator[str]:
        try:
            found = [(child, container_id) for child in cgroup.children() if (container_id := self.id_of(child.path))]
        except KernelError:
            if cgroup.exists():
                raise
            return
        for child, container_id in found:
            yield container_id
            nested = child.child(self.separator)
            if nested.exists():
                yield from self._below(nested)
