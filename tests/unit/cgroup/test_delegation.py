"""Whose the leaf becomes: the OCI specification's rule (config-linux.md, "Cgroup ownership")."""

import json
from typing import Any

import pytest

from leafd.describe import describe
from leafshim.cgroup.delegation import owner
from leafshim.errors import InputError
from leafshim.spec import load

RW = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid"]}
MAPS = [{"containerID": 0, "hostID": 100_000, "size": 1000}, {"containerID": 5000, "hostID": 7, "size": 1}]


def document(uid: int, mounts: list[dict[str, Any]], *, maps: list[dict[str, int]] | None = None) -> dict[str, object]:
    described = describe(["true"], rootfs="/nowhere", mounts=mounts)
    described["process"]["user"] = {"uid": uid, "gid": 0}  # type: ignore[index]
    if maps is not None:
        linux: dict[str, Any] = described["linux"]  # type: ignore[assignment]
        linux["namespaces"].append({"type": "user"})
        linux |= {"uidMappings": maps, "gidMappings": maps}
    return described


@pytest.mark.parametrize(
    ("uid", "mounts", "maps", "expected"),
    [
        pytest.param(1000, [RW], None, 1000, id="a user of the host"),
        pytest.param(1000, [RW | {"type": "cgroup2"}], None, 1000, id="by the file system's own name"),
        pytest.param(1000, [RW | {"options": ["ro"]}], None, None, id="read-only"),
        pytest.param(1000, [], None, None, id="the default, read-only"),
        pytest.param(0, [RW], None, None, id="root has it already"),
        pytest.param(0, [RW], MAPS, 100_000, id="the root of a user namespace"),
        pytest.param(999, [RW], MAPS, 100_999, id="a user of a user namespace"),
        pytest.param(5000, [RW], MAPS, 7, id="by the second mapping"),
    ],
)
def test_owner(uid: int, mounts: list[dict[str, Any]], maps: list[dict[str, int]] | None, expected: int | None) -> None:
    assert owner(load(json.dumps(document(uid, mounts, maps=maps)).encode())) == expected


@pytest.mark.parametrize("path", [None, "/proc/1/ns/cgroup"], ids=["the host's", "joined"])
def test_without_a_cgroup_namespace_of_its_own_there_is_nothing_to_hand_over(path: str | None) -> None:
    described: dict[str, Any] = document(1000, [RW])
    described["linux"]["namespaces"] = [{"type": "mount"}, *([{"type": "cgroup", "path": path}] if path else [])]
    with pytest.raises(InputError, match="needs a new cgroup namespace"):
        load(json.dumps(described).encode())
