"""What a nested container takes from the one around it, and what it may not ask for. The rules are Mesos's.

1. A container that is nested in none shares no cgroups. One that is nested shares those of its parent, unless it says
   otherwise, which it may on the first level only. Those that live side by side in one parent say the same; a debug
   container is none of them, and always shares.
2. Who shares cgroups has no limits of its own.
3. Who does not say who it runs as runs as its parent does, with the same capabilities.
4. A shared namespace is named by its path, /proc/PID/ns/TYPE, and proven by when that process began. What the parent
   has of the host's is the host's for those nested in it too.
5. A debug container is one more process of its parent's in all but that it has a shim, cgroups and a name: environment,
   working directory, user and namespaces are its parent's where it does not say otherwise. It does not outlive leafd.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from leafd.describe import Document, parse
from leafd.describe_nested import DEBUG, SHARED
from leafd.restarts import NO
from leafd.store import Record
from leafshim import spec
from leafshim.api.containers import CreateRequest
from leafshim.bundle import Bundle
from leafshim.checkpoint import Checkpoint
from leafshim.errors import InputError, LeafError, StateError
from leafshim.kernel.namespaces import PROC_NAME

CLASSES = ("", DEBUG)


class Parent(NamedTuple):
    """The container that a new one is to be nested in. `siblings`: those that live in it already."""

    record: Record
    bundle: Bundle
    siblings: Sequence[Record]

    def config(self) -> Document:
        """Its description. Raises StateError."""
        try:
            with open(self.bundle.config, "rb") as file:
                return parse(file.read(), self.bundle.config)
        except (OSError, LeafError) as error:
            raise StateError(f"{self.record.id}: its description cannot be read: {error}") from error

    def began(self) -> int:
        """When its init began, in clock ticks after this boot. Raises StateError."""
        try:
            known = Checkpoint.read(self.bundle.checkpoint)
        except LeafError as error:
            raise StateError(f"{self.record.id}: its init is not known: {error}") from error
        if (known.boot_id, known.pid) != (self.record.boot_id, self.record.pid) or not known.pid_start_time:
            raise StateError(f"{self.record.id}: its init is not known")
        return known.pid_start_time


class Nest(NamedTuple):
    """What comes of a request. `spec`: the description, complete. The others: as in the record."""

    spec: bytes
    shared_cgroup: str = ""
    container_class: str = ""
    parent_start_time: int = 0


def nest(request: CreateRequest, parent: Parent | None) -> Nest:
    """Apply the rules. Raises InputError; StateError for what does not fit the family as it is now."""
    if request.container_class not in CLASSES:
        raise InputError(f"class: {request.container_class!r}: must be {DEBUG}, or empty")
    if parent is None:
        _refuse_without_parent(request)
        return Nest(request.spec)
    debug = request.container_class == DEBUG
    if debug and request.restart not in ("", NO):
        raise InputError(f"restart: {request.id}: a debug container is not started again")
    kinds = _kinds(request, debug=debug)
    shares = _shares_cgroups(request, parent, debug=debug)
    document = parse(request.spec, "spec")
    process, linux = document.get("process"), document.setdefault("linux", {})
    if not isinstance(process, dict) or not isinstance(linux, dict):
        return Nest(request.spec)  # which loading refuses
    around = parent.config() if kinds or "user" not in process else {}
    if debug:
        document["process"] = _inherit(process, _object(around, "process"), _ALL)
    elif "user" not in process:
        document["process"] = _inherit(process, _object(around, "process"), _USER)
    if kinds:
        document["linux"] = linux = _join(linux, _object(around, "linux"), parent.record, kinds)
    if shares:
        document["linux"] = _without_limits(linux, request.id, parent.record.id)
    return Nest(
        json.dumps(document).encode(),
        (parent.record.shared_cgroup or parent.record.cgroup) if shares else "",
        request.container_class,
        parent.began() if kinds else 0,
    )


def _refuse_without_parent(request: CreateRequest) -> None:
    if request.share_cgroups:
        raise InputError(f"share_cgroups: {request.id}: is nested in no container")
    if request.share:
        raise InputError(f"share: {request.id}: is nested in no container")
    if request.container_class:
        raise InputError(f"class: {request.id}: a {request.container_class} container must be nested in another")


def _shares_cgroups(request: CreateRequest, parent: Parent, *, debug: bool) -> bool:
    shares = request.share_cgroups is not False
    if not shares and debug:
        raise InputError(f"share_cgroups: {request.id}: a debug container shares the cgroups of its parent")
    if not shares and "/" in parent.record.id:
        raise InputError(f"share_cgroups: {request.id}: below the first nested level cgroups are always shared")
    for other in parent.siblings:
        if not debug and other.container_class != DEBUG and bool(other.shared_cgroup) != shares:
            raise StateError(f"share_cgroups: {request.id}: {other.id}, which lives beside it, has the other value")
    return shares


def _kinds(request: CreateRequest, *, debug: bool) -> frozenset[str]:
    """The namespaces to share, by their OCI names."""
    for name in request.share:
        if name not in SHARED:
            raise InputError(f"share: {name!r}: must be of {', '.join(SHARED)}")
    shared = set(SHARED) if debug else set(request.share)
    if "mnt" in shared and "pid" not in shared:
        raise InputError(f"share: {request.id}: who shares mnt must share pid, as its /proc is among the mounts")
    if "mnt" in shared and request.rootfs:
        raise InputError(f"rootfs: {request.id}: does not go with the mounts of its parent")
    return frozenset(SHARED[name] for name in shared)


class _Inherited(NamedTuple):
    """Which fields of `process`, and which variables of its environment; None: all but what an exec has of its own."""

    fields: Collection[str] | None
    variables: Collection[str] | None


_ALL = _Inherited(None, None)
_USER = _Inherited(("user", "capabilities"), ("HOME",))
_OWN = ("args", "terminal", "consoleSize", "env")


def _inherit(process: Document, parents: Document, what: _Inherited) -> Document:
    """`process`, with what it does not say taken from its parent's."""
    inherited = {key: value for key, value in parents.items() if key not in _OWN and _in(key, what.fields)}
    own = _list(process, "env")
    known = {_name(variable) for variable in own}
    theirs = [each for each in _list(parents, "env") if _name(each) not in known and _in(_name(each), what.variables)]
    return {**inherited, **process, "env": theirs + own}


def _in(name: str, names: Collection[str] | None) -> bool:
    return names is None or name in names


def _name(variable: object) -> str:
    return str(variable).partition("=")[0]


def _join(linux: Document, around: Document, parent: Record, kinds: Collection[str]) -> Document:
    """`linux` with the parent's namespaces of these kinds in place of its own; `around` is the parent's `linux`."""
    theirs = {each.get("type") for each in _list(around, "namespaces") if isinstance(each, dict)}
    joined = [kind for kind in PROC_NAME if kind in theirs and kind in kinds]
    result = dict(linux)
    if "user" in theirs:
        # Its other namespaces belong to its user namespace, and so do the ids that its files have.
        if "mount" not in kinds:
            raise InputError(f"share: {parent.id} has a user namespace: share mnt and pid with it, or nothing")
        joined.append("user")
        result |= {field: around.get(field) for field in ("uidMappings", "gidMappings")}
    replaced = {*kinds, *joined}
    own = [each for each in _list(linux, "namespaces") if not (isinstance(each, dict) and each.get("type") in replaced)]
    result["namespaces"] = own + [{"type": kind, "path": f"/proc/{parent.pid}/ns/{PROC_NAME[kind]}"} for kind in joined]
    return result


def _without_limits(linux: Document, container_id: str, parent_id: str) -> Document:
    """`linux` without resources, of which there may be none but the denial of devices that everybody has."""
    resources = _object(linux, "resources")
    granted = [rule for rule in _list(resources, "devices") if not isinstance(rule, dict) or rule.get("allow")]
    rest = {**resources, "devices": granted}
    if spec.load_resources(json.dumps(rest).encode()) != spec.Resources(()):
        raise InputError(
            f"linux.resources: {container_id} shares the cgroups of {parent_id}, and so has no limits of its own"
        )
    return {key: value for key, value in linux.items() if key != "resources"}


def _object(document: Mapping[str, object], field: str) -> Document:
    """The object in that field; an empty one where there is none."""
    value = document.get(field)
    return value if isinstance(value, dict) else {}


def _list(document: Mapping[str, object], field: str) -> list[object]:
    value = document.get(field)
    return value if isinstance(value, list) else []
