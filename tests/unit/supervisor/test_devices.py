"""--device: what a person asks for, as nodes and rules of config.json that the shim's loader accepts."""

import json
import os
from pathlib import Path

import pytest

from leafd.describe import describe
from leafd.devices import parse
from leafshim import spec
from leafshim.cgroup.device_rules import DEFAULT, MESOS, Access, Entry, of_rules
from leafshim.errors import InputError, KernelError

FULL = {"path": "/dev/full", "type": "c", "major": 1, "minor": 7}


def loaded(*devices: str) -> spec.Linux:
    document = describe(["true"], devices=map(parse, devices), resources={"pids": {"limit": 7}})
    return spec.load(json.dumps(document).encode()).linux


def granted(*devices: str) -> Access:
    return of_rules(loaded(*devices).resources.devices)


def test_without_any_it_is_the_defaults() -> None:
    assert loaded().devices == ()
    assert set(granted().allow) == set(DEFAULT)
    assert granted().deny == ()


@pytest.mark.parametrize(
    ("text", "place", "access"),
    [
        ("/dev/full", "/dev/full", "rwm"),
        ("/dev/full:r", "/dev/full", "r"),
        ("/dev/full:/dev/other", "/dev/other", "rwm"),
        ("/dev/full:/dev/other:wm", "/dev/other", "wm"),
        ("c:1:7:w", "/dev/full", "w"),
        ("c:1:7", "/dev/full", "rwm"),
    ],
)
def test_a_device_of_the_hosts(text: str, place: str, access: str) -> None:
    status = os.stat("/dev/full")
    linux = loaded(text)
    assert linux.devices == (
        spec.Device(place, "c", 1, 7, status.st_mode & 0o7777, status.st_uid, status.st_gid),
    )  # fmt: skip
    assert linux.resources.devices[1:] == (spec.DeviceRule(True, "c", 1, 7, access),)


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("c:10:*:rw", "c 10:* rw"),
        ("b:*:*:r", "b *:* r"),
        ("c:4000:7:rwm", "c 4000:7 rwm"),  # no such device here
        ("a:200:3:r", "a 200:3 r"),
    ],
)
def test_rules_without_a_node(text: str, entry: str) -> None:
    assert loaded(text).devices == ()
    assert granted(text).grants(Entry.parse(entry))
    assert not granted().grants(Entry.parse(entry))


def test_everything() -> None:
    assert granted("a:*:*") == Access((Entry.parse("a *:* rwm"),))


def test_what_mesos_allows() -> None:
    assert {*granted("mesos").allow} == {*DEFAULT, *MESOS}


@pytest.mark.parametrize(
    "text", ["fuse", "", "c", "c:1", "c:1:2:x", "c:1:2:", "c:1:2:r:w", "c:-1:2", "x:1:2", "c:5000:1", "/dev/full:x",
             "/dev/full:", "/dev/full:r:w", "/dev", "/etc/passwd"]
)  # fmt: skip
def test_malformed(text: str) -> None:
    with pytest.raises(InputError, match="--device"):
        parse(text)


def test_a_node_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"--device .*/absent: No such file"):
        parse(f"{tmp_path}/absent")
