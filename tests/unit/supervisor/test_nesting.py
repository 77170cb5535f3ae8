"""What a nested container takes from its parent, and what it may not ask for."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from leafd.describe import Document
from leafd.describe_nested import DEBUG, describe_nested
from leafd.nesting import Nest, Parent, nest
from leafd.store import Record
from leafshim.api.containers import CreateRequest
from leafshim.bundle import Bundle
from leafshim.checkpoint import Checkpoint
from leafshim.errors import InputError, StateError

AROUND: Document = {
    "process": {
        "args": ["parent"],
        "terminal": True,
        "consoleSize": {"height": 1, "width": 1},
        "cwd": "/srv",
        "env": ["PATH=/opt", "HOME=/home/me", "A=1"],
        "user": {"uid": 7, "gid": 8},
        "capabilities": {"bounding": ["CAP_KILL"]},
        "noNewPrivileges": True,
    },
    "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts", "path": "/some/uts"}]},
}

Nesting = Callable[..., Nest]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    bundle = Bundle(str(tmp_path))
    Path(bundle.config).write_text(json.dumps(AROUND))
    Checkpoint("web", "boot", 1, 2, "RUNNING", 33, 44, "/cg/web", 0, 0, "", 0).write(bundle.checkpoint)
    return bundle


@pytest.fixture
def nesting(bundle: Bundle) -> Nesting:
    """nesting(description, field=value…) → what comes of the request for `web/db`, or for a child of `parent`."""

    def ask(
        document: Document, parent: str = "web", siblings: Sequence[Record] = (), shared: str = "", **fields: object
    ) -> Nest:
        around = Record(parent, "boot", "/cg/web", pid=33, shared_cgroup=shared)
        request = CreateRequest(id=f"{parent}/db", spec=json.dumps(document).encode(), **fields)  # type: ignore[arg-type]
        return nest(request, Parent(around, bundle, siblings))

    return ask


def _part(nested: Nest, *path: str) -> object:
    value: object = json.loads(nested.spec)
    for name in path:
        assert isinstance(value, dict)
        value = value.get(name)
    return value


def test_who_says_who_it_is_takes_nothing(nesting: Nesting) -> None:
    document = describe_nested(("true",), user="0")
    nested = nesting(document)
    assert _part(nested, "process") == document["process"]
    assert (nested.container_class, nested.parent_start_time) == ("", 0)


def test_the_user_comes_with_its_capabilities_and_its_home(nesting: Nesting) -> None:
    nested = nesting(describe_nested(("true",)))
    assert _part(nested, "process", "user") == {"uid": 7, "gid": 8}
    assert _part(nested, "process", "capabilities") == {"bounding": ["CAP_KILL"]}
    environment = _part(nested, "process", "env")
    assert isinstance(environment, list)
    assert [each for each in environment if each.startswith(("HOME=", "A="))] == ["HOME=/home/me"]
    assert _part(nested, "process", "cwd") == "/"
    own = nesting(describe_nested(("true",), env=["HOME=/mine"]))
    environment = _part(own, "process", "env")
    assert isinstance(environment, list)
    assert [each for each in environment if each.startswith("HOME=")] == ["HOME=/mine"]


def test_a_debug_container_is_its_parents_process_with_another_command(nesting: Nesting) -> None:
    document = describe_nested(("sh",), container_class=DEBUG, env=["A=2", "B=3"])
    nested = nesting(document, container_class=DEBUG)
    assert _part(nested, "process") == {
        "args": ["sh"],
        "terminal": False,
        "cwd": "/srv",
        "env": ["PATH=/opt", "HOME=/home/me", "A=2", "B=3"],
        "user": {"uid": 7, "gid": 8},
        "capabilities": {"bounding": ["CAP_KILL"]},
        "noNewPrivileges": True,
    }
    assert (nested.container_class, nested.shared_cgroup) == (DEBUG, "/cg/web")


def test_shared_namespaces_are_those_of_a_proven_process(nesting: Nesting) -> None:
    document: Document = {
        "process": {"user": {"uid": 0, "gid": 0}},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "ipc"}]},
    }
    nested = nesting(document, share=["pid", "uts", "net"])
    assert _part(nested, "linux", "namespaces") == [
        {"type": "mount"},
        {"type": "ipc"},  # of its own; the network is the host's, as its parent's is
        {"type": "pid", "path": "/proc/33/ns/pid"},
        {"type": "uts", "path": "/proc/33/ns/uts"},
    ]
    assert nested.parent_start_time == 44


@pytest.mark.parametrize(("boot", "pid", "began"), [("other", 33, 44), ("boot", 34, 44), ("boot", 33, 0)])
def test_an_init_that_is_not_known_is_nobodys_to_join(
    nesting: Nesting, bundle: Bundle, boot: str, pid: int, began: int
) -> None:
    Checkpoint("web", boot, 1, 2, "RUNNING", pid, began, "/cg/web", 0, 0, "", 0).write(bundle.checkpoint)
    with pytest.raises(StateError, match="web: its init is not known"):
        nesting(describe_nested(("true",), share=["pid"]), share=["pid"])
    assert nesting(describe_nested(("true",))).parent_start_time == 0


def test_whose_limits_they_are(nesting: Nesting) -> None:
    document = describe_nested(("true",))
    assert nesting(document).shared_cgroup == "/cg/web"
    assert nesting(document, share_cgroups=True).shared_cgroup == "/cg/web"
    assert nesting(document, share_cgroups=False).shared_cgroup == ""
    assert nesting(document, parent="top/web", shared="/cg/top").shared_cgroup == "/cg/top", (
        "of the first that has some"
    )
    assert _part(nesting(document), "linux", "resources") is None
    assert _part(nesting(document, share_cgroups=False), "linux", "resources") is not None


@pytest.mark.parametrize(
    "resources",
    [
        {"memory": {"limit": 1 << 20}},
        {"pids": {"limit": -1}},
        {"unified": {"memory.high": "max"}},
        {"devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "access": "r"}]},
    ],
)
def test_who_shares_has_no_limits(nesting: Nesting, resources: Document) -> None:
    document: Document = {"process": {"user": {"uid": 0, "gid": 0}}, "linux": {"resources": resources}}
    with pytest.raises(InputError, match=r"linux.resources: web/db shares the cgroups of web"):
        nesting(document)
    assert nesting(document, share_cgroups=False).shared_cgroup == ""


def test_siblings_are_of_one_mind_but_for_debug_containers(nesting: Nesting) -> None:
    document, debug = describe_nested(("true",)), describe_nested(("true",), container_class=DEBUG)
    sharing = Record("web/x", "boot", "/cg/web/mesos/x", shared_cgroup="/cg/web")
    apart = Record("web/y", "boot", "/cg/web/mesos/y")
    beside = Record("web/z", "boot", "/cg/web/mesos/z", shared_cgroup="/cg/web", container_class=DEBUG)
    assert nesting(document, siblings=[sharing, beside]).shared_cgroup
    assert not nesting(document, siblings=[apart, beside], share_cgroups=False).shared_cgroup
    assert nesting(debug, siblings=[apart], container_class=DEBUG).shared_cgroup
    for siblings, share in (([sharing], False), ([apart], None), ([apart], True)):
        with pytest.raises(StateError, match="lives beside it, has the other value"):
            nesting(document, siblings=siblings, share_cgroups=share)


@pytest.mark.parametrize("document", [{"process": 5}, {"process": {}, "linux": []}, {}])
def test_what_is_no_description_is_left_for_loading_to_refuse(nesting: Nesting, document: Document) -> None:
    assert json.loads(nesting(document).spec) == document


def test_without_a_description_of_the_parent_nothing_can_be_inherited(nesting: Nesting, bundle: Bundle) -> None:
    Path(bundle.config).write_text("{")
    with pytest.raises(StateError, match="web: its description cannot be read"):
        nesting(describe_nested(("true",)))
    assert nesting(describe_nested(("true",), user="0")).shared_cgroup == "/cg/web"
