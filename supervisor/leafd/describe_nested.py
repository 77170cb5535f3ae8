"""What a person asks for a nested container → an OCI config.json, with gaps that leafd fills from its parent.

The rules are those of `leafd.describe`, and:
1. What is not asked for and the parent has to give is left out: the user and its capabilities; for a debug container
   also the environment and the working directory.
2. What belongs to a shared namespace is left out, and refused where it was asked for: the mounts, the host name.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import TypedDict, Unpack

from leafd.describe import Document, describe, environment
from leafd.devices import Grant
from leafshim.errors import InputError

DEBUG = "debug"
"""The class of a container that is one more process of its parent's, with a name and cgroups of its own."""

SHARED = {"net": "network", "ipc": "ipc", "uts": "uts", "pid": "pid", "mnt": "mount"}
"""The namespaces that a nested container may share with its parent, as in /proc/PID/ns → as OCI has them."""


class Asked(TypedDict, total=False):
    """What `leafd.describe.describe` takes beside the command."""

    rootfs: str | None
    env: Sequence[str]
    user: str
    users_of: str
    cwd: str
    hostname: str
    mounts: Sequence[Mapping[str, object]]
    net: str
    terminal: bool
    size: tuple[int, int] | None
    resources: Document | None
    devices: Sequence[Grant]
    delegate: bool
    environ: Mapping[str, str]


def describe_nested(
    args: Sequence[str], *, share: Collection[str] = (), container_class: str = "", **asked: Unpack[Asked]
) -> Document:
    """The config.json of a container that is nested in another.

    `share`: names of namespaces (SHARED) that will be its parent's. `container_class`: DEBUG shares them all. The
    others as for `describe`. Raises InputError, NotFound.
    """
    debug = container_class == DEBUG
    shared = set(SHARED if debug else share)
    _refuse(asked, shared)
    document = describe(args, **asked)
    process, linux = document["process"], document["linux"]
    assert isinstance(process, dict)
    assert isinstance(linux, dict)
    given = asked.get("env", ())
    if not asked.get("user"):
        del process["user"], process["capabilities"]
        if not any(variable.partition("=")[0] == "HOME" for variable in given):
            process["env"] = [variable for variable in process["env"] if not variable.startswith("HOME=")]
    if "mnt" in shared:
        del document["mounts"], linux["maskedPaths"], linux["readonlyPaths"]
    if debug:
        for field in ("rlimits", "noNewPrivileges", *(() if "cwd" in asked else ("cwd",))):
            process.pop(field, None)
        environ = asked.get("environ", os.environ)
        process["env"] = environment({}, given, terminal=asked.get("terminal", False), environ=environ)
    names = {SHARED[each] for each in shared}
    linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] not in names]
    return document


def _refuse(asked: Asked, shared: Collection[str]) -> None:
    mounts = asked.get("mounts") or asked.get("devices")
    for namespace, what, value in (
        ("mnt", "a root directory", asked.get("rootfs")),
        ("mnt", "mounts and devices", mounts),
        ("mnt", "cgroups", asked.get("delegate")),
        ("uts", "a host name", asked.get("hostname")),
        ("net", "a network", asked.get("net", "host") != "host"),
    ):
        if namespace in shared and value:
            raise InputError(f"{what} of its own: does not go with sharing {namespace}")
