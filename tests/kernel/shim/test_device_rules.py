"""Task.Update with other device rules: all of the update holds, or nothing of it."""

import json

import pytest

from leafshim.api import task
from leafshim.api.wellknown import Any
from leafshim.cgroup.device_rules import DEFAULT, Access, Entry
from leafshim.cgroup.devices import read
from leafshim.errors import InputError
from leafshim.update import URL
from tests.harness.shim import ID, Shim

DENY_ALL = {"allow": False, "access": "rwm"}
FUSE = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}


def update(web: Shim, *rules: object) -> None:
    resources = Any(type_url=URL, value=json.dumps({"devices": rules}).encode())
    web.client.call(task.V3.update, task.UpdateTaskRequest(id=ID, resources=resources))


def test_rules_are_replaced_while_the_container_runs(web: Shim) -> None:
    web.run("sleep", "1000")
    assert read(web.cgroup) == Access.of(DEFAULT)
    update(web, DENY_ALL, FUSE)
    assert read(web.cgroup) == Access.of([Entry.parse("c 10:229 rw"), *DEFAULT])
    update(web)
    assert read(web.cgroup) == Access.of([Entry.parse("c 10:229 rw"), *DEFAULT]), "not named, so not changed"
    update(web, DENY_ALL)
    assert read(web.cgroup) == Access.of(DEFAULT)


def test_rules_that_cannot_be_are_refused(web: Shim) -> None:
    web.run("sleep", "1000")
    with pytest.raises(InputError, match=r"resources.devices\[2\]: allow c 10:229 rw is an exception from deny"):
        update(web, {"allow": True}, {"allow": False, "type": "c", "major": 10}, FUSE)
    assert read(web.cgroup) == Access.of(DEFAULT)
