"""Nested containers: where they are, what they share, what they inherit. Mesos's names of tests are in brackets."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from leafd import devices
from leafd.client import Client
from leafd.describe import Document, describe
from leafd.describe_nested import DEBUG, describe_nested
from leafshim.cgroup.hierarchy import UNLIMITED, Cgroup
from leafshim.errors import AlreadyExists, InputError, NotFound, StateError
from leafshim.state import ISOLATING, RUNNING
from tests.harness.leafd import Leafd

SLEEP = describe(("sleep", "1000"))
NESTED = describe_nested(("sleep", "1000"))


def _sh(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def _output(client: Client, container_id: str) -> list[str]:
    """What a container wrote until its end."""
    client.wait(container_id)
    return b"".join(chunk.data for chunk in client.logs(container_id)).decode().splitlines()


def _limited(size: str) -> Document:
    document = describe_nested(("sleep", "1000"))
    linux = document["linux"]
    assert isinstance(linux, dict)
    linux["resources"]["hugepageLimits"] = [{"pageSize": "2MB", "limit": int(size) << 20}]
    return document


@pytest.mark.parametrize("shares", [True, False])
def test_one_in_another_to_any_depth(leafd: Leafd, shares: bool) -> None:
    """[LaunchNested, with and without sharing]"""
    with leafd.client as client:
        outer = client.create("web", SLEEP, start=True)
        inner = client.create("web/db", NESTED, start=True, share_cgroups=shares)
        deeper = client.create("web/db/log", NESTED, start=True)
        assert (inner.cgroup, deeper.cgroup) == (f"{outer.cgroup}/mesos/db", f"{outer.cgroup}/mesos/db/mesos/log")
        for each in (outer, inner, deeper):
            assert each.state == RUNNING
            assert each.leaf == f"{each.cgroup}/leaf"
            assert Cgroup(each.leaf).processes() == [each.pid]
        assert [each.parent for each in (outer, inner, deeper)] == ["", "web", "web/db"]
        assert [each.shared_cgroup for each in (outer, inner, deeper)] == [
            "",
            outer.cgroup if shares else "",
            outer.cgroup if shares else inner.cgroup,
        ]
        with pytest.raises(AlreadyExists, match="web/db: a container of that name exists"):
            client.create("web/db", NESTED, share_cgroups=shares)


def test_who_shares_cgroups_has_no_limits_and_who_does_not_has_its_own(leafd: Leafd) -> None:
    """[ShareCgroups] Through hugetlb, which hosts have that have no other controller."""
    limit = "hugetlb.2MB.max"
    with leafd.client as client:
        client.create("shared", SLEEP, start=True)
        inner = Cgroup(client.create("shared/db", NESTED, start=True).cgroup)
        assert not inner.has(limit)
        assert Cgroup(f"{leafd.cgroups_root}/shared/mesos").enabled() == frozenset()
        assert inner.child("leaf").exists()
        client.create("apart", SLEEP, start=True)
        inner = Cgroup(client.create("apart/db", _limited("4"), start=True, share_cgroups=False).cgroup)
        assert inner.read_number(limit) == 4 << 20
    refused = leafd.ctl("update", "--hugetlb", "2MB=6M", "shared/db")
    shared = f"{leafd.cgroups_root}/shared"
    assert refused.stderr == (
        f"leafctl: update: container shared/db has no limits of its own: they are those of {shared}\n"
    )
    assert leafd.ctl("update", "--hugetlb", "2MB=6M", "apart/db").returncode == 0
    assert inner.read_number(limit) == 6 << 20


def test_the_figures_of_who_shares_cgroups_are_its_parents(leafd: Leafd) -> None:
    """[ShareCgroups, status and usage]"""
    busy = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; exec sleep 1000"
    with leafd.client as client:
        client.create("web", describe(_sh(busy)), start=True)
        with client.logs("web", follow=True) as log:
            next(iter(log))
        for container_id, shares in (("web/db", True), ("web/db/log", True)):
            client.create(container_id, NESTED, start=True, share_cgroups=shares)
    for _ in ("leafd says where they are", "their checkpoints do"):
        shown = json.loads(leafd.ctl("--json", "stats").stdout)
        used = {each["id"]: each["cpu"]["stat"]["usage_usec"] for each in shown}
        assert used["web"] <= used["web/db"] <= used["web/db/log"], "they were read in this order, from one cgroup"
        own = Cgroup(f"{leafd.cgroups_root}/web/mesos/db").read_flat("cpu.stat")["usage_usec"]
        assert used["web/db"] > own
        if leafd.process is not None:
            leafd.kill()


def test_what_sharing_cgroups_does_not_go_with(leafd: Leafd) -> None:
    """[ShareCgroups, validation]"""
    with leafd.client as client:
        with pytest.raises(InputError, match="share_cgroups: top: is nested in no container"):
            client.create("top", SLEEP, share_cgroups=True)
        client.create("web", SLEEP, start=True)
        with pytest.raises(
            InputError, match=r"linux.resources: web/db shares the cgroups of web, and so has no limits"
        ):
            client.create("web/db", _limited("4"))
        client.create("web/db", NESTED, start=True)
        with pytest.raises(StateError, match=r"share_cgroups: web/x: web/db, which lives beside it, has the other"):
            client.create("web/x", NESTED, share_cgroups=False)
        with pytest.raises(InputError, match=r"share_cgroups: web/db/x: below the first nested level"):
            client.create("web/db/x", NESTED, share_cgroups=False)
        debug = describe_nested(("sleep", "1000"), container_class=DEBUG)
        with pytest.raises(InputError, match=r"a debug container shares the cgroups of its parent"):
            client.create("web/x", debug, container_class=DEBUG, share_cgroups=False)
        client.stop("web/db", grace=0)
        client.create("web/x", NESTED, start=True, share_cgroups=False)
        client.create("web/y", debug, start=True, container_class=DEBUG)
        assert [each.id for each in client.list()] == ["web", "web/db", "web/x", "web/y"]


def test_a_parent_must_be_there_and_live(leafd: Leafd) -> None:
    """[LaunchNested, failures]"""
    with leafd.client as client:
        with pytest.raises(NotFound, match="nobody: no such container"):
            client.create("nobody/db", NESTED)
        assert client.create("web", SLEEP).state == ISOLATING
        client.create("web/early", NESTED, start=True)
        client.start("web")
        client.pause("web")
        with pytest.raises(StateError, match="web/db: web is paused"):
            client.create("web/db", NESTED)
        client.resume("web")
        client.kill("web")
        client.wait("web")
        with pytest.raises(StateError, match="web/db: web is STOPPED"):
            client.create("web/db", NESTED)
        assert sorted(os.listdir(leafd.root / "containers")) == ["web", "web:early"]


def test_a_nested_container_runs_as_its_parent_does(leafd: Leafd) -> None:
    script = "id -u; id -g; echo $HOME; grep CapEff /proc/self/status"
    with leafd.client as client:
        client.create("web", describe(("sleep", "1000"), user="nobody"), start=True)
        client.create("web/db", describe_nested(_sh(script)), start=True)
        assert _output(client, "web/db") == ["65534", "65534", "/nonexistent", "CapEff:\t0000000000000000"]
        client.create("web/root", describe_nested(_sh("id -u; echo $HOME"), user="root"), start=True)
        assert _output(client, "web/root") == ["0", "/root"]


def test_a_debug_container_inherits_the_environment_of_its_parent(leafd: Leafd) -> None:
    """[DebugContainerInheritsEnvironment]"""
    with leafd.client as client:
        client.create("web", describe(("sleep", "1000"), env=["KEPT=1", "CHANGED=1"]), start=True)
        document = describe_nested(
            _sh("echo $KEPT $CHANGED $ADDED $HOME"), container_class=DEBUG, env=["CHANGED=2", "ADDED=3"]
        )
        client.create("web/debug", document, start=True, container_class=DEBUG)
        assert _output(client, "web/debug") == ["1 2 3 /root"]
        client.create("web/plain", describe_nested(_sh("echo [$KEPT]")), start=True)
        assert _output(client, "web/plain") == ["[]"], "others do not"


def test_a_debug_container_inherits_the_working_directory_of_its_parent(leafd: Leafd) -> None:
    """[DebugContainerInheritsWorkingDirectory]"""
    with leafd.client as client:
        client.create("web", describe(("sleep", "1000"), cwd="/usr/bin"), start=True)
        client.create("web/debug", describe_nested(("pwd",), container_class=DEBUG), start=True, container_class=DEBUG)
        assert _output(client, "web/debug") == ["/usr/bin"]
        document = describe_nested(("pwd",), container_class=DEBUG, cwd="/etc")
        client.create("web/other", document, start=True, container_class=DEBUG)
        assert _output(client, "web/other") == ["/etc"]


def test_a_debug_container_is_in_the_pid_and_the_mount_namespace_of_its_parent(leafd: Leafd) -> None:
    """[DebugContainerInheritsPidNamespace, DebugContainerInheritsMountNamespace]"""
    kinds = ("pid", "mnt", "net", "ipc", "uts")
    script = f"readlink {' '.join(f'/proc/self/ns/{kind}' for kind in kinds)}; cat /tmp/file; echo ours >/tmp/ours"
    with leafd.client as client:
        outer = client.create("web", describe(_sh("echo theirs >/tmp/file; echo; exec sleep 1000")), start=True)
        with client.logs("web", follow=True) as log:
            next(iter(log))
        document = describe_nested(_sh(script), container_class=DEBUG)
        shown = client.create("web/debug", document, start=True, container_class=DEBUG)
        assert (shown.container_class, shown.shared_cgroup, shown.parent) == (DEBUG, outer.cgroup, "web")
        theirs = [os.readlink(f"/proc/{outer.pid}/ns/{kind}") for kind in kinds]
        assert _output(client, "web/debug") == [*theirs, "theirs"]
        assert Path(f"/proc/{outer.pid}/root/tmp/ours").read_text() == "ours\n"


def test_a_debug_container_is_not_started_again_and_needs_a_parent(leafd: Leafd) -> None:
    document = describe_nested(("true",), container_class=DEBUG)
    with leafd.client as client:
        with pytest.raises(InputError, match="class: debug: a debug container must be nested in another"):
            client.create("debug", document, container_class=DEBUG)
        client.create("web", SLEEP, start=True)
        with pytest.raises(InputError, match="restart: web/debug: a debug container is not started again"):
            client.create("web/debug", document, container_class=DEBUG, restart="always")
        with pytest.raises(InputError, match="class: 'other': must be debug, or empty"):
            client.create("web/other", document, container_class="other")


@pytest.mark.parametrize("share", [["pid"], ["ipc", "uts"], ["net"], ["pid", "mnt"], []])
def test_namespaces_are_shared_by_choice(leafd: Leafd, share: list[str]) -> None:
    """[SharePidNamespace, and the others]"""
    kinds = ("pid", "ipc", "uts", "net", "mnt")
    with leafd.client as client:
        outer = client.create("web", describe(("sleep", "1000"), net="none", hostname="around"), start=True)
        script = f"readlink {' '.join(f'/proc/self/ns/{kind}' for kind in kinds)}; hostname"
        hostname = "" if "uts" in share else "db"
        net = "host" if "net" in share else "none"
        document = describe_nested(_sh(script), share=share, hostname=hostname, net=net)
        client.create("web/db", document, start=True, share=share)
        *shown, host = _output(client, "web/db")
        theirs = [os.readlink(f"/proc/{outer.pid}/ns/{kind}") for kind in kinds]
        assert {kind for kind, own, other in zip(kinds, shown, theirs, strict=True) if own == other} == set(share)
        assert host == ("around" if "uts" in share else "db")


def test_one_more_command_is_where_the_container_is_that_shares(leafd: Leafd) -> None:
    with leafd.client as client:
        outer = client.create("web", SLEEP, start=True)
        document = describe_nested(("sleep", "1000"), container_class=DEBUG)
        client.create("web/debug", document, start=True, container_class=DEBUG)
        client.create("web/pid", describe_nested(("sleep", "1000"), share=["pid"]), start=True, share=["pid"])
    for container_id in ("web/debug", "web/pid"):
        seen = leafd.ctl("exec", container_id, "--", "readlink", "/proc/self/ns/pid")
        assert (seen.stdout, seen.stderr) == (os.readlink(f"/proc/{outer.pid}/ns/pid") + "\n", "")


def test_what_a_description_cannot_have_besides_shared_namespaces(leafd: Leafd) -> None:
    with leafd.client as client:
        client.create("web", SLEEP, start=True)
        with pytest.raises(InputError, match="mounts: needs a new mount namespace"):
            client.create("web/db", NESTED, share=["pid", "mnt"])
        with pytest.raises(InputError, match="who shares mnt must share pid"):
            client.create("web/db", NESTED, share=["mnt"])
        with pytest.raises(InputError, match="rootfs: web/db: does not go with the mounts of its parent"):
            client.create("web/db", NESTED, share=["pid", "mnt"], rootfs="/")
        with pytest.raises(InputError, match="share: 'network': must be of net, ipc, uts, pid, mnt"):
            client.create("web/db", NESTED, share=["network"])
        with pytest.raises(InputError, match="share: top: is nested in no container"):
            client.create("top", SLEEP, share=["net"])
        assert [each.id for each in client.list()] == ["web"]


@pytest.fixture
def secretive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Leafd]:
    """A leafd, and a nursery, with a secret in their environment."""
    monkeypatch.setenv("LEAFD_TEST_SECRET", "42")
    installation = Leafd(tmp_path)
    try:
        installation.start()
        yield installation
    finally:
        installation.close()


def test_a_debug_container_of_a_user_namespace_is_nobody_outside_either(leafd: Leafd, tmp_path: Path) -> None:
    first = 200_000
    rootfs = tmp_path / "rootfs"
    for name in ("usr", "tmp", "etc", "proc", "dev", "sys"):
        (rootfs / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (rootfs / name).symlink_to(f"usr/{name}")
    for path in (rootfs, *rootfs.iterdir()):
        os.chown(path, first, first, follow_symlinks=False)
    usr: Document = {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}
    document: Document = describe(("sleep", "1000"), rootfs=str(rootfs), mounts=[usr], net="none")
    linux = document["linux"]
    assert isinstance(linux, dict)
    linux["namespaces"].append({"type": "user"})
    linux |= {name: [{"containerID": 0, "hostID": first, "size": 1000}] for name in ("uidMappings", "gidMappings")}
    with leafd.client as client:
        client.create("web", document, start=True)
        with pytest.raises(InputError, match="web has a user namespace: share mnt and pid with it, or nothing"):
            client.create("web/db", NESTED, share=["ipc"])
        debug = describe_nested(_sh("id -u; cat /proc/self/uid_map; exec sleep 1000"), container_class=DEBUG)
        made = client.create("web/debug", debug, start=True, container_class=DEBUG)
        with client.logs("web/debug", follow=True) as log:
            shown = [next(iter(log)).data, next(iter(log)).data]
        assert b" ".join(shown).split() == [b"0", b"0", str(first).encode(), b"1000"]
        status = Path(f"/proc/{made.pid}/status").read_text().splitlines()
        assert [line for line in status if line.startswith("Uid:")] == ["Uid:" + f"\t{first}" * 4]
    seen = leafd.ctl("exec", "web/debug", "--", "id", "-u")
    assert (seen.stdout, seen.stderr) == ("0\n", "")


def test_the_environment_of_leafd_goes_nowhere(secretive: Leafd) -> None:
    """[AgentEnvironmentNotLeaked]"""
    assert b"LEAFD_TEST_SECRET" in Path(f"/proc/{secretive.process and secretive.process.pid}/environ").read_bytes()
    with secretive.client as client:
        client.create("web", describe(_sh("env; exec sleep 1000")), start=True)
        client.create("web/db", describe_nested(("env",)), start=True)
        document = describe_nested(("env",), container_class=DEBUG)
        client.create("web/debug", document, start=True, container_class=DEBUG)
        seen = [*_output(client, "web/db"), *_output(client, "web/debug")]
        client.kill("web")
        seen += _output(client, "web")
    assert sum(line.startswith("PATH=") for line in seen) == 3
    assert not [line for line in seen if "LEAFD" in line]


@pytest.mark.vm
def test_memory_of_who_shares_cgroups_is_its_parents_and_of_who_does_not_its_own(patient: Leafd) -> None:
    """[ShareCgroups, and MemoryLimit of a nested container]"""
    limit: Document = {"memory": {"limit": 24 << 20, "swap": 24 << 20}}
    with patient.client as client:
        client.create("web", describe(("sleep", "1000"), resources={"memory": {"limit": 512 << 20}}), start=True)
        document = describe_nested(("tail", "/dev/zero"), resources=limit)
        apart = client.create("web/apart", document, start=True, share_cgroups=False)
        ended = client.wait("web/apart")
        assert ended.exit is not None
        assert (ended.exit.status, ended.exit.cause) == (137, "oom")
        assert client.inspect("web").state == RUNNING
        assert not os.path.exists(apart.cgroup)
    with patient.client as client:
        client.create("top", describe(("sleep", "1000"), resources=limit), start=True)
        inner = Cgroup(client.create("top/db", NESTED, start=True).cgroup)
        assert inner.read_number("memory.max") == UNLIMITED  # memory is enabled for it, to count its own kills
        client.create("top/fills", describe_nested(("tail", "/dev/zero")), start=True)
        ended = client.wait("top/fills")
        assert ended.exit is not None
        assert (ended.exit.status, ended.exit.cause) == (137, "oom")
        assert ended.exit.limitation is not None
        assert (ended.exit.limitation.scope, ended.exit.limitation.cgroup) == (
            "ancestor",
            f"{patient.cgroups_root}/top",
        )
    shown = {each["id"]: each["memory"]["max"] for each in json.loads(patient.ctl("--json", "stats").stdout)}
    assert shown == {"web": 512 << 20, "top": 24 << 20, "top/db": 24 << 20}


@pytest.mark.vm
def test_devices_of_a_nested_container_are_at_most_its_parents(patient: Leafd) -> None:
    """[ShareCgroups, devices]"""
    grants = [devices.parse("c:1:11:w")]
    # To open kmsg for writing needs no capability, and every kernel has it.
    probe = _sh("mknod /node c 1 11; (: >/node) 2>/dev/null && echo yes || echo no")
    with patient.client as client:
        client.create("web", SLEEP, start=True)
        client.create("web/apart", describe_nested(probe, devices=grants), start=True, share_cgroups=False)
        assert _output(client, "web/apart") == ["no"]
        client.remove("web/apart")
        with pytest.raises(InputError, match="web/shared shares the cgroups of web"):
            client.create("web/shared", describe_nested(probe, devices=grants))
        client.create("granted", describe(("sleep", "1000"), devices=grants), start=True)
        client.create("granted/shared", describe_nested(probe), start=True)
        assert _output(client, "granted/shared") == ["yes"]


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Leafd]:
    """A leafd for a machine that is ten times slower, as a guest is."""
    config = tmp_path / "leafd.toml"
    config.write_text("call_deadline = 50.0\n")
    installation = Leafd(tmp_path)
    try:
        installation.start("--config", str(config))
        yield installation
    finally:
        installation.close()
