"""The plan of a launch: which steps, in which order, and what is refused before anything happens."""

import json
from typing import Any

import pytest

from leafshim.api import task
from leafshim.errors import InputError, LeafError, Unsupported
from leafshim.kernel import mounts
from leafshim.launch import plan_init
from leafshim.launch.mounts import attributes
from leafshim.spec import load

Document = dict[str, Any]


def document() -> Document:
    return {
        "ociVersion": "1.2.0",
        "process": {"args": ["app"], "cwd": "/srv", "user": {"uid": 1, "gid": 2}, "oomScoreAdj": 100},
        "hostname": "web",
        "mounts": [
            {"destination": "/proc", "type": "proc"},
            {"destination": "/data", "source": "/srv/data", "options": ["rbind", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "cgroup"}, {"type": "network", "path": "/n"}],
            "maskedPaths": ["/proc/keys"],
            "readonlyPaths": ["/proc/sys"],
        },
    }


def described(document: Document, *mounts_of_root: task.Mount) -> list[str]:
    spec = load(json.dumps(document).encode())
    return plan_init(spec, mounts_of_root, "/bundle/rootfs").describe().splitlines()


HOST = task.Mount(type="host-overlay", source="/", options=["size=4096"])


def test_the_order_of_an_init() -> None:
    steps = described(document(), HOST)
    assert [step for step in steps if not step.startswith(("link", "make device"))] == [
        "clone with new namespaces: uts, mount",
        "set oom_score_adj 100",
        "open network namespace /n",
        "join network namespace /n",
        "unshare cgroup namespace",
        "open /srv/data with all mounts below it",
        "make slave /",
        "open /bundle/rootfs",
        "set host name web",
        "mount overlay /bundle/rootfs over /, changes on a tmpfs of 4096 bytes",
        "mount /proc proc",
        "bind /data from /srv/data",
        "mask /proc/keys",
        "make read-only /proc/sys",
        "pivot_root",
        "chdir /srv",
        "set user 1:2 groups none, capabilities 0x0 of 0x0",
        "wait for the release",
        "exec app",
    ]


def test_the_order_of_an_init_in_somebody_elses_mounts() -> None:
    joins = document()
    for field in ("mounts", "hostname"):
        del joins[field]
    joins["linux"] = {
        "namespaces": [
            *({"type": kind, "path": f"/proc/7/ns/{kind}"} for kind in ("mount", "user", "pid")),
            {"type": "network", "path": "/proc/7/ns/net"},
            {"type": "ipc"},
            {"type": "cgroup"},
        ]
    }
    assert described(joins) == [
        "clone with new namespaces: ipc",
        "set oom_score_adj 100",
        "open user namespace /proc/7/ns/user",
        "open network namespace /proc/7/ns/net",
        "open mount namespace /proc/7/ns/mount",
        "join network namespace /proc/7/ns/net",
        "unshare cgroup namespace",
        "join user namespace /proc/7/ns/user",
        "join mount namespace /proc/7/ns/mount",
        "become root of the user namespace",
        "chdir /srv",
        "set user 1:2 groups none, capabilities 0x0 of 0x0",
        "wait for the release",
        "exec app",
    ]


def test_devices_are_made_unless_dev_is_a_volume() -> None:
    with_devices = document()
    with_devices["linux"]["devices"] = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]
    made = [step for step in described(with_devices, HOST) if step.startswith("make device")]
    assert [step.split()[2] for step in made] == [
        "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/fuse",
    ]  # fmt: skip
    with_devices["mounts"].append({"destination": "/dev", "source": "/dev", "options": ["rbind"]})
    assert [step for step in described(with_devices, HOST) if step.startswith("make device")] == [
        "make device /dev/fuse c 10:229 0666"
    ]


def test_a_user_namespace_waits_for_its_maps_before_it_becomes_root() -> None:
    mapped = document()
    mapped["root"] = {"path": "rootfs"}
    mapped["linux"]["namespaces"] = [{"type": "mount"}, {"type": "uts"}, {"type": "user"}]
    mapped["linux"]["uidMappings"] = mapped["linux"]["gidMappings"] = [
        {"containerID": 0, "hostID": 1000, "size": 1},
        {"containerID": 1, "hostID": 5000, "size": 9},
    ]
    steps = described(mapped)
    order = ["wait for id maps", "open /bundle/rootfs", "become root of the user namespace", "bind root /bundle/rootfs"]
    assert [step for step in steps if step in order] == order
    assert "bind device /dev/null" in steps
    plan = plan_init(load(json.dumps(mapped).encode()), (), "/bundle/rootfs")
    assert plan.maps == ("0 1000 1\n1 5000 9\n",) * 2


@pytest.mark.parametrize(
    ("mounts_of_root", "error", "message"),
    [
        ([], InputError, "root: is required where the caller brings no root file system"),
        ([HOST, HOST], InputError, "rootfs[1]: more than one mount is not supported yet"),
        ([task.Mount(type="bind", source="/x", target="sub")], InputError, "rootfs[0].target: not supported yet"),
        ([task.Mount(type="host-overlay", source="/", options=["ro"])], InputError,
         "rootfs[0].options: ro: a host-overlay takes size=BYTES only"),
        ([task.Mount(type="host-overlay", source="/a:b")], InputError,
         "rootfs[0].source: must be an absolute path without : and \\"),
        ([task.Mount(type="ext4", source="/dev/x", options=["idmap"])], Unsupported,
         "mount option idmap: not supported yet"),
    ],
)  # fmt: skip
def test_a_root_file_system_that_cannot_be(
    mounts_of_root: list[task.Mount], error: type[LeafError], message: str
) -> None:
    with pytest.raises(error) as caught:
        described(document(), *mounts_of_root)
    assert str(caught.value) == message


R, S = mounts.MOUNT_ATTR_RDONLY, mounts.MOUNT_ATTR_NOSUID


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (0, 0)),
        (["ro", "nosuid", "rbind"], (R | S, 0)),
        (["ro", "rw"], (0, R)),
        (["suid", "nosuid"], (S, 0)),
        (["noatime"], (mounts.MOUNT_ATTR_NOATIME, mounts.MOUNT_ATTR_ATIME)),
        (["noatime", "strictatime"], (mounts.MOUNT_ATTR_STRICTATIME, mounts.MOUNT_ATTR_ATIME)),
        (["noatime", "relatime"], (0, mounts.MOUNT_ATTR_ATIME)),
    ],
)
def test_attributes_of_a_bind_mount(words: list[str], expected: tuple[int, int]) -> None:
    assert attributes(words) == expected
