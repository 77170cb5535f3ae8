"""The nursery: forks shims, keeps descriptors, and outlives whoever asks."""

import os
import secrets
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from leafshim.api import nursery, shim
from leafshim.bundle import Bundle
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.errors import Code
from leafshim.kernel import fdpass, pidfd
from leafshim.ttrpc.client import Client


class Nursery:
    """A nursery in a process and a cgroup of its own, and one connection to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cgroup = Cgroup(os.path.join(find_mount(), f"leafd-test-{os.getpid()}-{secrets.token_hex(4)}"))
        self.shims = self.cgroup.child("shims")
        self.cgroup.create()
        self.shims.create()
        path = str(directory / "nursery.sock")
        with fdpass.listen(path, kind=socket.SOCK_SEQPACKET) as server:
            command = [sys.executable, "-I", "-m", "leafshim.nursery", "--fd", str(server.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[server.fileno()])
        self.path = path
        self.connection = self.connect()

    def connect(self) -> socket.socket:
        connection = fdpass.connect(self.path, kind=socket.SOCK_SEQPACKET)
        connection.settimeout(30)
        return connection

    def receive(self) -> tuple[nursery.Packet, list[int]]:
        data, descriptors = fdpass.receive(self.connection, 1 << 16)
        return nursery.Packet.decode(data), descriptors

    def ask(self, descriptors: tuple[int, ...] = (), **request: object) -> tuple[nursery.Reply, list[int]]:
        fdpass.send(self.connection, nursery.Request(**request).encode(), list(descriptors))  # type: ignore[arg-type]
        packet, received = self.receive()
        assert packet.reply is not None
        return packet.reply, received

    def spawn(self, name: str) -> tuple[nursery.Reply, int, Bundle]:
        bundle = Bundle(str(self.directory / name))
        os.mkdir(bundle.path)
        reply, (fd, line) = self.ask(spawn=nursery.Spawn(cgroup=self.shims.path))
        assert reply.code == Code.OK
        with socket.socket(fileno=line) as orders, fdpass.listen(bundle.socket) as listener:
            fdpass.send(orders, f"{name}\0{bundle.path}".encode(), [listener.fileno()])
        return reply, fd, bundle

    def close(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()
        self.cgroup.remove_tree(30)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Nursery]:
    instance = Nursery(tmp_path)
    yield instance
    instance.close()


def test_a_shim_is_forked_into_the_cgroup_of_shims_and_answers(home: Nursery) -> None:
    reply, fd, bundle = home.spawn("web")
    assert pidfd.pid_of(fd) == reply.pid
    assert pidfd.start_time(reply.pid) == reply.start_time
    assert reply.pid in home.shims.processes()
    with Client(bundle.socket, 30) as client:
        info = client.call(shim.INFO, shim.InfoRequest())
    assert (info.id, info.shim_pid, info.state) == ("web", reply.pid, "PREPARING")
    os.close(fd)


def test_a_shim_has_nothing_of_the_nursery(home: Nursery) -> None:
    def sockets(pid: int) -> set[str]:
        names = f"/proc/{pid}/fd"
        targets = {os.readlink(f"{names}/{name}") for name in os.listdir(names)}
        return {target for target in targets if target.startswith("socket:")}

    for name in ("one", "two"):
        reply, fd, bundle = home.spawn(name)
        os.close(fd)
    with Client(bundle.socket, 30) as client:
        client.call(shim.INFO, shim.InfoRequest())
        assert not sockets(reply.pid) & sockets(home.process.pid)


def test_the_interpreter_of_a_shim_is_a_sealed_copy(home: Nursery) -> None:
    reply, fd, _ = home.spawn("web")
    assert os.readlink(f"/proc/{reply.pid}/exe").startswith("/memfd:")
    with pytest.raises(OSError, match=r"Text file busy|Operation not permitted"):
        os.open(f"/proc/{reply.pid}/exe", os.O_WRONLY)
    os.close(fd)


def test_descriptors_are_kept_and_given_back(home: Nursery) -> None:
    reader, writer = os.pipe()
    reply, _ = home.ask((reader,), keep=nursery.Keep(id="web", names=["stdout"]))
    assert reply.code == Code.OK
    os.close(reader)
    os.write(writer, b"still here")
    home.connection.close()
    home.connection = home.connect()
    reply, (kept,) = home.ask(take=nursery.Take(id="web"))
    assert reply.names == ["stdout"]
    assert os.read(kept, 100) == b"still here"
    os.close(kept)
    reply, _ = home.ask(forget=nursery.Forget(id="web"))
    assert reply.code == Code.OK
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"nobody reads")
    reply, _ = home.ask(take=nursery.Take(id="web"))
    assert reply.code == Code.NOT_FOUND
    os.close(writer)


def test_names_and_descriptors_must_match(home: Nursery) -> None:
    reply, _ = home.ask((0,), keep=nursery.Keep(id="web", names=["stdin", "stdout"]))
    assert reply.code == Code.INVALID_ARGUMENT


def test_the_death_of_a_shim_is_told(home: Nursery) -> None:
    reply, fd, _ = home.spawn("web")
    pidfd.send_signal(fd, signal.SIGKILL)
    packet, _ = home.receive()
    assert packet.notice is not None
    assert packet.notice.pid == reply.pid
    assert os.WTERMSIG(packet.notice.wait_status) == signal.SIGKILL
    os.close(fd)


def test_shims_outlive_the_nursery(home: Nursery) -> None:
    reply, fd, bundle = home.spawn("web")
    home.process.kill()
    home.process.wait()
    with Client(bundle.socket, 30) as client:
        assert client.call(shim.INFO, shim.InfoRequest()).shim_pid == reply.pid
    assert not select.select([fd], [], [], 0)[0]
    os.close(fd)


def test_what_nobody_understands_is_answered_too(home: Nursery) -> None:
    for garbage in (b"\xff" * 40, b"\x0a"):
        fdpass.send(home.connection, garbage, [])
        packet, _ = home.receive()
        assert packet.reply is not None
        assert packet.reply.code != Code.OK


def test_a_survey_lists_what_is_held(home: Nursery) -> None:
    home.ask((0, 0), keep=nursery.Keep(id="web", names=["init", "listener"]))
    reply, _ = home.ask(survey=nursery.Survey())
    assert reply.nursery_pid == home.process.pid
    assert [(held.id, held.names) for held in reply.held] == [("web", ["init", "listener"])]


def test_a_shim_that_gets_no_order_ends(home: Nursery) -> None:
    _, (fd, line) = home.ask(spawn=nursery.Spawn(cgroup=home.shims.path))
    os.close(line)
    assert select.select([fd], [], [], 30)[0]
    os.close(fd)


def test_what_was_given_away_is_not_held(home: Nursery) -> None:
    def held() -> int:
        for _ in range(2):  # when the second is answered, all that came before the first was taken care of
            home.ask(survey=nursery.Survey())
        return len(os.listdir(f"/proc/{home.process.pid}/fd"))

    reply, (fd, line) = home.ask(spawn=nursery.Spawn(cgroup=home.shims.path))
    before = held()
    for _ in range(20):
        os.close(line)
        assert select.select([fd], [], [], 30)[0]
        os.close(fd)
        assert home.receive()[0].notice == nursery.Notice(pid=reply.pid, wait_status=0)
        reply, (fd, line) = home.ask(spawn=nursery.Spawn(cgroup=home.shims.path))
    assert held() == before
    os.close(line)
    os.close(fd)


def test_a_supervisor_that_does_not_read_is_cut_off(home: Nursery) -> None:
    idle = home.connect()
    idle.setblocking(False)

    def flood() -> None:
        while True:
            idle.send(nursery.Request(survey=nursery.Survey()).encode())

    with pytest.raises((BlockingIOError, BrokenPipeError, ConnectionResetError)):
        flood()
    reply, _ = home.ask(survey=nursery.Survey())
    assert reply.code == Code.OK
    idle.close()
