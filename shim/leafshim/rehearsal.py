"""Going through a launch without making anything.

The nursery does it before it forks the zygote: what is imported, compiled or looked up on the way is then there for all
shims. A worker that waits for its container does it too: the pages that the launch will write are its own by then.
"""

import json

from leafshim.api.task import Mount
from leafshim.cgroup.hierarchy import find_mount
from leafshim.launch.plan import plan_init
from leafshim.spec import load

_NAMESPACES = [{"type": name} for name in ("pid", "ipc", "uts", "mount", "cgroup")]
_PROCESS = {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "terminal": False}
_LINUX = {"namespaces": _NAMESPACES, "cgroupsPath": "/x", "maskedPaths": ["/proc/kcore"]}
_DOCUMENT = json.dumps({"ociVersion": "1.2.0", "process": _PROCESS, "linux": _LINUX}).encode()


def rehearse() -> None:
    """Read a description and plan its launch. Raises what that raises on a host where nothing could be launched."""
    plan_init(load(_DOCUMENT), [Mount(type="host-overlay", source="/")], "/")
    find_mount()
