"""Mounts, in a child with a mount namespace of its own, and joining a namespace that another made."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from leafshim.errors import KernelError
from leafshim.kernel import mounts, namespaces, paths

Spawn = Callable[..., tuple[int, int]]


def apart(spawn: Spawn, body: Callable[[], object]) -> None:
    """Run `body` in a mount namespace that tells nobody."""

    def private() -> None:
        mounts.mount("", "/", flags=mounts.MS_PRIVATE | mounts.MS_REC)
        body()

    pid, _ = spawn(private, flags=namespaces.CLONE_NEWNS)
    assert os.waitpid(pid, 0)[1] == 0


def options_of(point: Path) -> set[str]:
    with open("/proc/self/mountinfo") as file:
        found = [line.split() for line in file if line.split()[4] == str(point)]
    return set(found[-1][5].split(",")) if found else set()


def test_mount_and_umount(spawn: Spawn, tmp_path: Path) -> None:
    def body() -> None:
        options = mounts.parse_options(["nosuid", "nodev", "noexec", "size=64k", "mode=700"])
        mounts.mount("tmpfs", str(tmp_path), "tmpfs", options.flags, options.data)
        assert options_of(tmp_path) >= {"rw", "nosuid", "nodev", "noexec"}
        assert tmp_path.stat().st_mode & 0o777 == 0o700
        mounts.umount2(str(tmp_path), mounts.UMOUNT_NOFOLLOW)
        assert options_of(tmp_path) == set()

    apart(spawn, body)


def test_refusal_names_the_target(spawn: Spawn, tmp_path: Path) -> None:
    def body() -> None:
        with pytest.raises(KernelError, match=f"mount {tmp_path}: No such device"):
            mounts.mount("x", str(tmp_path), "no-such-fs")
        with pytest.raises(KernelError, match=f"umount2 {tmp_path}: Invalid argument"):
            mounts.umount2(str(tmp_path))

    apart(spawn, body)


def test_recursive_attributes(spawn: Spawn, tmp_path: Path) -> None:
    below = tmp_path / "below"

    def body() -> None:
        mounts.mount("tmpfs", str(tmp_path), "tmpfs")
        below.mkdir()
        mounts.mount("tmpfs", str(below), "tmpfs")
        options = mounts.parse_options(["rro", "rnosuid", "rnoatime"])
        mounts.mount_setattr(
            str(tmp_path), set_=options.set_attributes, clear=options.clear_attributes, flags=mounts.AT_RECURSIVE
        )
        assert options_of(tmp_path) >= {"ro", "nosuid", "noatime"}
        assert options_of(below) >= {"ro", "nosuid", "noatime"}

    apart(spawn, body)


@pytest.mark.parametrize("word", sorted(mounts.RECURSIVE))
def test_kernel_takes_every_recursive_word(spawn: Spawn, tmp_path: Path, word: str) -> None:
    def body() -> None:
        mounts.mount("tmpfs", str(tmp_path), "tmpfs")
        options = mounts.parse_options([word])
        mounts.mount_setattr(
            str(tmp_path), set_=options.set_attributes, clear=options.clear_attributes, flags=mounts.AT_RECURSIVE
        )

    apart(spawn, body)


def test_detached_filesystem_is_attached_by_descriptor(spawn: Spawn, tmp_path: Path) -> None:
    def body() -> None:
        tree = mounts.new_filesystem("tmpfs", {"size": "64k"}, mounts.MOUNT_ATTR_NOEXEC)
        target = os.open(tmp_path, os.O_PATH)
        mounts.move_mount(tree, "", directory=target)
        assert "noexec" in options_of(tmp_path)

    apart(spawn, body)


def test_refused_option_of_a_filesystem_is_named() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KernelError, match="fsconfig tmpfs bogus: Invalid argument"):
        mounts.new_filesystem("tmpfs", {"bogus": None})
    assert len(os.listdir("/proc/self/fd")) == before


def test_copy_of_a_tree(spawn: Spawn, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "source/file").write_text("x")

    def body() -> None:
        tree = mounts.open_tree(str(tmp_path / "source"), mounts.OPEN_TREE_CLONE | mounts.AT_RECURSIVE)
        mounts.mount_setattr("", directory=tree, set_=mounts.MOUNT_ATTR_RDONLY)
        mounts.move_mount(tree, str(tmp_path / "target"))
        assert (tmp_path / "target/file").read_text() == "x"
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "target/file").write_text("y")
        (tmp_path / "source/file").write_text("y")

    apart(spawn, body)


def test_pivot_root(spawn: Spawn, tmp_path: Path) -> None:
    def body() -> None:
        mounts.mount("tmpfs", str(tmp_path), "tmpfs")
        (tmp_path / "inside").write_text("x")
        os.chdir(tmp_path)
        mounts.pivot_root(".", ".")
        mounts.umount2(".", mounts.MNT_DETACH)
        assert os.listdir("/") == ["inside"]

    apart(spawn, body)


def test_join_by_descriptor_and_by_pidfd(spawn: Spawn) -> None:
    pid, pidfd = spawn(signal.pause, flags=namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWIPC)
    kinds = ("uts", "ipc")
    theirs = {kind: namespaces.namespace_id(f"/proc/{pid}/ns/{kind}") for kind in kinds}

    def join() -> None:
        with open(f"/proc/{pid}/ns/uts") as file:
            with pytest.raises(KernelError, match="setns: Invalid argument"):
                namespaces.setns(file.fileno(), namespaces.CLONE_NEWNET)
            namespaces.setns(file.fileno(), namespaces.CLONE_NEWUTS)
        namespaces.setns(pidfd, namespaces.CLONE_NEWIPC)
        assert {kind: namespaces.namespace_id(f"/proc/self/ns/{kind}") for kind in kinds} == theirs
        namespaces.unshare(namespaces.CLONE_NEWUTS)
        assert namespaces.namespace_id("/proc/self/ns/uts") != theirs["uts"]

    child, _ = spawn(join)
    assert os.waitpid(child, 0)[1] == 0


def test_namespace_of_nobody() -> None:
    with pytest.raises(KernelError, match="stat /proc/0/ns/net: No such file"):
        namespaces.namespace_id("/proc/0/ns/net")


def test_new_proc_is_proven_procfs(spawn: Spawn) -> None:
    def body() -> None:
        tree = mounts.new_filesystem("proc", {})
        assert paths.filesystem_magic(tree) == paths.PROC_MAGIC

    apart(spawn, body)
