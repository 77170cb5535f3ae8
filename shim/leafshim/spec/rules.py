"""What takes two fields to judge. Each rule keeps the container from reaching what is the host's."""

from leafshim.errors import InputError
from leafshim.spec.model import IdMapping, Linux, Process, Spec

_NAMESPACE_OF_SYSCTL = {
    "net": "network",
    "fs/mqueue": "ipc",
    "kernel/msgmax": "ipc",
    "kernel/msgmnb": "ipc",
    "kernel/msgmni": "ipc",
    "kernel/sem": "ipc",
    "kernel/shmall": "ipc",
    "kernel/shmmax": "ipc",
    "kernel/shmmni": "ipc",
    "kernel/shm_rmid_forced": "ipc",
    "kernel/domainname": "uts",
    "kernel/hostname": "uts",
}
"""What below /proc/sys is per namespace (the kernel's Documentation/admin-guide/sysctl); all else is the host's."""


def check(spec: Spec) -> None:
    """InputError for the first rule that the document breaks."""
    namespaces = spec.linux.namespaces
    if "mount" not in namespaces:
        raise InputError("linux.namespaces: must have a new mount namespace, or join a container's")
    if namespaces["mount"]:
        _check_joined_mounts(spec)
    for field, value in (("hostname", spec.hostname), ("domainname", spec.domainname)):
        if value and namespaces.get("uts") != "":
            raise InputError(f"{field}: needs a new uts namespace")
        if len(value.encode()) > 64:
            raise InputError(f"{field}: must be at most 64 bytes")
    for index, mount in enumerate(spec.mounts):
        # Without one, the mount would show the whole host's tree.
        if mount.type in ("cgroup", "cgroup2") and namespaces.get("cgroup") != "":
            raise InputError(f"mounts[{index}]: needs a new cgroup namespace")
    _check_user_namespace(spec.linux)
    _check_sysctls(spec.linux)
    check_process(spec, spec.process)


def check_process(spec: Spec, process: Process) -> None:
    """InputError when this process cannot run in a container of this spec. For an exec; `check` does it for init."""
    for field, ids, mappings in (
        ("uid", (process.user.uid,), spec.linux.uid_mappings),
        ("gid", (process.user.gid,), spec.linux.gid_mappings),
        ("additionalGids", process.user.additional_gids, spec.linux.gid_mappings),
    ):
        for number in ids:
            if mappings and not _maps(mappings, number):
                raise InputError(f"process.user.{field}: {number} is not mapped in the user namespace")
    if (
        process.terminal
        and not spec.linux.namespaces.get("mount")
        and not any(mount.type == "devpts" and mount.destination.rstrip("/") == "/dev/pts" for mount in spec.mounts)
    ):
        raise InputError("process.terminal: needs a devpts mount at /dev/pts")


def _maps(mappings: tuple[IdMapping, ...], number: int) -> bool:
    return any(mapping.container_id <= number < mapping.container_id + mapping.size for mapping in mappings)


def _check_joined_mounts(spec: Spec) -> None:
    """Whose mounts they are, they stay as they are."""
    linux = spec.linux
    for field, value in (
        ("root", spec.root),
        ("mounts", spec.mounts),
        ("linux.devices", linux.devices),
        ("linux.maskedPaths", linux.masked_paths),
        ("linux.readonlyPaths", linux.readonly_paths),
        ("linux.rootfsPropagation", linux.rootfs_propagation),
    ):
        if value:
            raise InputError(f"{field}: needs a new mount namespace")
    if not linux.namespaces.get("pid"):
        # /proc among those mounts shows its own pid namespace, and a process from outside has no /proc/self there.
        raise InputError("linux.namespaces: who joins a mount namespace must join its pid namespace")


def _check_user_namespace(linux: Linux) -> None:
    path = linux.namespaces.get("user")
    if path and not linux.namespaces.get("mount"):
        raise InputError("linux.namespaces: who joins a user namespace must join its mount namespace")
    for field, mappings in (("uidMappings", linux.uid_mappings), ("gidMappings", linux.gid_mappings)):
        if path is None and mappings:
            raise InputError(f"linux.{field}: needs a new user namespace")
        # The set-up itself runs as the container's root: an unmapped one could create no file.
        if path == "" and not _maps(mappings, 0):
            raise InputError(f"linux.{field}: must map the container's id 0")


def _check_sysctls(linux: Linux) -> None:
    for path in linux.sysctl:
        namespace = next((of for tree, of in _NAMESPACE_OF_SYSCTL.items() if f"{path}/".startswith(f"{tree}/")), None)
        if namespace is None:
            raise InputError(f"linux.sysctl: {path} is the whole host's, not a namespace's")
        if linux.namespaces.get(namespace) != "":
            raise InputError(f"linux.sysctl: {path} needs a new {namespace} namespace")
