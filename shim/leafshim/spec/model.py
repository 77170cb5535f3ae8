"""What a checked config.json says. Values only: immutable, typed, with every default filled in.

Field names are the specification's, in this language's spelling (`consoleSize` → `console_size`).
"""

from typing import NamedTuple

from leafshim.spec.resources import Limits


class User(NamedTuple):
    """`umask` None: the runtime's default, 0022. Ids are 0 to 2³²-2, as the container sees them."""

    uid: int
    gid: int
    umask: int | None
    additional_gids: tuple[int, ...]


class Capabilities(NamedTuple):
    """The five sets of capabilities(7), as bit masks (bit n is capability number n)."""

    bounding: int
    effective: int
    inheritable: int
    permitted: int
    ambient: int


class Rlimit(NamedTuple):
    """`type` is the name (RLIMIT_NOFILE), `resource` its number in setrlimit(2)."""

    type: str
    resource: int
    soft: int
    hard: int


class Process(NamedTuple):
    """`console_size` is (rows, columns). `capabilities` None: the document names no set, so none is given."""

    terminal: bool
    console_size: tuple[int, int] | None
    user: User
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    capabilities: Capabilities | None
    rlimits: tuple[Rlimit, ...]
    no_new_privileges: bool
    oom_score_adj: int | None


class Root(NamedTuple):
    """`path` may be relative to the bundle."""

    path: str
    readonly: bool


class Mount(NamedTuple):
    """`type` is a file system's name, or "bind" for every bind mount however the document spelt it."""

    destination: str
    type: str
    source: str
    options: tuple[str, ...]


class IdMapping(NamedTuple):
    """`size` ids from `container_id` on are `host_id` and following outside (user_namespaces(7))."""

    container_id: int
    host_id: int
    size: int


class Device(NamedTuple):
    """A device node: `type` is "c", "b" or "p"; `mode` the permission bits."""

    path: str
    type: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


class DeviceRule(NamedTuple):
    """`major` and `minor` None: any. `access` is a set of the letters r, w, m."""

    allow: bool
    type: str
    major: int | None
    minor: int | None
    access: str


class Resources(NamedTuple):
    """Limits, for the cgroup controllers to apply."""

    devices: tuple[DeviceRule, ...]
    limits: Limits = Limits()


class Linux(NamedTuple):
    """`namespaces` maps a type ("pid", "network", …) to the path of one to join, or to "" for a new one.

    `sysctl` maps a path below /proc/sys to its value.
    """

    namespaces: dict[str, str]
    uid_mappings: tuple[IdMapping, ...]
    gid_mappings: tuple[IdMapping, ...]
    devices: tuple[Device, ...]
    cgroups_path: str
    masked_paths: tuple[str, ...]
    readonly_paths: tuple[str, ...]
    rootfs_propagation: str
    sysctl: dict[str, str]
    resources: Resources


class Spec(NamedTuple):
    """A whole config.json. `root` None: the caller brings the root file system."""

    oci_version: str
    process: Process
    root: Root | None
    hostname: str
    domainname: str
    mounts: tuple[Mount, ...]
    annotations: dict[str, str]
    linux: Linux
