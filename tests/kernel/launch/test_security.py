"""Hostile images and leaky hosts: what a container must not get, and where a launch must not write."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leafshim.errors import KernelError, LeafError, Unsupported
from leafshim.kernel import capabilities, syscalls
from leafshim.launch import Child, Executed, Failed, Plan, Ready
from leafshim.launch.operation import prove_device

Document = dict[str, Any]
Config = Callable[..., Document]
Run = Callable[[Document | Plan], tuple[int, str]]
Advance = Callable[[Child], Ready | Executed | Failed]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host that hostile symlinks point to."""
    path = tmp_path / "outside"
    path.mkdir()
    return path


@pytest.mark.parametrize("path", ["/proc", "/sys"])
def test_the_kernels_own_file_systems_are_not_mounted_through_a_symlink(
    run: Run, config: Config, skeleton: Path, outside: Path, path: str
) -> None:
    (skeleton / path.strip("/")).symlink_to(outside)
    (skeleton / str(outside).strip("/")).mkdir(parents=True)
    document = config("true", skeleton=True)
    document["mounts"].append({"destination": "/sys", "type": "sysfs"})
    with pytest.raises(KernelError, match=rf"^mount {path}: Too many levels of symbolic links$"):
        run(document)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("target", ["{outside}", "../../../../../../../..{outside}"])
def test_mount_targets_and_devices_stay_below_the_root(
    run: Run, config: Config, skeleton: Path, outside: Path, target: str
) -> None:
    hostile = target.format(outside=outside)
    (skeleton / "dev").symlink_to(hostile)
    (skeleton / "etc" / "ssl").symlink_to(hostile)
    (skeleton / str(outside).strip("/")).mkdir(parents=True)
    source = outside.parent / "source"
    source.write_text("bound")
    document = config("sh", "-c", "cat /etc/ssl/new/file; test -c /dev/zero -a -c /etc/ssl/device", skeleton=True)
    document["mounts"].append({"destination": "/etc/ssl/new/file", "source": str(source), "options": ["bind"]})
    document["linux"]["devices"] = [{"path": "/etc/ssl/device", "type": "c", "major": 1, "minor": 3}]
    assert run(document) == (0, "bound")
    assert list(outside.iterdir()) == []


def test_a_dangling_symlink_as_a_target_is_refused(run: Run, config: Config, skeleton: Path, outside: Path) -> None:
    (skeleton / "data").symlink_to(outside / "new")
    document = config("true", skeleton=True)
    document["mounts"].append({"destination": "/data", "type": "tmpfs"})
    with pytest.raises(KernelError, match=r"^mount /data: No such file or directory$"):
        run(document)
    assert list(outside.iterdir()) == []


_FLIP = """
import os, sys
path, target = sys.argv[1:]
print("flipping", flush=True)
while True:
    os.rename(path, path + ".away")
    os.symlink(target, path)
    os.unlink(path)
    os.rename(path + ".away", path)
"""


def test_racing_symlinks_lead_nowhere(run: Run, config: Config, skeleton: Path, outside: Path) -> None:
    (skeleton / "volume").mkdir()
    document = config("true", skeleton=True)
    document["mounts"].append({"destination": "/volume/a/b", "type": "tmpfs"})
    arguments = [sys.executable, "-c", _FLIP, str(skeleton / "volume"), str(outside)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as flipping:
        assert flipping.stdout is not None
        flipping.stdout.readline()
        for _ in range(30):
            try:
                run(document)
            except KernelError as error:
                refusal = str(error)
                assert refusal.startswith("mount /volume/a/b: ")
        flipping.kill()
    assert list(outside.iterdir()) == []


@pytest.fixture
def leaked() -> Iterator[int]:
    """A directory of the host, open and inheritable, as CVE-2024-21626 had it."""
    descriptor = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(descriptor, True)
    yield descriptor
    os.close(descriptor)


def test_no_descriptor_leaks(run: Run, config: Config, leaked: int) -> None:
    assert run(config("ls", "/proc/self/fd"))[1].split() == ["0", "1", "2", "3"]


@pytest.mark.parametrize("path", ["self/fd/{}", "self/fd/{}/..", "1/fd/{}", "self/cwd", "self/root"])
def test_a_leaked_directory_is_no_working_directory(run: Run, config: Config, leaked: int, path: str) -> None:
    document = config("true")
    document["process"]["cwd"] = f"/proc/{path.format(leaked)}"
    with pytest.raises(KernelError, match=r"^chdir /proc/.*: (Too many levels of|No such file or)"):
        run(document)


def test_inheritable_capabilities_are_empty_and_the_sets_exact(run: Run, config: Config) -> None:
    ours = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    effective, permitted = int(ours["CapEff"], 16), int(ours["CapPrm"], 16)
    syscalls.capset(*capabilities.structures(effective, permitted, permitted))
    try:
        document = config("cat", "/proc/self/status")
        document["process"]["user"]["uid"] = 1000
        names = ["CAP_KILL", "CAP_CHOWN"]
        document["process"]["capabilities"] = {
            "bounding": names, "permitted": names, "effective": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
        }  # fmt: skip
        ambient = dict(line.split(":\t", 1) for line in run(document)[1].splitlines())
        document["process"]["capabilities"] = {"bounding": names, "permitted": names, "effective": names}
        document["process"]["user"]["uid"] = 0
        root = dict(line.split(":\t", 1) for line in run(document)[1].splitlines())
        del document["process"]["capabilities"]
        nothing = dict(line.split(":\t", 1) for line in run(document)[1].splitlines())
    finally:
        syscalls.capset(*capabilities.structures(effective, permitted, 0))
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert [int(ambient[name], 16) for name in sets] == [0x20, 0x20, 0x20, 0x21, 0x20]
    assert [int(root[name], 16) for name in sets] == [0, 0x21, 0x21, 0x21, 0]
    assert [int(nothing[name], 16) for name in sets] == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("groups", [[], [7], [9, 7, 100000]])
def test_exactly_the_supplementary_groups_asked_for(run: Run, config: Config, groups: list[int]) -> None:
    before = os.getgroups()
    os.setgroups([4, 24])
    try:
        document = config("cat", "/proc/self/status")
        document["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": groups}
        status = dict(line.split(":\t", 1) for line in run(document)[1].splitlines())
    finally:
        os.setgroups(before)
    assert [int(group) for group in status["Groups"].split()] == sorted(groups)
    assert status["Uid"].split() == ["1000"] * 4
    assert status["Gid"].split() == ["1000"] * 4


def test_no_new_privileges(run: Run, config: Config) -> None:
    document = config("grep", "NoNewPrivs", "/proc/self/status")
    assert run(document)[1].split() == ["NoNewPrivs:", "0"]
    document["process"]["noNewPrivileges"] = True
    assert run(document)[1].split() == ["NoNewPrivs:", "1"]


def test_a_child_that_waits_is_not_dumpable_and_holds_nothing_of_ours(
    start: Any, plan: Any, config: Config, advance: Advance, leaked: int
) -> None:
    document = config("true")
    document["process"]["user"] = {"uid": 1000, "gid": 1000}
    child, _ = start(plan(document))
    assert isinstance(advance(child), Ready)
    # Of a process that is not dumpable, /proc/PID is root's and not its user's (proc(5)).
    assert os.stat(f"/proc/{child.pid}/exe", follow_symlinks=False).st_uid == 0
    held = [os.stat(f"/proc/{child.pid}/fd/{number}") for number in os.listdir(f"/proc/{child.pid}/fd")]
    assert sum(stat.S_ISSOCK(status.st_mode) for status in held) == 1
    assert not any(os.path.samestat(status, os.fstat(leaked)) for status in held)


def test_the_child_imports_nothing(run: Run, config: Config, skeleton: Path, no_imports: None) -> None:
    # Hostile modules at every place where the host's Python would look.
    for directory in sys.path:
        if directory and not directory.startswith("/usr"):
            path = skeleton / directory.strip("/")
            path.mkdir(parents=True, exist_ok=True)
            (path / "array.py").write_text("import os; os._exit(66)")
    document = config("true", skeleton=True)
    document["process"]["user"] = {"uid": 1, "gid": 1, "additionalGids": [2]}
    document["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 9}]
    document["linux"]["namespaces"].append({"type": "network"})
    document["linux"]["sysctl"] = {"kernel.shmmax": "4096"}
    document["linux"]["maskedPaths"] = ["/proc/keys", "/proc/acpi"]
    document["linux"]["readonlyPaths"] = ["/proc/sys"]
    document["process"]["oomScoreAdj"] = 1
    assert run(document) == (0, "")
    for broken in (["sleepx"], ["/usr"]):
        document["process"]["args"] = broken
        with pytest.raises(KernelError, match=r"^exec "):
            run(document)


def test_a_defect_in_a_step_comes_back_as_our_own_error(
    run: Run, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getcwd", None)
    with pytest.raises(LeafError, match=r"^TypeError: "):
        run(config("true"))


def test_null_is_proven_by_its_number(tmp_path: Path) -> None:
    null = os.makedev(1, 3)
    for path, mode, number in (
        ("zero", stat.S_IFCHR, os.makedev(1, 5)),
        ("block", stat.S_IFBLK, null),
        ("file", stat.S_IFREG, 0),
    ):
        os.mknod(tmp_path / path, mode | 0o666, number)
        descriptor = os.open(tmp_path / path, os.O_PATH)
        with pytest.raises(Unsupported, match=r"is not character device 1:3$"):
            prove_device(descriptor, null, path)
        os.close(descriptor)
    descriptor = os.open("/dev/null", os.O_PATH)
    prove_device(descriptor, null, "/dev/null")
    os.close(descriptor)


def test_a_device_that_is_there_already_must_be_the_same(run: Run, config: Config, skeleton: Path) -> None:
    (skeleton / "dev").mkdir()
    (skeleton / "dev" / "zero").write_text("mine")
    document = config("true", skeleton=True)
    document["mounts"] = [mount for mount in document["mounts"] if not mount["destination"].startswith("/dev")]
    with pytest.raises(KernelError, match=r"^make device /dev/zero: File exists$"):
        run(document)
    (skeleton / "dev" / "zero").unlink()
    assert run(document) == (0, "")
    assert run(document) == (0, "")
