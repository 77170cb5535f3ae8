"""Handing the leaf over to the container's user, who may then make and manage cgroups of its own below it.

The OCI specification says when (config-linux.md, "Cgroup ownership"): the container has a cgroup namespace of its own,
so that it sees its leaf as the root, and cgroup2 mounted there writable. cgroups(7) says how ("Cgroups delegation"):
the directory and a few files of it change owner. The limits are in the container's own cgroup, one level above, which
nobody in it can see or write: what it does with the leaf stays within them.

What the kernel does that surprises:
- A process is moved by a write to `cgroup.procs` of where it goes, and the writer needs the right to write that of the
  common ancestor, too. Within the leaf that is the leaf's, so a delegated user can; and can move nothing in or out.
- Controllers can be given to a cgroup's children only while it holds no process itself. Whoever wants them moves its
  processes out of the leaf first, and from then on the kernel takes none there (EBUSY for a further exec, which
  therefore joins the cgroup that init is in: launch/spawn.py).
"""

import os

from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import KernelError
from leafshim.spec.model import Spec

_LISTED = "/sys/kernel/cgroup/delegate"
_ALWAYS = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")
"""Those of cgroups(7), for kernels before 4.15, which have no list."""


def owner(spec: Spec) -> int | None:
    """The user of the host's that the leaf is for; None when it stays root's.

    That such a mount comes with a new cgroup namespace is a rule of the description (spec/rules.py).
    """
    if not any(mount.type in ("cgroup", "cgroup2") and "ro" not in mount.options for mount in spec.mounts):
        return None
    uid = spec.process.user.uid
    if "user" not in spec.linux.namespaces:
        return uid or None
    maps = spec.linux.uid_mappings
    return next((outside + uid - first for first, outside, size in maps if first <= uid < first + size), None)


def delegate(leaf: Cgroup, uid: int) -> None:
    """Make `leaf` and those of its files that the kernel lists for this the user's. Raises KernelError."""
    try:
        os.chown(leaf.path, uid, -1)
        for name in _files():
            path = f"{leaf.path}/{name}"
            if os.path.exists(path):  # the list has those of controllers that are not enabled here
                os.chown(path, uid, -1)
    except OSError as error:
        raise KernelError.of(error, "chown") from error


def _files() -> list[str]:
    try:
        with open(_LISTED, encoding="ascii") as file:
            return file.read().split()
    except FileNotFoundError:
        return list(_ALWAYS)
