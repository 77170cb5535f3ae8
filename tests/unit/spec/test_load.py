"""What config.json may say: every value is read, or refused by its path; nothing is ignored."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leafshim.errors import InputError
from leafshim.spec import Capabilities, Device, DeviceRule, Mount, Rlimit, Spec, load, load_process

Document = dict[str, Any]


def minimal() -> Document:
    return {
        "ociVersion": "1.2.0",
        "process": {"args": ["/bin/true"], "cwd": "/"},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "ipc"}]},
    }


def changed(path: str, value: object) -> bytes:
    """The minimal document with one member, named "process.user", set."""
    document = minimal()
    *parents, name = path.split(".")
    place = document
    for parent in parents:
        place = place.setdefault(parent, {})
    place[name] = value
    return json.dumps(document).encode()


def loaded(path: str, value: object) -> Spec:
    return load(changed(path, value))


def test_defaults() -> None:
    spec = load(json.dumps(minimal()).encode())
    assert spec.root is None
    assert spec.process.user == (0, 0, None, ())
    assert spec.process.capabilities is None
    assert spec.process.oom_score_adj is None
    assert spec.linux.namespaces == {"mount": "", "pid": "", "uts": "", "ipc": ""}
    assert spec.mounts == ()


@pytest.mark.parametrize("nothing", [None, {}, [], ""])
@pytest.mark.parametrize("path", ["hooks", "linux.seccomp", "linux.intelRdt", "process.apparmorProfile", "unheardOf"])
def test_null_and_empty_ask_for_nothing(path: str, nothing: object) -> None:
    assert loaded(path, nothing) == load(json.dumps(minimal()).encode())


@pytest.mark.parametrize(
    ("path", "value", "get", "expected"),
    [
        ("root", {"path": "rootfs", "readonly": True}, lambda s: s.root, ("rootfs", True)),
        ("hostname", "web", lambda s: s.hostname, "web"),
        ("annotations", {"a": "b"}, lambda s: s.annotations, {"a": "b"}),
        ("process.user", {"uid": 7, "gid": 8, "umask": 63, "additionalGids": [9, 10]},
         lambda s: s.process.user, (7, 8, 0o77, (9, 10))),
        ("process.rlimits", [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
         lambda s: s.process.rlimits, (Rlimit("RLIMIT_NOFILE", 7, 10, 20),)),
        ("process.rlimits", [{"type": "RLIMIT_RTTIME", "soft": 0, "hard": 2**64 - 1}],
         lambda s: s.process.rlimits, (Rlimit("RLIMIT_RTTIME", 15, 0, 2**64 - 1),)),
        ("process.capabilities", {"bounding": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"]},
         lambda s: s.process.capabilities, Capabilities(1 | 1 << 40, 0, 0, 0, 0)),
        ("process.oomScoreAdj", -1000, lambda s: s.process.oom_score_adj, -1000),
        ("linux.sysctl", {"kernel.shmmax": "1"}, lambda s: s.linux.sysctl, {"kernel/shmmax": "1"}),
        ("linux.devices", [{"path": "/dev/x", "type": "u", "major": 1, "minor": 3, "fileMode": 0o20600}],
         lambda s: s.linux.devices, (Device("/dev/x", "c", 1, 3, 0o600, 0, 0),)),
        ("linux.devices", [{"path": "/dev/p", "type": "p"}],
         lambda s: s.linux.devices, (Device("/dev/p", "p", 0, 0, 0o666, 0, 0),)),
        ("mounts", [{"destination": "/data", "source": "/srv", "options": ["rbind", "ro"]}],
         lambda s: s.mounts, (Mount("/data", "bind", "/srv", ("rbind", "ro")),)),
        ("linux.resources", {"devices": [{"allow": False, "access": "rwm"}]},
         lambda s: [rule.allow for rule in s.linux.resources.devices], [False]),
        ("linux.resources", {"devices": [{"allow": True, "type": "c", "major": 10, "minor": -1, "access": "r"}]},
         lambda s: s.linux.resources.devices, (DeviceRule(True, "c", 10, None, "r"),)),
    ],
)  # fmt: skip
def test_read(path: str, value: object, get: Callable[[Spec], object], expected: object) -> None:
    assert get(loaded(path, value)) == expected


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("ociVersion", "2.0.0", "ociVersion: must be 1.x, not 2.0.0"),
        ("hooks", {"prestart": [{"path": "/x"}]}, "hooks: not supported yet"),
        ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW"}, "linux.seccomp: not supported yet"),
        ("linux.rootfsPropagation", "shared", "linux.rootfsPropagation: shared: not supported yet"),
        ("linux.resources", {"devices": [{"allow": True, "type": "x"}]},
         "linux.resources.devices[0].type: must be a, b or c"),
        ("linux.resources", {"devices": [
            {"allow": True}, {"allow": False, "type": "c", "major": 10},
            {"allow": True, "type": "c", "major": 10, "minor": 229}]},
         "linux.resources.devices[2]: allow c 10:229 rwm is an exception from deny c 10:* rwm, itself one from a "
         "broader allow: not supported yet"),
        ("process.apparmorProfile", "x", "process.apparmorProfile: not supported yet"),
        ("process.user", {"uid": 0, "gid": 0, "username": "web"}, "process.user.username: not supported yet"),
        ("unheardOf", 1, "unheardOf: not supported yet"),
        ("process.args", ["a", 1], "process.args[1]: must be a string"),
        ("process.args", "a", "process.args: must be an array"),
        ("process.args", [], "process.args: must name a program"),
        ("process.args", [""], "process.args: must name a program"),
        ("process.args", ["a\0b"], "process.args[0]: must not contain NUL"),
        ("process.args", ["\ud800"], "process.args[0]: is not valid Unicode"),
        ("process.env", ["A=1", "B"], "process.env[1]: must be NAME=value"),
        ("process.env", ["=1"], "process.env[0]: must be NAME=value"),
        ("process.cwd", "tmp", "process.cwd: must be an absolute path"),
        ("process.terminal", 1, "process.terminal: must be true or false"),
        ("process.terminal", True, "process.terminal: needs a devpts mount at /dev/pts"),
        ("process.consoleSize", {"height": 1, "width": 1}, "process.consoleSize: needs terminal"),
        ("process.rlimits", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}],
         "process.rlimits[0].type: no such resource limit: RLIMIT_X"),
        ("process.rlimits", [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}],
         "process.rlimits[0].soft: must not be above hard"),
        ("process.rlimits", [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2,
         "process.rlimits[1].type: RLIMIT_CPU is there twice"),
        ("process.capabilities", {"bounding": ["CAP_X"]},
         "process.capabilities.bounding[0]: no such capability: CAP_X"),
        ("process.capabilities", {"inheritable": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]},
         "process.capabilities.inheritable: must hold nothing that ambient does not"),
        ("process.capabilities", {"effective": ["CAP_CHOWN"]},
         "process.capabilities.effective: must be part of permitted"),
        ("linux.namespaces", [{"type": "pid"}],
         "linux.namespaces: must have a new mount namespace, or join a container's"),
        ("linux.namespaces", [{"type": "mount", "path": "/m"}],
         "linux.namespaces: who joins a mount namespace must join its pid namespace"),
        ("linux", {"namespaces": [{"type": "mount", "path": "/m"}], "maskedPaths": ["/proc/keys"]},
         "linux.maskedPaths: needs a new mount namespace"),
        ("linux.namespaces", [{"type": "mount"}, {"type": "user", "path": "/u"}],
         "linux.namespaces: who joins a user namespace must join its mount namespace"),
        ("linux.namespaces", [{"type": "mount"}, {"type": "mount"}], "linux.namespaces[1].type: mount is there twice"),
        ("linux.namespaces", [{"type": "net"}], "linux.namespaces[0].type: no such namespace: net"),
        ("linux.namespaces", [{"type": "mount"}, {"type": "user"}], "linux.uidMappings: must map the container's id 0"),
        ("linux.uidMappings", [{"containerID": 0, "hostID": 9, "size": 1}],
         "linux.uidMappings: needs a new user namespace"),
        ("linux.uidMappings", [{"containerID": 0, "hostID": 2**32 - 2, "size": 2}],
         "linux.uidMappings[0].size: reaches beyond the last id"),
        ("linux.sysctl", {"net.ipv4.ip_forward": "1"},
         "linux.sysctl: net/ipv4/ip_forward needs a new network namespace"),
        ("linux.sysctl", {"kernel.panic": "1"}, "linux.sysctl: kernel/panic is the whole host's, not a namespace's"),
        ("linux.sysctl", {"kernel/../kernel/shmmax": "1"},
         "linux.sysctl: malformed name: kernel/../kernel/shmmax"),
        ("linux.cgroupsPath", "/a/../b", "linux.cgroupsPath: must not contain .."),
        ("linux.cgroupsPath", "/a\nb", "linux.cgroupsPath: must not contain control characters"),
        ("linux.maskedPaths", ["proc"], "linux.maskedPaths[0]: must be an absolute path"),
        ("mounts", [{"destination": "/x", "source": "data", "options": ["bind"]}],
         "mounts[0].source: must be an absolute path"),
        ("mounts", [{"destination": "/x"}], "mounts[0].type: is required"),
        ("mounts", [{"destination": "//", "type": "tmpfs"}], "mounts[0].destination: must be below the root"),
        ("mounts", [{"destination": "/x", "type": "cgroup"}], "mounts[0]: needs a new cgroup namespace"),
        ("mounts", [7], "mounts[0]: must be an object"),
        ("hostname", "x" * 65, "hostname: must be at most 64 bytes"),
    ],
)  # fmt: skip
def test_refused_by_path(path: str, value: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        loaded(path, value)
    assert str(caught.value) == message


# CVE-2024-40635: a number that does not fit must never come out as another user, least of all as root.
@pytest.mark.parametrize("number", [-1, 2**32 - 1, 2**32, 2**63, 2**64, 10**30, 1.0, "0", True, [0]])
@pytest.mark.parametrize("field", ["uid", "gid", "additionalGids"])
def test_malformed_and_overflowing_ids_are_refused(field: str, number: object) -> None:
    user = {"uid": 5, "gid": 5, field: [number] if field == "additionalGids" else number}
    with pytest.raises(InputError, match=rf"^process\.user\.{field}(\[0\])?: must be "):
        loaded("process.user", user)


def test_a_users_id_must_be_mapped() -> None:
    document = minimal()
    document["linux"]["namespaces"].append({"type": "user"})
    document["linux"]["uidMappings"] = document["linux"]["gidMappings"] = [
        {"containerID": 0, "hostID": 100000, "size": 10}
    ]
    document["process"]["user"] = {"uid": 10, "gid": 0}
    with pytest.raises(InputError, match=r"^process\.user\.uid: 10 is not mapped in the user namespace$"):
        load(json.dumps(document).encode())


@pytest.mark.parametrize("document", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"ociVersion": "1.0"}'])
def test_not_a_document(document: bytes) -> None:
    with pytest.raises(InputError):
        load(document)


def test_the_process_of_an_exec() -> None:
    assert load_process(b'{"args": ["ls"], "cwd": "/"}').args == ("ls",)
    with pytest.raises(InputError, match=r"^process\.cwd: is required$"):
        load_process(b'{"args": ["ls"]}')


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_PLACES = [
    "process", "process.user", "process.capabilities", "process.rlimits", "process.consoleSize", "root", "mounts",
    "linux", "linux.namespaces", "linux.devices", "linux.sysctl", "linux.resources", "linux.uidMappings", "annotations",
]  # fmt: skip


@given(st.sampled_from(_PLACES), _json)
def test_any_value_anywhere_is_read_or_refused(path: str, value: object) -> None:
    try:
        loaded(path, value)
    except InputError as error:
        message = str(error)
    else:
        return
    assert message
    assert "\n" not in message
