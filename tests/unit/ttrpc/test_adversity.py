"""Peers that vanish, do not read, do not accept or are not wanted; and limits."""

import os
import resource
import socket
from collections.abc import Callable
from typing import Any

import pytest

from leafshim.api import shim, task
from leafshim.errors import (
    DeadlineExceeded,
    InputError,
    NotFound,
    ResourceExhausted,
    StateError,
    Unavailable,
)
from leafshim.loop import Loop
from leafshim.ttrpc import frames
from leafshim.ttrpc.client import Client
from leafshim.ttrpc.messages import Request
from leafshim.ttrpc.server import OUTPUT_LIMIT, Call, Server

STATE = task.V3.state
EVENTS = shim.EVENTS
ATTACH = shim.ATTACH
Connect = Callable[..., Any]
Serve = Callable[..., Any]


def listening(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(128)
    return listener


def test_a_lost_server_is_unavailable(serve: Serve, connect: Connect, path: str) -> None:
    running = serve()
    with connect(path) as client:
        stream = client.stream(ATTACH, shim.AttachInput(data=b"x"))
        assert stream.receive().stdout == b"x"
        running.close()
        with pytest.raises(Unavailable):
            stream.receive()
        with pytest.raises(Unavailable):
            client.call(STATE, task.StateRequest())


def test_nobody_there_is_unavailable(connect: Connect, path: str) -> None:
    with pytest.raises(Unavailable):
        connect(path)
    listening(path).close()
    with pytest.raises(Unavailable):
        connect(path)


def test_a_server_that_does_not_accept_is_late(connect: Connect, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with pytest.raises(DeadlineExceeded):
            connect(path, timeout=0.05)


def test_whom_the_server_does_not_want_is_cut_off(serve: Serve, connect: Connect, path: str) -> None:
    asked: list[tuple[int, int, int]] = []

    def nobody(*peer: int) -> bool:
        asked.append((peer[0], peer[1], peer[2]))
        return False

    serve(nobody)
    with connect(path) as client, pytest.raises(Unavailable):
        client.call(STATE, task.StateRequest())
    assert asked == [(os.getpid(), os.getuid(), os.getgid())]


@pytest.mark.usefixtures("server")
def test_calls_with_an_unread_peer_wedge_nothing(path: str) -> None:
    """A client that asks and asks and never reads is given up; another one does not notice."""
    with socket.socket(socket.AF_UNIX) as flood, Client(path, timeout=10) as other:
        flood.connect(path)
        flood.settimeout(10)
        payload = task.StateRequest(id="x" * 200_000).encode()
        request = Request(service=STATE.service, method=STATE.name, payload=payload).encode()
        most = 4 * OUTPUT_LIMIT // len(request)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012 - which send fails is the kernel's
            for number in range(most):
                flood.sendall(frames.encode(2 * number + 1, frames.REQUEST, 0, request))
                assert other.call(STATE, task.StateRequest(id="y")).id == "y"


def test_a_hundred_calls_to_a_peer_that_never_reads_all_end(connect: Connect, path: str) -> None:
    with listening(path), connect(path) as client:
        for _ in range(100):
            with pytest.raises((DeadlineExceeded, ResourceExhausted)):
                client.call(STATE, task.StateRequest(id="x" * 200_000), timeout=0.01)


@pytest.mark.usefixtures("server")
def test_both_ends_may_write_more_than_the_sockets_hold(path: str) -> None:
    with Client(path) as client, client.stream(ATTACH, timeout=60) as stream:
        for _ in range(12):
            stream.send(shim.AttachInput(data=bytes(500_000)))
        stream.close_send()
        assert [len(message.stdout) for message in stream] == [500_000] * 12


@pytest.mark.usefixtures("server")
def test_ready_never_waits(path: str) -> None:
    with Client(path) as client, client.stream(ATTACH) as stream:
        assert not stream.ready()
        with pytest.raises(DeadlineExceeded):
            stream.receive(timeout=0.01)
        stream.send(shim.AttachInput(data=b"x"))
        message = stream.receive(timeout=10)
        assert message is not None
        assert message.stdout == b"x"
        stream.close_send()
        assert stream.receive() is None
        assert stream.ready()


@pytest.mark.usefixtures("server")
def test_using_a_method_the_wrong_way_is_the_callers_error(path: str) -> None:
    with Client(path) as client:
        assert client.call(STATE, task.StateRequest(id="x")).id == "x"
        with pytest.raises(StateError):
            client.call(EVENTS, shim.EventsRequest())
        with pytest.raises(StateError):
            client.stream(STATE, task.StateRequest())


def test_a_path_that_is_too_long_is_refused() -> None:
    with pytest.raises(InputError):
        Client("/" + "x" * 108)


def test_closing_tells_the_calls(path: str) -> None:
    """on_close comes once when the connection is gone, with `closed` set, and late answers are dropped."""
    closed: list[bool] = []
    defects: list[BaseException] = []
    loop = Loop(defects.append)

    def wait(_request: task.WaitRequest, call: Call[task.WaitRequest, task.WaitResponse]) -> None:
        def on_close() -> None:
            closed.append(call.closed)
            call.reply(task.WaitResponse())
            call.fail(NotFound("late"))
            loop.stop()

        call.on_close = on_close
        client.close()

    server = Server(loop, listening(path), {task.V3.wait: wait})
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.send(frames.encode(1, frames.REQUEST, 0, Request(service=task.V3.wait.service, method="Wait").encode()))
    loop.run()
    server.close()
    assert closed == [True]
    assert defects == []
    assert loop.descriptors() == []
    loop.close()


def test_a_shut_listener_pauses_without_spinning(path: str) -> None:
    """Out of descriptors: the listener leaves epoll for a while instead of being reported for ever."""
    defects: list[BaseException] = []
    loop = Loop(defects.append)
    listener = listening(path)
    server = Server(loop, listener, {})
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    with open_files_exhausted():
        loop.call_later(0, loop.stop)
        loop.run()
        assert loop.descriptors() == []
    assert defects == []
    server.close()
    client.close()
    loop.close()


class open_files_exhausted:  # noqa: N801 - reads as a statement
    """No further descriptor can be opened within."""

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self._before)
