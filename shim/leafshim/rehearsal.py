"""Going through a launch without making anything.

The nursery does it before it forks the zygote: what is imported, compiled or looked up on the way is then there for all
shims. A worker that waits for its container does it too: the pages that the launch will write are its own by then.
"""

import json

from leafshim.api.shim import CreateOptions
from leafshim.api.task import CreateTaskRequest, Mount
from leafshim.api.wellknown import Any
from leafshim.cgroup.device_rules import of_rules
from leafshim.cgroup.devices import compile_access
from leafshim.cgroup.hierarchy import find_mount
from leafshim.errors import LeafError
from leafshim.launch.plan import plan_init
from leafshim.spec import load

# What engines usually ask for, so that the usual way is gone.
_SETS = ("bounding", "effective", "permitted")
_CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"]
_MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["relatime", "ro"]},
]
_DOCUMENT = {
    "ociVersion": "1.2.0",
    "process": {
        "args": ["true"],
        "env": ["PATH=/usr/bin:/bin"],
        "cwd": "/",
        "user": {"uid": 0, "gid": 0},
        "terminal": False,
        "capabilities": dict.fromkeys(_SETS, _CAPABILITIES),
    },
    "mounts": _MOUNTS,
    "linux": {
        "namespaces": [{"type": name} for name in ("pid", "ipc", "uts", "mount", "cgroup")],
        "cgroupsPath": "/x",
        "maskedPaths": ["/proc/kcore", "/sys/firmware"],
        "readonlyPaths": ["/proc/sys"],
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
    },
}
_CONFIG = json.dumps(_DOCUMENT).encode()
_OVERLAY = Mount(type="host-overlay", source="/", options=["size=1048576"])
_REQUEST = CreateTaskRequest(id="x", bundle="/x", rootfs=[_OVERLAY], stdout="log:", options=Any.pack(CreateOptions()))


def rehearse() -> None:
    """Read a request and a description, and plan the launch. Where that fails, a real launch will tell why."""
    try:
        request = CreateTaskRequest.decode(_REQUEST.encode())
        spec = load(_CONFIG)
        plan_init(spec, request.rootfs, "/")
        compile_access(of_rules(spec.linux.resources.devices))
        find_mount()
    except LeafError:
        return
