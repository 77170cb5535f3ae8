"""What goes to a container's shim itself, whether or not leafd answers: other limits.

(Attach and exec, which are sessions, are in `leafd.session`; figures need no shim, see `leafd.usage`.)
"""

import json

from leafd.session import connect, locate
from leafshim.api import task, wellknown

_RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
_UPDATE_TIMEOUT = 300.0  # s; reclaiming writes to disks


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
