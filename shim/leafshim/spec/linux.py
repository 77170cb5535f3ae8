"""The `linux` object: namespaces, ids, devices, paths, sysctls and resources."""

from leafshim.cgroup import device_rules
from leafshim.errors import InputError
from leafshim.spec.fields import Fields, relative
from leafshim.spec.model import Device, DeviceRule, IdMapping, Linux, Resources
from leafshim.spec.process import MAX_ID
from leafshim.spec.resources import limits

NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")

PROPAGATIONS = ("private", "rprivate", "slave", "rslave", "unbindable", "runbindable")
"""Not shared and rshared: they would carry the container's own mounts out to the host."""


def linux(fields: Fields) -> Linux:
    """Reads and ends a `linux` object. InputError."""
    result = Linux(
        namespaces=_namespaces(fields),
        uid_mappings=_mappings(fields, "uidMappings"),
        gid_mappings=_mappings(fields, "gidMappings"),
        devices=tuple(_device(item) for item in fields.objects("devices")),
        cgroups_path=_cgroups_path(fields),
        masked_paths=fields.paths("maskedPaths"),
        readonly_paths=fields.paths("readonlyPaths"),
        rootfs_propagation=fields.string("rootfsPropagation", ""),
        sysctl={_sysctl_path(name): value for name, value in fields.string_map("sysctl").items()},
        resources=resources(fields.object("resources", {})),
    )
    if result.rootfs_propagation and result.rootfs_propagation not in PROPAGATIONS:
        raise InputError(f"{fields.at('rootfsPropagation')}: {result.rootfs_propagation}: not supported yet")
    fields.end()
    return result


def _namespaces(fields: Fields) -> dict[str, str]:
    namespaces: dict[str, str] = {}
    for item in fields.objects("namespaces"):
        kind, path = item.string("type"), item.string("path", "")
        if kind not in NAMESPACES:
            raise InputError(f"{item.at('type')}: no such namespace: {kind}")
        if kind in namespaces:
            raise InputError(f"{item.at('type')}: {kind} is there twice")
        if path and not path.startswith("/"):
            raise relative(item.at("path"))
        namespaces[kind] = path
        item.end()
    return namespaces


def _mappings(fields: Fields, name: str) -> tuple[IdMapping, ...]:
    mappings = []
    for item in fields.objects(name):
        mapping = IdMapping(
            item.integer("containerID", 0, MAX_ID), item.integer("hostID", 0, MAX_ID), item.integer("size", 1, MAX_ID)
        )
        if max(mapping.container_id, mapping.host_id) + mapping.size > MAX_ID + 1:
            raise InputError(f"{item.at('size')}: reaches beyond the last id")
        mappings.append(mapping)
        item.end()
    return tuple(mappings)


def _device(fields: Fields) -> Device:
    kind = fields.string("type")
    # "u" is an unbuffered character device, which Linux does not tell from a character device (mknod(1)).
    if kind not in ("c", "u", "b", "p"):
        raise InputError(f"{fields.at('type')}: must be c, u, b or p")
    has_number = {"default": 0} if kind == "p" else {}
    device = Device(
        path=fields.absolute("path"),
        type="c" if kind == "u" else kind,
        major=fields.integer("major", 0, 2**12 - 1, **has_number),
        minor=fields.integer("minor", 0, 2**20 - 1, **has_number),
        # The specification writes st_mode's value; engines also send its file type bits, which `type` says already.
        mode=fields.integer("fileMode", 0, 0o177777, default=0o666) & 0o7777,
        uid=fields.integer("uid", 0, MAX_ID, default=0),
        gid=fields.integer("gid", 0, MAX_ID, default=0),
    )
    fields.end()
    return device


def _cgroups_path(fields: Fields) -> str:
    path = fields.string("cgroupsPath", "")
    if ".." in path.split("/"):
        raise InputError(f"{fields.at('cgroupsPath')}: must not contain ..")
    if any(ord(character) < 32 for character in path):
        raise InputError(f"{fields.at('cgroupsPath')}: must not contain control characters")
    return path


def _sysctl_path(name: str) -> str:
    # As in sysctl.d(5): whichever of "." and "/" comes first separates, the other is part of a name ("eth0.1").
    first = next((character for character in name if character in "./"), "/")
    path = name if first == "/" else name.translate({ord("."): "/", ord("/"): "."})
    if not all(part not in ("", ".", "..") for part in path.split("/")):
        raise InputError(f"linux.sysctl: malformed name: {name}")
    return path


def resources(fields: Fields) -> Resources:
    """Reads and ends a `resources` object. InputError."""
    asked = limits(fields)
    rules = tuple(_device_rule(item) for item in fields.objects("devices"))
    device_rules.of_rules(rules)  # refuses what cannot be in force together
    fields.end()
    return Resources(devices=rules, limits=asked)


def _device_rule(fields: Fields) -> DeviceRule:
    rule = DeviceRule(
        allow=fields.boolean("allow"),
        type=fields.string("type", "a"),
        major=fields.optional_integer("major", -1, 2**12 - 1),
        minor=fields.optional_integer("minor", -1, 2**20 - 1),
        access=fields.string("access", "rwm"),
    )
    if rule.type not in ("a", "b", "c"):
        raise InputError(f"{fields.at('type')}: must be a, b or c")
    if not rule.access or not set(rule.access) <= set("rwm"):
        raise InputError(f"{fields.at('access')}: must be letters of rwm")
    fields.end()
    return rule._replace(major=None if rule.major == -1 else rule.major, minor=None if rule.minor == -1 else rule.minor)
