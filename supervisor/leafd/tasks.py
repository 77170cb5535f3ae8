"""What goes to a container's shim itself, whether or not leafd answers: other limits, and figures.

(Attach and exec, which are sessions, are in `leafd.session`.)
"""

import json

from leafd.session import connect, locate
from leafshim.api import task, wellknown
from leafshim.api.metrics import Metrics
from leafshim.errors import ProtocolError

_RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
_UPDATE_TIMEOUT = 300.0  # s; reclaiming writes to disks
_STATS_TIMEOUT = 2.0


def update(socket: str, container_id: str, resources: dict[str, object], *, kill: bool = False) -> None:
    """Change limits (linux.resources) of a container of the leafd at `socket`, all or none of them.

    `kill`: where memory cannot be reclaimed for a lower limit, the OOM killer makes room; without it that is
    StateError. Raises NotFound, InputError, Unsupported.
    """
    request = task.UpdateTaskRequest(
        id=container_id,
        resources=wellknown.Any(type_url=_RESOURCES, value=json.dumps(resources).encode()),
        annotations={"leafd.memory-shrink": "kill"} if kill else {},
    )
    with connect(locate(socket, container_id).shim_socket) as client:
        client.call(task.V3.update, request, timeout=_UPDATE_TIMEOUT)


def stats(shim_socket: str, container_id: str) -> Metrics:
    """The figures of a container, from its shim. Raises NotFound, Unavailable, DeadlineExceeded."""
    with connect(shim_socket) as client:
        answer = client.call(task.V3.stats, task.StatsRequest(id=container_id), timeout=_STATS_TIMEOUT)
    if answer.stats is None:
        raise ProtocolError(f"{container_id}: stats without figures")
    return answer.stats.unpack(Metrics)
