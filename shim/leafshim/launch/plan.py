"""The order of the steps, and every refusal that needs no kernel.

The order of an init, and why: the process's own records (OOM score) while /proc is the host's; namespaces; what is read
from the host's paths (sources of bind mounts, the root directory) before anything hides them; the root file system and
the mounts in it; what hides or protects parts of those; pivot_root, after which the host's files are gone; then what
the process is and may do. An exec joins the finished container, and starts at what the process is.
"""

import os
from collections.abc import Iterator, Sequence

from leafshim.api import task
from leafshim.errors import InputError, Unsupported
from leafshim.kernel import mounts
from leafshim.kernel.namespaces import CLONE_NEWCGROUP, CLONE_NEWPID, FLAG
from leafshim.launch import devices, identity, namespaces, protection, rootfs, terminal
from leafshim.launch.mounts import AttachTree, MountFilesystem, OpenSource
from leafshim.launch.operation import Operation
from leafshim.launch.program import Program
from leafshim.spec import IdMapping, Process, Spec
from leafshim.spec.rules import check_process

HOST_OVERLAY = "host-overlay"
"""The type of a root file system that is the host's own files, with the changes on a tmpfs."""


class Plan:
    """All that a launch will do.

    `clone_flags`: the new namespaces, CLONE_NEW*. `pid_namespace`: one to join, a path or the pidfd of a process in it.
    `parent_started`: as for `plan_init`. `maps`: uid_map and gid_map for a new user namespace. `init_pidfd`: for an
    exec, whose container it enters.
    """

    __slots__ = (
        "clone_flags",
        "init_pidfd",
        "maps",
        "operations",
        "parent_started",
        "pid_namespace",
        "program",
        "terminal",
    )

    def __init__(
        self,
        process: Process,
        operations: Sequence[Operation],
        *,
        clone_flags: int = 0,
        pid_namespace: str | int | None = None,
        parent_started: int = 0,
        maps: tuple[str, str] | None = None,
        init_pidfd: int | None = None,
    ) -> None:
        self.clone_flags = clone_flags
        self.pid_namespace = pid_namespace
        self.parent_started = parent_started
        self.maps = maps
        self.init_pidfd = init_pidfd
        self.operations = tuple(operations)
        self.program = Program(process)
        self.terminal = process.terminal

    def describe(self) -> str:
        """The plan for a person, one step a line."""
        new = ", ".join(kind for kind, flag in FLAG.items() if flag & self.clone_flags) or "none"
        steps = (operation.describe() for operation in self.operations)
        last = ("wait for the release", f"exec {self.program.name}")
        return "\n".join((f"clone with new namespaces: {new}", *steps, *last))


def plan_init(spec: Spec, mounts_of_root: Sequence[task.Mount], bundle_rootfs: str, *, parent_started: int = 0) -> Plan:
    """The plan of a container's first process.

    `mounts_of_root`: what to mount on `bundle_rootfs`, an existing directory, as the root file system; where empty, the
    spec's root.path is the root, relative to the directory that holds `bundle_rootfs`. A container that joins a mount
    namespace has the root of that. `parent_started`: when the process of all /proc/PID/ns paths began, in clock ticks
    after boot; 0: they are taken as they come. Raises InputError, Unsupported.
    """
    kinds = spec.linux.namespaces
    new = {kind for kind, path in kinds.items() if not path}
    joined = [kind for kind in FLAG if kinds.get(kind) and kind != "pid"]
    user = "user" in new
    _check_capabilities(spec.process, user_namespace="user" in kinds)
    inside = _in_joined_root(spec) if "mount" in joined else _in_new_root(spec, mounts_of_root, bundle_rootfs)
    operations = [
        *_oom_score(spec.process),
        *(namespaces.OpenNamespace(kind, kinds[kind], parent_started) for kind in joined),
        *(namespaces.Join(kind, kinds[kind]) for kind in joined if kind not in ("user", "mount")),
        *([namespaces.NewCgroupNamespace()] if "cgroup" in new else ()),
        *inside,
        *_identity(spec.process),
    ]
    return Plan(
        spec.process,
        operations,
        clone_flags=sum(FLAG[kind] for kind in new) & ~CLONE_NEWCGROUP,
        pid_namespace=kinds.get("pid") or None,
        parent_started=parent_started,
        maps=(_map(spec.linux.uid_mappings), _map(spec.linux.gid_mappings)) if user else None,
    )


def _in_new_root(spec: Spec, mounts_of_root: Sequence[task.Mount], bundle_rootfs: str) -> list[Operation]:
    user = spec.linux.namespaces.get("user") == ""
    find_root, make_root = _root_file_system(spec, mounts_of_root, bundle_rootfs)
    sources, mount_all = _mounts(spec)
    return [
        *([namespaces.WaitForMaps()] if user else ()),
        *sources,
        rootfs.LeaveHostMounts(),
        find_root,
        *([namespaces.BecomeRoot()] if user else ()),
        *_names_and_parameters(spec),
        make_root,
        *mount_all,
        *_devices(spec, user_namespace=user),
        *_open_terminal(spec.process, console=True),
        *(protection.Mask(path) for path in spec.linux.masked_paths),
        *(protection.MakeReadonly(path) for path in spec.linux.readonly_paths),
        rootfs.PivotRoot(),
        *_root_mount(spec),
    ]


def _in_joined_root(spec: Spec) -> list[Operation]:
    """Somebody else's mounts, as they are. Names and parameters come first: they need the host's /proc and rights."""
    kinds = spec.linux.namespaces
    user = "user" in kinds
    return [
        *_names_and_parameters(spec),
        *(namespaces.Join(kind, kinds[kind]) for kind in ("user", "mount") if kind in kinds),
        *([namespaces.BecomeRoot()] if user else ()),
        *_open_terminal(spec.process, console=False),
    ]


def plan_exec(spec: Spec, process: Process, init_pidfd: int) -> Plan:
    """The plan of one more process in the container that runs `spec`. `init_pidfd` stays open until spawn returned.

    Raises InputError, Unsupported.
    """
    check_process(spec, process)
    user = "user" in spec.linux.namespaces
    _check_capabilities(process, user_namespace=user)
    flags = sum(FLAG[kind] for kind in spec.linux.namespaces)
    operations = [
        *_oom_score(process),
        namespaces.JoinContainer(init_pidfd, flags & ~CLONE_NEWPID),
        *([namespaces.BecomeRoot()] if user else ()),
        *_open_terminal(process, console=False),
        *_identity(process),
    ]
    return Plan(process, operations, pid_namespace=init_pidfd if flags & CLONE_NEWPID else None, init_pidfd=init_pidfd)


def _check_capabilities(process: Process, *, user_namespace: bool) -> None:
    # A new user namespace starts with all of them, whatever its maker has.
    if process.capabilities and not user_namespace:
        missing = identity.missing_capabilities(process.capabilities)
        if missing:
            raise Unsupported(f"process.capabilities: not ours to give: {', '.join(missing)}")


def _oom_score(process: Process) -> Iterator[Operation]:
    if process.oom_score_adj is not None:
        yield identity.SetOomScore(process.oom_score_adj)
    elif identity.own_oom_score() < 0:
        # What protects the shim does not protect the container.
        yield identity.SetOomScore(0)


def _root_file_system(
    spec: Spec, mounts_of_root: Sequence[task.Mount], bundle_rootfs: str
) -> tuple[Operation, Operation]:
    if len(mounts_of_root) > 1:
        raise InputError("rootfs[1]: more than one mount is not supported yet")
    if not mounts_of_root:
        if spec.root is None:
            raise InputError("root: is required where the caller brings no root file system")
        path = os.path.join(os.path.dirname(bundle_rootfs), spec.root.path)
        return rootfs.OpenRootDirectory(path), rootfs.UseDirectory(path)
    mount = mounts_of_root[0]
    if mount.target:
        raise InputError("rootfs[0].target: not supported yet")
    if mount.type == HOST_OVERLAY:
        if "user" in spec.linux.namespaces:
            # overlayfs refuses a lower directory whose mounts a user namespace may not look under (EINVAL).
            raise Unsupported(f"rootfs[0]: {HOST_OVERLAY} with a user namespace is not supported yet")
        return rootfs.OpenRootDirectory(bundle_rootfs), _host_overlay(mount, bundle_rootfs)
    options = mounts.parse_options(mount.options)
    if mount.type == "bind" or options.flags & mounts.MS_BIND:
        readonly = mounts.MOUNT_ATTR_RDONLY if options.flags & mounts.MS_RDONLY else 0
        return rootfs.OpenRootDirectory(mount.source), rootfs.UseDirectory(mount.source, readonly)
    return (
        rootfs.OpenRootDirectory(bundle_rootfs),
        rootfs.MountRoot(mount.type, mount.source, options, bundle_rootfs),
    )


def _host_overlay(mount: task.Mount, bundle_rootfs: str) -> Operation:
    size = None
    for option in mount.options:
        name, _, value = option.partition("=")
        if name != "size" or not value.isdecimal():
            raise InputError(f"rootfs[0].options: {option}: a {HOST_OVERLAY} takes size=BYTES only")
        size = int(value)
    # ":" separates overlayfs's lower directories, and "\" escapes it.
    if not mount.source.startswith("/") or set(mount.source) & set(":\\"):
        raise InputError("rootfs[0].source: must be an absolute path without : and \\")
    return rootfs.MountOverHost(mount.source, size, bundle_rootfs)


def _mounts(spec: Spec) -> tuple[list[Operation], list[Operation]]:
    sources: list[Operation] = []
    attach: list[Operation] = []
    for mount in spec.mounts:
        if mount.type == "bind":
            source = OpenSource(mount.source, recursive="rbind" in mount.options)
            sources.append(source)
            attach.append(AttachTree(mount.destination, source, mount.options))
        else:
            fstype = "cgroup2" if mount.type == "cgroup" else mount.type
            attach.append(MountFilesystem(mount.destination, fstype, mount.source or fstype, mount.options))
    return sources, attach


def _names_and_parameters(spec: Spec) -> Iterator[Operation]:
    if spec.hostname:
        yield namespaces.SetHostName(spec.hostname)
    if spec.domainname:
        yield namespaces.SetDomainName(spec.domainname)
    if spec.linux.namespaces.get("network") == "":
        yield namespaces.StartLoopback()
    for name, value in spec.linux.sysctl.items():
        yield namespaces.SetSysctl(name, value)


def _devices(spec: Spec, *, user_namespace: bool) -> Iterator[Operation]:
    mounted = {mount.destination.rstrip("/"): mount.type for mount in spec.mounts}
    wanted = {device.path: device for device in spec.linux.devices}
    # A /dev that is the host's, or a volume, is taken as it comes.
    if mounted.get("/dev") != "bind":
        wanted = {device.path: device for device in devices.DEFAULT_DEVICES} | wanted
        if "/proc" in mounted:
            yield devices.MakeLink("/dev/fd", "/proc/self/fd")
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                yield devices.MakeLink(f"/dev/{name}", f"/proc/self/fd/{number}")
        if mounted.get("/dev/pts") == "devpts":
            yield devices.MakeLink("/dev/ptmx", "pts/ptmx")
    for device in wanted.values():
        bind = user_namespace and device.type != "p"
        yield devices.BindDevice(device) if bind else devices.MakeDevice(device)


def _open_terminal(process: Process, *, console: bool) -> Iterator[Operation]:
    if process.terminal:
        yield terminal.OpenTerminal(process.console_size)
        if console:
            yield terminal.BindConsole()


def _root_mount(spec: Spec) -> Iterator[Operation]:
    if spec.linux.rootfs_propagation:
        propagation = mounts.PROPAGATION[spec.linux.rootfs_propagation]
        yield rootfs.ChangeRootMount(f"make {spec.linux.rootfs_propagation}", propagation=propagation)
    if spec.root is not None and spec.root.readonly:
        yield rootfs.ChangeRootMount("make read-only", attributes=mounts.MOUNT_ATTR_RDONLY)


def _identity(process: Process) -> Iterator[Operation]:
    if process.terminal:
        yield terminal.TakeTerminal(process.user.uid)
    yield identity.ChangeDirectory(process.cwd)
    for limit in process.rlimits:
        yield identity.SetLimit(limit)
    yield identity.SetUser(process.user, process.capabilities)
    if process.no_new_privileges:
        yield identity.ForbidNewPrivileges()


def _map(mappings: Sequence[IdMapping]) -> str:
    return "".join(f"{item.container_id} {item.host_id} {item.size}\n" for item in mappings)
