"""leafctl run --device: what a container can open and make, and that it stays so whoever dies."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from leafshim.cgroup.device_rules import DEFAULT, Access, Entry
from leafshim.cgroup.devices import read
from leafshim.cgroup.hierarchy import Cgroup

if TYPE_CHECKING:
    from tests.harness.leafd import Leafd

DEFAULTS = Access.of(DEFAULT)
# To open kmsg for writing needs no capability, and every kernel has it.
PROBE = """
for device in "$@"; do
    if [ -c "$device" ] && (exec 3>"$device") 2>/dev/null; then echo "$device"; fi
done
"""
CAN_WRITE = ("sh", "-c", PROBE, "sh")


def in_force(leafd: "Leafd", container_id: str) -> Access | None:
    return read(Cgroup(f"{leafd.cgroups_root}/{container_id}"))


def with_rule(text: str) -> Access:
    return Access.of((Entry.parse(text), *DEFAULT))


def test_a_container_has_the_default_devices_and_no_other(leafd: "Leafd") -> None:
    script = 'mknod /dev/own c 1 11 && mknod /dev/own-zero c 1 5 && exec sh -c "$0" sh /dev/null /dev/own /dev/own-zero'
    result = leafd.ctl("run", "--name", "a", "--", "sh", "-c", script, PROBE)
    assert (result.stdout, result.stderr) == ("/dev/null\n/dev/own-zero\n", "")


@pytest.mark.parametrize(
    ("rule", "places"),
    [
        ("/dev/kmsg", ["/dev/kmsg"]),
        ("/dev/kmsg:w", ["/dev/kmsg"]),
        ("/dev/kmsg:/dev/messages:w", ["/dev/messages"]),
        ("c:1:11:w", ["/dev/kmsg"]),
        ("/dev/kmsg:r", []),
    ],
)
def test_a_device_that_is_asked_for(leafd: "Leafd", rule: str, places: list[str]) -> None:
    result = leafd.ctl("run", "--name", "a", "--device", rule, "--", *CAN_WRITE, "/dev/kmsg", "/dev/messages")
    assert (result.stdout, result.stderr) == ("".join(f"{place}\n" for place in places), "")


def test_execs_are_under_the_same_rules(leafd: "Leafd") -> None:
    assert leafd.ctl("run", "-d", "--name", "a", "--", "sleep", "1000").returncode == 0
    refused = leafd.ctl("exec", "a", "--", "sh", "-c", "mknod /dev/own c 1 11; true >/dev/own")
    assert refused.returncode != 0
    assert refused.stderr.endswith("/dev/own: Operation not permitted\n")


def test_rules_outlive_whoever_set_them(leafd: "Leafd") -> None:
    assert leafd.ctl("run", "-d", "--name", "a", "--", "sleep", "1000").returncode == 0
    assert leafd.ctl("run", "-d", "--name", "b", "--device", "c:1:11:r", "--", "sleep", "1000").returncode == 0
    expected = {"a": DEFAULTS, "b": with_rule("c 1:11 r")}
    assert {name: in_force(leafd, name) for name in expected} == expected
    leafd.kill()
    assert {name: in_force(leafd, name) for name in expected} == expected
    leafd.start()
    assert {name: in_force(leafd, name) for name in expected} == expected


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle directory, to write a config.json to."""
    directory = tmp_path / "bundle"
    directory.mkdir()
    return directory


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (None, None),
        ([{"allow": False, "access": "rwm"}], DEFAULTS),
        ([{"allow": False}, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}],
         with_rule("c 1:11 r")),
        ([{"allow": True}], Access.of([Entry.parse("a *:* rwm")])),
    ],
    ids=["no rules", "deny all", "allow one", "allow all"],
)  # fmt: skip
def test_rules_of_a_bundle(leafd: "Leafd", bundle: Path, rules: object, expected: Access | None) -> None:
    config = {
        "ociVersion": "1.2.0",
        "process": {"args": ["sleep", "1000"], "cwd": "/", "env": ["PATH=/usr/bin:/bin"]},
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "pid"}],
            "resources": {} if rules is None else {"devices": rules},
        },
    }
    (bundle / "config.json").write_text(json.dumps(config))
    result = leafd.ctl("run", "-d", "--name", "a", "--bundle", str(bundle))
    assert (result.returncode, result.stderr) == (0, "")
    assert in_force(leafd, "a") == expected


def test_wrong_rules_make_nothing(leafd: "Leafd") -> None:
    result = leafd.ctl("run", "--name", "a", "--device", "fuse", "--", "true")
    assert (result.returncode, result.stderr) == (
        125, "leafctl: run: --device fuse: must look like /dev/fuse, /dev/fuse:rw or c:10:229:rwm\n"
    )  # fmt: skip
    result = leafd.ctl("run", "--name", "a", "--device", "/dev/fuse", "--bundle", "/tmp")
    assert result.returncode == 125
    assert "--device does not go with --bundle" in result.stderr
    assert leafd.ctl("run", "--name", "a", "--", "true").returncode == 0
