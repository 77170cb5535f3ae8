"""What a Create request must satisfy, and what becomes of it: a record, and the container's config.json.

Rules:
1. Everything that can be refused is refused here, before anything has happened.
2. The client's description is kept as it is but for what is leafd's to say: the container's cgroup, the root directory
   where the request names one, and, on the host's files, an empty directory over leafd's own.
"""

import json
import os
import signal
from time import time_ns

from leafd.config import Config
from leafd.launch import Environment
from leafd.nesting import Parent, nest
from leafd.restarts import check_policy
from leafd.store import Record
from leafshim import policy, spec
from leafshim.api.containers import CreateRequest
from leafshim.cgroup.layout import check_id
from leafshim.errors import InputError

_STOP_SIGNAL = "org.opencontainers.image.stopSignal"
"""The OCI image specification's name for it, in the annotations (conversion.md, Config.StopSignal)."""


def admit(request: CreateRequest, environment: Environment, parent: Parent | None = None) -> tuple[Record, bytes]:
    """The record of the new container, which is to be nested in `parent`, and its config.json.

    Raises InputError; StateError for what does not fit the family as it is now.
    """
    container_id = check_id(request.id)
    nested = nest(request, parent)
    checked = spec.load(nested.spec)
    cgroup = environment.layout.container(container_id)
    if parent is not None:  # which may be there since before the layout was another
        cgroup = environment.layout.below(parent.record.cgroup, container_id)
    document = json.loads(nested.spec)
    document.setdefault("linux", {})["cgroupsPath"] = cgroup.removeprefix(environment.layout.mount)
    on_host = not request.rootfs and checked.root is None and not checked.linux.namespaces["mount"]
    if request.rootfs:
        document["root"] = {**(document.get("root") or {}), "path": _directory("rootfs", request.rootfs)}
    elif checked.root is not None:
        _directory("root.path", checked.root.path)
    elif on_host:
        document["mounts"] = [*(document.get("mounts") or []), *_masks(checked.mounts, environment.config)]
    record = Record(
        id=container_id,
        boot_id=environment.boot_id,
        cgroup=cgroup,
        created_at=time_ns(),
        args=list(checked.process.args),
        terminal=checked.process.terminal,
        labels=dict(request.labels),
        restart=check_policy(request.restart),
        remove=request.remove,
        start=request.start,
        stdin=request.stdin,
        timeout=request.timeout,
        policy=_policy(request),
        overlay_size=(request.overlay_size or environment.config.overlay_size) if on_host else 0,
        stop_signal=_signal(checked.annotations.get(_STOP_SIGNAL, "SIGTERM")),
        # Its shim counts on where the journal's memory of an earlier container of that name ends, if it has any.
        sequence=environment.journal.told(container_id),
        container_class=nested.container_class,
        shared_cgroup=nested.shared_cgroup,
        parent_start_time=nested.parent_start_time,
    )
    return record, json.dumps(document).encode()


def _policy(request: CreateRequest) -> bytes:
    if request.policy is None:
        return b""
    policy.check(request.policy)
    return request.policy.encode()


def _directory(name: str, path: str) -> str:
    if not os.path.isabs(path):
        raise InputError(f"{name}: {path}: must be absolute")
    if not os.path.isdir(path):
        raise InputError(f"{name}: {path}: is no directory")
    return path


def _masks(mounts: tuple[spec.Mount, ...], config: Config) -> list[dict[str, object]]:
    """Mounts that hide leafd's own directories from a container on the host's files.

    An overlay shows the lower root's files as they are, so without them a workload could read the descriptions and the
    logs of all others. What a mount of the description hides already is left to it.
    """
    hidden = [mount.destination for mount in mounts if mount.type == "tmpfs"]
    return [
        {
            "destination": path,
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["ro", "nosuid", "nodev", "noexec", "mode=0700"],
        }
        for path in (config.root, config.state)
        if not any(os.path.commonpath((path, above)) == above for above in map(os.path.normpath, hidden))
    ]


def _signal(name: str) -> int:
    """A signal by name (SIGTERM, TERM) or number."""
    try:
        if name.isdecimal():
            return signal.Signals(int(name)).value
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"].value
    except (KeyError, ValueError):
        raise InputError(f"annotations.{_STOP_SIGNAL}: {name!r} is no signal") from None
