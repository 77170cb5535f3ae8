"""What a person asks for → an OCI config.json.

The rules:
1. A description is plain data (OCI runtime-spec 1.2, config.md and config-linux.md). Nothing here touches the
   kernel but to read; whoever loads the description checks it again.
2. The defaults are those that users of other engines know: docker's 14 capabilities, its masked and read-only paths,
   its mounts. The container has its own pid, ipc, uts, mount and cgroup namespaces; the network is the host's, unless
   `net` is "none". Devices are denied but for the shim's defaults and those that are asked for.
3. Inheritable and ambient capabilities are empty; who is not root has none at all, only the bounding set.
4. A limit is never set that this host refuses: `RLIMIT_NOFILE` is raised only with CAP_SYS_RESOURCE.
5. Without `rootfs` the description has no root: the supervisor puts the host's own files there, through an overlay,
   and /run and /tmp are tmpfs, since what is in them is the host's state and no files to run on.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from leafd.devices import DENY_ALL, Grant
from leafd.users import Identity, lookup
from leafshim.errors import InputError

Document: TypeAlias = dict[str, object]

OCI_VERSION = "1.2.0"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

CAPABILITIES = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)

# destination, type, options. The source is the type.
_MOUNTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("/proc", "proc", ("nosuid", "noexec", "nodev")),
    ("/dev", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    ("/dev/shm", "tmpfs", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
    ("/dev/mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    ("/sys", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    ("/sys/fs/cgroup", "cgroup", ("nosuid", "noexec", "nodev", "relatime", "ro")),
)
_MOUNTS_OVER_HOST: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("/run", "tmpfs", ("nosuid", "nodev", "mode=755", "size=65536k")),
    ("/tmp", "tmpfs", ("nosuid", "nodev", "mode=1777")),
)

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_CAP_SYS_RESOURCE = 24  # linux/capability.h
# Not shared: it would carry the container's own mounts out to the host.
_PROPAGATIONS = frozenset(("private", "rprivate", "slave", "rslave"))


def describe(
    args: Sequence[str],
    *,
    rootfs: str | None = None,
    env: Iterable[str] = (),
    user: str = "",
    users_of: str = "",
    cwd: str = "/",
    hostname: str = "",
    mounts: Iterable[Mapping[str, object]] = (),
    net: str = "host",
    terminal: bool = False,
    size: tuple[int, int] | None = None,
    resources: Document | None = None,
    devices: Iterable[Grant] = (),
    delegate: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Document:
    """The config.json of a container.

    `args`: the command. `rootfs`: an absolute directory, None for the host's own files. `env`: `K=V`, or `K` for the
    value it has in `environ`. `user`: as for `leafd.users.lookup`, in the files at `users_of`, a root directory, where
    that is not `rootfs`. `mounts`: from `parse_mount`; one replaces a default at the same place. `net`: "host" or
    "none". `size`: columns and rows of the terminal. `resources`: linux.resources, from `leafd.limits`. `devices`: from
    `leafd.devices`, besides the defaults. `delegate`: the process may make cgroups of its own. Raises InputError,
    NotFound.
    """
    if not args:
        raise InputError("no command: give one after --")
    identity = lookup(user, users_of or rootfs or "/")
    namespaces = ["pid", "ipc", "uts", "mount", "cgroup"]
    if net == "none":
        namespaces.append("network")
    elif net != "host":
        raise InputError(f"--net {net}: must be host or none")
    linux: Document = {
        "namespaces": [{"type": name} for name in namespaces],
        "maskedPaths": list(MASKED_PATHS),
        "readonlyPaths": list(READONLY_PATHS),
    }
    granted = list(devices)
    linux["resources"] = {
        **(resources or {}),
        "devices": [DENY_ALL, *(rule for grant in granted for rule in grant.rules)],
    }
    if nodes := [node for grant in granted for node in grant.nodes]:
        linux["devices"] = nodes
    defaults = {"PATH": DEFAULT_PATH, "HOME": identity.home} | ({"HOSTNAME": hostname} if hostname else {})
    process: Document = {
        "terminal": terminal,
        "user": identity.as_oci(),
        "args": list(args),
        "env": environment(defaults, env, terminal=terminal, environ=environ),
        "cwd": _absolute("--cwd", cwd),
        "capabilities": _capabilities(identity),
        "noNewPrivileges": False,
    }
    if console := _console_size(terminal, size):
        process["consoleSize"] = console
    if limits := _rlimits():
        process["rlimits"] = limits
    document: Document = {
        "ociVersion": OCI_VERSION,
        "process": process,
        "mounts": _all_mounts(mounts, over_host=rootfs is None, delegate=delegate),
        "linux": linux,
    }
    if rootfs is not None:
        document["root"] = {"path": _absolute("--rootfs", rootfs)}
    if hostname:
        document["hostname"] = hostname
    return document


def describe_exec(
    config: Mapping[str, object],
    args: Sequence[str],
    *,
    root: str = "/",
    env: Iterable[str] = (),
    user: str = "",
    cwd: str = "",
    terminal: bool = False,
    size: tuple[int, int] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Document:
    """The OCI process of one more command in a container.

    It is the container's own process (from its `config`) with another command; what is given replaces what it had.
    `root`: where the container's files are seen from here, for a `user` by name (/proc/PID/root). The rest as for
    `describe`. Raises InputError, NotFound.
    """
    if not args:
        raise InputError("no command: give one after --")
    base = config.get("process")
    if not isinstance(base, dict):
        raise InputError("config.json: process: missing")
    process: Document = {**base, "terminal": terminal, "args": list(args)}
    process.pop("consoleSize", None)
    inherited = dict(pair.split("=", 1) for pair in base.get("env", []) if "=" in pair)
    if not terminal:
        inherited.pop("TERM", None)
    if user:
        identity = lookup(user, root)
        process |= {"user": identity.as_oci(), "capabilities": _capabilities(identity)}
        inherited["HOME"] = identity.home
    if cwd:
        process["cwd"] = _absolute("--cwd", cwd)
    process["env"] = environment(inherited, env, terminal=terminal, environ=environ)
    if console := _console_size(terminal, size):
        process["consoleSize"] = console
    return process


def parse(text: bytes, source: str) -> Document:
    """A description from its JSON; `source` names it in errors. Raises InputError."""
    try:
        document: object = json.loads(text)
    except ValueError as error:
        raise InputError(f"{source}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{source}: must be a JSON object")
    return document


def wants_terminal(config: Mapping[str, object]) -> bool:
    """Whether a description gives its process a terminal."""
    process = config.get("process")
    return isinstance(process, dict) and process.get("terminal") is True


def environment(
    defaults: Mapping[str, str], given: Iterable[str], *, terminal: bool, environ: Mapping[str, str]
) -> list[str]:
    """OCI process.env: `defaults`, TERM for a terminal, then `given` (`K=V`, or `K` from `environ` if it is there)."""
    merged = dict(defaults)
    if terminal:
        merged["TERM"] = environ.get("TERM", "xterm")
    for item in given:
        name, separator, value = item.partition("=")
        if not name or "\0" in item:
            raise InputError(f"--env {item!r}: must be NAME=VALUE or NAME")
        if separator:
            merged[name] = value
        elif name in environ:
            merged[name] = environ[name]
    return [f"{name}={value}" for name, value in merged.items()]


def parse_mount(text: str) -> Document:
    """A mount of config.json from `type=bind,src=/data,dst=/srv,ro`.

    Keys: type (bind, the default, or tmpfs), src or source, dst, destination or target, ro or readonly, rw,
    bind-propagation; for tmpfs also size and mode. Raises InputError.
    """
    fields: dict[str, str] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        key = {"source": "src", "destination": "dst", "target": "dst", "readonly": "ro"}.get(key, key)
        if key not in ("type", "src", "dst", "ro", "rw", "bind-propagation", "size", "mode"):
            raise InputError(f"--mount {text}: unknown key {key!r}")
        if key in fields:
            raise InputError(f"--mount {text}: {key} is given twice")
        fields[key] = value
    kind = fields.pop("type", "bind")
    if kind not in ("bind", "tmpfs"):
        raise InputError(f"--mount {text}: type must be bind or tmpfs")
    destination = fields.pop("dst", "")
    if not destination.startswith("/") or os.path.normpath(destination).strip("/") == "" or "/../" in f"{destination}/":
        raise InputError(f"--mount {text}: dst must be an absolute path below /, without ..")
    access = [key for key in ("ro", "rw") if fields.pop(key, "false") in ("", "true", "1")]
    if len(access) > 1:
        raise InputError(f"--mount {text}: ro and rw exclude each other")
    source = fields.pop("src", "")
    if kind == "bind":
        if not source.startswith("/"):
            raise InputError(f"--mount {text}: src must be an absolute path")
        propagation = fields.pop("bind-propagation", "rprivate")
        if propagation not in _PROPAGATIONS:
            raise InputError(f"--mount {text}: bind-propagation must be one of {', '.join(sorted(_PROPAGATIONS))}")
        options = ["rbind", propagation, *access]
    else:
        if source:
            raise InputError(f"--mount {text}: a tmpfs has no src")
        options = ["nosuid", "nodev", *access]
        options += [f"{key}={fields.pop(key)}" for key in ("size", "mode") if key in fields]
    if fields:
        raise InputError(f"--mount {text}: {next(iter(fields))} does not go with type={kind}")
    return {"destination": os.path.normpath(destination), "type": kind, "source": source or kind, "options": options}


def _all_mounts(
    given: Iterable[Mapping[str, object]], *, over_host: bool, delegate: bool
) -> list[Mapping[str, object]]:
    """The defaults that `given` does not replace, then `given`: a mount below another comes after it."""
    asked = list(given)
    places = {mount["destination"] for mount in asked}
    dropped = {"cgroup": ("ro",)} if delegate else {}
    defaults: list[Mapping[str, object]] = [
        {
            "destination": destination,
            "type": kind,
            "source": kind,
            "options": [option for option in options if option not in dropped.get(kind, ())],
        }
        for destination, kind, options in (*_MOUNTS, *(_MOUNTS_OVER_HOST if over_host else ()))
        if destination not in places
    ]
    return defaults + asked


def _capabilities(identity: Identity) -> Document:
    held = list(CAPABILITIES) if identity.uid == 0 else []
    return {
        "bounding": list(CAPABILITIES),
        "effective": held,
        "permitted": list(held),
        "inheritable": [],
        "ambient": [],
    }


def _rlimits() -> list[Document]:
    """1024 open files, and 524288 for who asks for more (systemd's defaults); none where we may not raise limits."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        effective = next((int(line.split()[1], 16) for line in status if line.startswith("CapEff:")), 0)
    if not effective & 1 << _CAP_SYS_RESOURCE:
        return []
    return [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 524288}]


def _console_size(terminal: bool, size: tuple[int, int] | None) -> Document | None:
    if not terminal or size is None or 0 in size:
        return None
    return {"width": size[0], "height": size[1]}


def _absolute(flag: str, path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise InputError(f"{flag} {path}: must be an absolute path")
    return path
