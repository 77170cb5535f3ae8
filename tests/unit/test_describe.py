"""describe.py: what a person asks for, as an OCI document that the shim's own loader accepts."""

import json
from pathlib import Path

import pytest

from leafd.describe import CAPABILITIES, Document, describe, describe_exec, parse_mount
from leafshim import spec
from leafshim.errors import InputError, NotFound


@pytest.fixture
def rootfs(tmp_path: Path) -> str:
    """A root file system that knows ann (1001), in the groups video and audio."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nann:x:1001:100:Ann:/home/ann:/bin/sh\nbad:x:y:z\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nusers:x:100:\nvideo:x:44:ann\naudio:x:29:bob,ann\n")
    return str(tmp_path)


def loaded(document: Document) -> spec.Spec:
    return spec.load(json.dumps(document).encode())


def env_of(document: Document) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in loaded(document).process.env)


def destinations(document: Document) -> list[str]:
    return [mount.destination for mount in loaded(document).mounts]


def test_defaults_are_a_document_that_the_shim_accepts() -> None:
    document = loaded(describe(["sleep", "1"]))
    assert document.process.args == ("sleep", "1")
    assert document.process.cwd == "/"
    assert not document.process.terminal
    assert document.root is None
    assert set(document.linux.namespaces) == {"pid", "ipc", "uts", "mount", "cgroup"}
    assert "/proc/kcore" in document.linux.masked_paths
    assert "/proc/sys" in document.linux.readonly_paths


def test_network_only_when_asked_for() -> None:
    assert "network" in loaded(describe(["true"], net="none")).linux.namespaces
    with pytest.raises(InputError, match="--net bridge"):
        describe(["true"], net="bridge")


def test_root_has_dockers_fourteen_capabilities_and_others_only_the_bounding_set() -> None:
    assert len(CAPABILITIES) == 14
    root = loaded(describe(["true"])).process.capabilities
    other = loaded(describe(["true"], user="1234")).process.capabilities
    assert root is not None
    assert other is not None
    assert root.effective == root.permitted == root.bounding == other.bounding
    assert root.effective.bit_count() == 14
    assert root.inheritable == root.ambient == 0
    assert other.effective == other.permitted == other.inheritable == other.ambient == 0


def test_run_and_tmp_are_private_only_on_the_hosts_files(rootfs: str) -> None:
    assert {"/run", "/tmp"} <= set(destinations(describe(["true"])))
    assert not {"/run", "/tmp"} & set(destinations(describe(["true"], rootfs=rootfs)))


def test_sys_and_cgroup_are_read_only() -> None:
    options = {mount.destination: mount.options for mount in loaded(describe(["true"])).mounts}
    assert "ro" in options["/sys"]
    assert "ro" in options["/sys/fs/cgroup"]
    assert "ro" not in options["/proc"]


def test_who_manages_cgroups_of_its_own_may_write_there_and_nowhere_else() -> None:
    options = {mount.destination: mount.options for mount in loaded(describe(["true"], delegate=True)).mounts}
    assert "ro" in options["/sys"]
    assert options["/sys/fs/cgroup"] == ("nosuid", "noexec", "nodev", "relatime")


def test_a_mount_replaces_the_default_at_its_place_and_comes_last() -> None:
    document = describe(["true"], mounts=[parse_mount("src=/srv,dst=/tmp/"), parse_mount("src=/etc,dst=/tmp/etc,ro")])
    assert destinations(document).count("/tmp") == 1
    assert destinations(document)[-2:] == ["/tmp", "/tmp/etc"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("type=bind,src=/a,dst=/b,ro", ("bind", "/a", "/b", ["rbind", "rprivate", "ro"])),
        ("source=/a,target=/b/", ("bind", "/a", "/b", ["rbind", "rprivate"])),
        ("src=/a,destination=/b,readonly=true", ("bind", "/a", "/b", ["rbind", "rprivate", "ro"])),
        ("src=/a,dst=/b,bind-propagation=rslave,rw", ("bind", "/a", "/b", ["rbind", "rslave", "rw"])),
        (
            "type=tmpfs,dst=/b,size=64m,mode=1777",
            ("tmpfs", "tmpfs", "/b", ["nosuid", "nodev", "size=64m", "mode=1777"]),
        ),
    ],
)
def test_mount_specs(text: str, expected: tuple[str, str, str, list[str]]) -> None:
    mount = parse_mount(text)
    assert (mount["type"], mount["source"], mount["destination"], mount["options"]) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "unknown key"),
        ("src=/a", "dst must be"),
        ("src=/a,dst=b", "dst must be"),
        ("src=/a,dst=/", "dst must be"),
        ("src=/a,dst=//", "dst must be"),
        ("src=/a,dst=/x/../..", "dst must be"),
        ("src=a,dst=/b", "src must be an absolute path"),
        ("dst=/b", "src must be an absolute path"),
        ("type=nfs,src=/a,dst=/b", "type must be"),
        ("src=/a,dst=/b,colour=red", "unknown key 'colour'"),
        ("src=/a,src=/c,dst=/b", "given twice"),
        ("src=/a,dst=/b,ro,rw", "exclude each other"),
        ("src=/a,dst=/b,size=1m", "size does not go with"),
        ("type=tmpfs,src=/a,dst=/b", "has no src"),
        ("src=/a,dst=/b,bind-propagation=shared", "bind-propagation must be"),
    ],
)
def test_bad_mount_specs(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse_mount(text)


def test_environment_in_order_of_precedence() -> None:
    document = describe(
        ["true"], env=["A=1=2", "FROM", "GONE", "PATH=/x"], hostname="h", environ={"FROM": "caller", "TERM": "vt100"}
    )
    assert env_of(document) == {"PATH": "/x", "HOME": "/root", "HOSTNAME": "h", "A": "1=2", "FROM": "caller"}
    assert loaded(document).hostname == "h"


def test_a_terminal_brings_term_and_its_size() -> None:
    document = describe(["true"], terminal=True, size=(80, 24), environ={"TERM": "vt100"})
    assert env_of(document)["TERM"] == "vt100"
    assert loaded(document).process.console_size == (24, 80)
    assert loaded(describe(["true"], terminal=True, size=(0, 0))).process.console_size is None


@pytest.mark.parametrize("item", ["", "=x", "A\0=1"])
def test_bad_environment(item: str) -> None:
    with pytest.raises(InputError, match="--env"):
        describe(["true"], env=[item])


def test_bad_directories() -> None:
    with pytest.raises(InputError, match="--cwd srv"):
        describe(["true"], cwd="srv")
    with pytest.raises(InputError, match="no command"):
        describe([])


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups"),
    [
        ("", 0, 0, ()),
        ("0", 0, 0, ()),
        ("ann", 1001, 100, (29, 44)),
        ("1001", 1001, 100, (29, 44)),
        ("ann:video", 1001, 44, ()),
        ("ann:7", 1001, 7, ()),
        ("5000", 5000, 5000, ()),
        ("5000:6000", 5000, 6000, ()),
        ("4294967294", 4294967294, 4294967294, ()),
    ],
)
def test_users(rootfs: str, user: str, uid: int, gid: int, groups: tuple[int, ...]) -> None:
    found = loaded(describe(["true"], rootfs=rootfs, user=user)).process.user
    assert (found.uid, found.gid, found.additional_gids) == (uid, gid, groups)


@pytest.mark.parametrize("user", ["4294967295", "4294967296", "-1", "+5", "²", "9" * 30, ":5", "0:", "ann:-1"])
def test_users_that_do_not_fit_are_refused_never_root(rootfs: str, user: str) -> None:
    with pytest.raises((InputError, NotFound), match="--user"):
        describe(["true"], rootfs=rootfs, user=user)


@pytest.mark.parametrize("user", ["bob", "bad", "ann:nobody"])
def test_names_that_are_not_there(rootfs: str, user: str) -> None:
    with pytest.raises(NotFound, match=f"--user {user}: no (user|group)"):
        describe(["true"], rootfs=rootfs, user=user)


def test_the_users_file_is_never_followed_out_of_the_rootfs(tmp_path: Path) -> None:
    outside = tmp_path / "passwd"
    outside.write_text("eve:x:0:0::/root:/bin/sh\n")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").symlink_to(outside)
    with pytest.raises(NotFound, match="no user eve"):
        describe(["true"], rootfs=str(root), user="eve")


def test_an_exec_is_the_containers_process_with_another_command() -> None:
    config = describe(["sleep", "1"], user="1234", cwd="/srv", env=["A=1", "B=2"], terminal=True, size=(80, 24))
    document = describe_exec(config, ["id"], env=["B=3"])
    process = spec.load_process(json.dumps(document).encode())
    assert process.args == ("id",)
    assert process.cwd == "/srv"
    assert process.user.uid == 1234
    assert {"A=1", "B=3"} <= set(process.env)
    assert not any(item.startswith("TERM=") for item in process.env)
    assert not process.terminal
    assert process.console_size is None


def test_an_exec_as_somebody_else_has_their_rights(rootfs: str) -> None:
    config = describe(["sleep", "1"])
    process = spec.load_process(
        json.dumps(describe_exec(config, ["id"], user="ann", root=rootfs, cwd="/tmp", terminal=True)).encode()
    )
    assert process.user.uid == 1001
    assert "HOME=/home/ann" in process.env
    assert process.capabilities is not None
    assert process.capabilities.effective == 0
    assert process.terminal
    assert process.cwd == "/tmp"
