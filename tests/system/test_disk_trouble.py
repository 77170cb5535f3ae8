"""Disks that are full, read-only or hold what is not ours. They are leafd's alone, in a mount namespace of its own."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leafd.client import Client
from leafd.describe import Document, describe
from leafshim import record
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.kernel import mounts
from leafshim.kernel.namespaces import CLONE_NEWNS, unshare
from leafshim.state import RUNNING, STOPPED
from tests.harness.leafd import DEADLINE, Leafd

SLEEP = describe(("sleep", "1000"))


def _small(path: Path) -> Callable[[], None]:
    """For leafd's process: a disk of a megabyte at `path`."""

    def prepare() -> None:
        unshare(CLONE_NEWNS)
        mounts.mount("none", "/", "", mounts.MS_REC | mounts.MS_PRIVATE, "")
        mounts.mount("small", str(path), "tmpfs", 0, "size=1m")

    return prepare


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Leafd]:
    """One that is not started yet; its socket is on no disk of its own."""
    leafd = Leafd(tmp_path)
    leafd.socket = tmp_path / "socket"
    leafd.root.mkdir()
    leafd.state.mkdir()
    try:
        yield leafd
    finally:
        leafd.close()


def _start(leafd: Leafd, disk: Path) -> Path:
    """Start it with a small disk there; where we see that disk."""
    leafd.start("--socket", str(leafd.socket), prepare=_small(disk))
    assert leafd.process is not None
    return Path(f"/proc/{leafd.process.pid}/root{disk}")


def _fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return filler


def _told(tmp_path: Path) -> tuple[Document, Path]:
    """A container that exits with the status that is written into a fifo; and that."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    mount: Document = {"destination": "/told", "type": "bind", "source": str(fifo), "options": ["bind", "rw"]}
    return describe(("sh", "-c", "read status < /told; exit $status"), mounts=[mount]), fifo


def _exits(client: Client) -> list[int | None]:
    return [event.exit.status for event in client.events() if event.type == "exit" and event.exit]


def test_an_end_on_a_full_disk_is_told_when_there_is_room(installation: Leafd, tmp_path: Path) -> None:
    """What cannot be written is said so, nothing is lost, and nobody has to ask again."""
    leafd = installation
    document, fifo = _told(tmp_path)
    seen = _start(leafd, leafd.root)
    with leafd.client as client:
        client.create("web", document, start=True)
        filler = _fill(seen)
        fifo.write_text("3\n")
        while "No space left on device" not in client.inspect("web").problem:
            os.sched_yield()
        assert client.inspect("web").state != STOPPED
        filler.unlink()
        ended = client.wait("web", timeout=DEADLINE)
        assert ended.exit is not None
        assert (ended.state, ended.exit.status, ended.problem) == (STOPPED, 3, "")
        assert _exits(client) == [3]
        client.remove("web")
        assert client.list() == []


def test_an_exit_record_that_has_no_room_is_told_of_in_the_exit(installation: Leafd, tmp_path: Path) -> None:
    leafd = installation
    document, fifo = _told(tmp_path)
    seen = _start(leafd, leafd.state)
    with leafd.client as client:
        client.create("web", document, start=True)
        _fill(seen)
        fifo.write_text("3\n")
        ended = client.wait("web", timeout=DEADLINE)
        assert ended.exit is not None
        assert (ended.state, ended.exit.status) == (STOPPED, 3)
        assert "the exit record could not be written" in ended.exit.message
        assert "No space left on device" in ended.exit.message


def test_a_launch_on_a_full_disk_is_refused_and_leaves_nothing(installation: Leafd) -> None:
    leafd = installation
    seen = _start(leafd, leafd.root)
    filler = _fill(seen)
    refused = leafd.ctl("run", "-d", "--name", "web", "--", "sleep", "1000")
    assert refused.returncode == 125
    assert refused.stderr.startswith("leafctl: run: ")
    assert "No space left on device" in refused.stderr
    assert refused.stderr.count("\n") == 1
    with leafd.client as client:
        assert client.list() == []
        assert not leafd.cgroup_of("web").exists()
        filler.unlink()
        assert client.create("web", SLEEP, start=True).state == RUNNING


@pytest.mark.parametrize("disk", ["root", "state"])
def test_a_read_only_disk_is_refused_in_one_line(installation: Leafd, disk: str) -> None:
    leafd = installation
    path = getattr(leafd, disk)

    def prepare() -> None:
        _small(path)()
        mounts.mount("none", str(path), "", mounts.MS_REMOUNT | mounts.MS_RDONLY, "")

    with pytest.raises(AssertionError, match="leafd ended with status 1"):
        leafd.start("--socket", str(leafd.socket), prepare=prepare)
    said = leafd.output.read_text()
    assert said.startswith("leafd: ")
    assert said.endswith("Read-only file system\n")
    assert said.count("\n") == 1


def test_leafd_starts_on_a_full_disk(installation: Leafd) -> None:
    installation.start("--socket", str(installation.socket), prepare=_roomless(installation.state))
    with installation.client as client:
        assert client.list() == []
    assert "torn at byte 8 of 4096" in installation.output.read_text()


def _roomless(path: Path) -> Callable[[], None]:
    """A disk that has the directories and an empty journal, and no byte more."""

    def prepare() -> None:
        _small(path)()
        for name in ("exits", "events"):
            (path / name).mkdir(0o700)
        (path / "events" / f"{1:020d}").write_bytes(b"LEAFEVT\x01" + bytes(4088))  # its page is full with damage
        (path / "lock").touch()
        _fill(path)

    return prepare


def test_anothers_checkpoint_is_no_reason_to_signal_anybody(leafd: Leafd) -> None:
    with leafd.client as client:
        web, other = (client.create(name, SLEEP, start=True) for name in ("web", "other"))
    leafd.kill()
    directory = leafd.root / "containers"
    (directory / "web" / "checkpoint").write_bytes((directory / "other" / "checkpoint").read_bytes())
    (directory / "web" / "container").write_bytes(b"garbage")
    leafd.start()
    with leafd.client as client:
        client.recover()
        client.remove("web", force=True)
        found = client.inspect("other")
        assert (found.state, found.pid, found.shim_pid) == (RUNNING, other.pid, other.shim_pid)
        assert not Cgroup(web.cgroup).exists()


def test_anothers_cgroup_is_not_removed(leafd: Leafd) -> None:
    """A record that came from elsewhere, whole as it is, names a cgroup that is not ours."""
    foreign = Cgroup(f"{leafd.cgroups_root}-foreign")
    foreign.create()
    process = subprocess.Popen(["sleep", "1000"])
    try:
        foreign.write("cgroup.procs", str(process.pid))
        with leafd.client as client:
            client.create("web", SLEEP, start=True)
        leafd.kill()
        path = str(leafd.root / "containers" / "web" / "container")
        record.write(path, "container", {**record.read(path, "container"), "cgroup": foreign.path})
        leafd.start()
        with leafd.client as client:
            assert client.inspect("web").state == RUNNING
            client.remove("web", force=True)
        assert process.poll() is None
        assert "is no cgroup of this leafd's" in leafd.output.read_text()
    finally:
        process.kill()
        process.wait(DEADLINE)
        foreign.remove_tree(DEADLINE)


def test_a_directory_that_vanished_makes_an_orphan_whose_end_is_told(leafd: Leafd) -> None:
    with leafd.client as client:
        made = client.create("web", SLEEP, start=True)
    leafd.kill()
    subprocess.run(["rm", "-r", str(leafd.root / "containers" / "web")], check=True, timeout=DEADLINE)
    leafd.start()
    with leafd.client as client:
        with client.events(follow=True) as events:
            assert any(event.type == "orphan-reaped" and made.cgroup in event.message for event in events)
        assert client.list() == []
        assert not os.path.exists(made.cgroup)
