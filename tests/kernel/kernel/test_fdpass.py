"""Descriptors over sockets, and sockets at paths of any length, at any moment of their listener's life."""

import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leafshim.errors import AlreadyExists, DeadlineExceeded, InputError, KernelError, ProtocolError, Unavailable
from leafshim.kernel import fdpass

Spawn = Callable[..., tuple[int, int]]

kinds = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET], ids=["stream", "seqpacket"])


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        yield left, right


@pytest.fixture(params=["short", "long"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One within the 108 bytes of sun_path, and one far beyond."""
    directory = tmp_path / "x"
    if request.param == "long":
        directory = directory.joinpath(*["d" * 100] * 5)
    directory.mkdir(parents=True)
    return str(directory / "shim.sock")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_descriptor_arrives_and_is_close_on_exec(pair: tuple[socket.socket, socket.socket]) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    assert fdpass.send(pair[0], b"take it", [writer, reader]) == 7
    data, [first, second] = fdpass.receive(pair[1], 100)
    assert data == b"take it"
    os.write(first, b"hello")
    assert os.read(second, 10) == b"hello"
    assert not os.get_inheritable(first)
    for fd in (reader, writer, first, second):
        os.close(fd)


def test_message_without_descriptors(pair: tuple[socket.socket, socket.socket]) -> None:
    fdpass.send(pair[0], b"plain", [])
    assert fdpass.receive(pair[1], 100) == (b"plain", [])


def test_end_of_the_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    assert fdpass.receive(pair[1], 100) == (b"", [])
    with pytest.raises(KernelError, match="sendmsg: Broken pipe"):
        fdpass.send(pair[1], b"x", [])


def test_as_many_as_the_kernel_allows(pair: tuple[socket.socket, socket.socket]) -> None:
    before = descriptors()
    fdpass.send(pair[0], b"x", [0] * fdpass.MAX_DESCRIPTORS)
    _, received = fdpass.receive(pair[1], 1)
    assert len(received) == fdpass.MAX_DESCRIPTORS
    for fd in received:
        os.close(fd)
    with pytest.raises(KernelError):
        fdpass.send(pair[0], b"x", [0] * (fdpass.MAX_DESCRIPTORS + 1))
    assert descriptors() == before


def test_more_than_wanted_is_an_error_that_leaks_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    before = descriptors()
    fdpass.send(pair[0], b"x", [0] * 20)
    with pytest.raises(ProtocolError, match="cut short"):
        fdpass.receive(pair[1], 1, limit=2)
    assert descriptors() == before


def test_data_that_does_not_fit_is_an_error_that_leaks_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    before = descriptors()
    fdpass.send(pair[0], b"xyz", [0])
    with pytest.raises(ProtocolError, match="cut short"):
        fdpass.receive(pair[1], 2)
    assert descriptors() == before


def test_full_descriptor_table_is_an_error_that_leaks_nothing(
    pair: tuple[socket.socket, socket.socket], spawn: Spawn
) -> None:
    def receive() -> None:
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, highest + 1))
        spare = [os.dup(0)]
        while True:
            try:
                spare.append(os.dup(0))
            except OSError:
                break
        os.close(spare.pop())
        with pytest.raises(ProtocolError, match="cut short"):
            fdpass.receive(pair[1], 1)
        os.close(os.dup(0))  # the one place is free again

    fdpass.send(pair[0], b"x", [0, 0])
    pid, _ = spawn(receive)
    assert os.waitpid(pid, 0)[1] == 0


@kinds
def test_listen_and_connect(path: str, kind: int) -> None:
    before = descriptors()
    with fdpass.listen(path, 5, kind=kind) as listener:
        with fdpass.connect(path, kind=kind, timeout=5) as client, listener.accept()[0] as server:
            client.sendall(b"hello")
            assert server.recv(10) == b"hello"
            assert client.gettimeout() is None
            assert fdpass.peer_credentials(server) == (os.getpid(), os.getuid(), os.getgid())
        assert not os.get_inheritable(listener.fileno())
    assert descriptors() == before


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_mode_is_0600_whatever_the_umask(path: str, umask: int) -> None:
    former = os.umask(umask)
    try:
        with fdpass.listen(path):
            assert os.stat(path).st_mode & 0o777 == 0o600
            assert os.umask(umask) == umask
    finally:
        os.umask(former)


@kinds
def test_stale_socket_is_replaced(path: str, kind: int) -> None:
    fdpass.listen(path, kind=kind).close()
    assert os.path.exists(path)
    fdpass.listen(path, kind=kind).close()
    with fdpass.listen(path, kind=kind), fdpass.connect(path, kind=kind, timeout=5):
        pass


@kinds
def test_socket_with_a_listener_is_not_replaced(path: str, kind: int) -> None:
    with fdpass.listen(path, kind=kind):
        inode = os.stat(path).st_ino
        for other in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            with pytest.raises(AlreadyExists, match="somebody listens"):
                fdpass.listen(path, kind=other)
        assert os.stat(path).st_ino == inode


def test_socket_with_a_full_backlog_is_not_replaced(path: str) -> None:
    with fdpass.listen(path, 0), fdpass.connect(path):
        with pytest.raises(AlreadyExists, match="somebody listens"):
            fdpass.listen(path)
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.01 s"):
            fdpass.connect(path, timeout=0.01)


def test_file_that_is_no_socket_is_not_replaced(path: str) -> None:
    Path(path).write_text("precious")
    with pytest.raises(AlreadyExists, match="no socket"):
        fdpass.listen(path)
    assert Path(path).read_text() == "precious"


def test_of_many_that_start_at_once_one_listens(path: str, spawn: Spawn) -> None:
    fdpass.listen(path).close()
    start, begin = os.pipe()
    done, tell = os.pipe()
    finish, end = os.pipe()

    def contend() -> None:
        os.read(start, 1)
        try:
            listener = fdpass.listen(path)
            os.write(tell, b"1")
            os.read(finish, 1)
            listener.close()
        except AlreadyExists:
            os.write(tell, b"0")

    for _ in range(8):
        spawn(contend)
    os.write(begin, b"x" * 8)
    assert sorted(b"".join(os.read(done, 1) for _ in range(8))) == sorted(b"1" + b"0" * 7)
    for fd in (start, begin, done, tell, finish, end):
        os.close(fd)


def test_nobody_there(path: str) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        fdpass.connect(path)
    fdpass.listen(path).close()
    with pytest.raises(Unavailable, match="refused"):
        fdpass.connect(path)


def test_directory_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"listen .*: No such file"):
        fdpass.listen(str(tmp_path / "missing/shim.sock"))


def test_name_that_cannot_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must not be longer"):
        fdpass.listen(str(tmp_path / ("n" * 120)))
