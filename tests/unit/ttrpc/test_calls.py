"""Every form of call between every client and every server of ours, over real unix sockets."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

from leafshim.api import shim, task
from leafshim.errors import (
    Code,
    DeadlineExceeded,
    InputError,
    InternalError,
    LeafError,
    PeerError,
    ResourceExhausted,
    StateError,
    Unsupported,
    from_status,
)
from leafshim.ttrpc import frames
from leafshim.ttrpc.frames import PAYLOAD_LIMIT
from leafshim.ttrpc.messages import Request, Response
from leafshim.ttrpc.service import Method

STATE = task.V3.state
EVENTS = shim.EVENTS
ATTACH = shim.ATTACH
JOIN = Method("test.Test", "Join", shim.AttachInput, shim.AttachOutput, client_streaming=True)

Connect = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("server")


def test_unary(connect: Connect, path: str) -> None:
    with connect(path) as client:
        for number in range(10):
            answer = client.call(STATE, task.StateRequest(id=f"web{number}"), timeout=10)
            assert answer == task.StateResponse(id=f"web{number}", pid=42)


def test_answered_later_and_who_asked(connect: Connect, path: str) -> None:
    with connect(path) as client:
        assert client.call(STATE, task.StateRequest(id="later")) == task.StateResponse(id="later")


@pytest.mark.parametrize("count", [0, 1, 3000])
def test_server_streaming(connect: Connect, path: str, count: int) -> None:
    with connect(path) as client, client.stream(EVENTS, shim.EventsRequest(after=count)) as stream:
        assert [event.sequence for event in stream] == list(range(1, count + 1))
        assert stream.receive() is None


@pytest.mark.parametrize("parts", [[], [b"one"], [b"one", b"", b"two"], [bytes(1 << 20)] * 3])
def test_client_streaming(connect: Connect, path: str, parts: list[bytes]) -> None:
    with connect(path) as client, client.stream(JOIN) as stream:
        for part in parts:
            stream.send(shim.AttachInput(data=part))
        stream.close_send()
        assert stream.receive() == shim.AttachOutput(stdout=b"".join(parts))


def test_both_streaming(connect: Connect, path: str) -> None:
    with connect(path) as client, client.stream(ATTACH, shim.AttachInput(data=b"first")) as stream:
        assert stream.receive().stdout == b"first"
        for data in (b"a", b"", b"c" * 100_000):
            stream.send(shim.AttachInput(data=data))
            assert stream.receive().stdout == data
        stream.close_send()
        assert stream.receive() is None
        with pytest.raises(StateError):
            stream.send(shim.AttachInput())


def test_streams_side_by_side_with_calls(connect: Connect, path: str) -> None:
    with connect(path) as client:
        streams = [client.stream(ATTACH) for _ in range(20)]
        for number, stream in enumerate(streams):
            stream.send(shim.AttachInput(data=b"%d" % number))
        assert client.call(STATE, task.StateRequest(id="x")).id == "x"
        for number, stream in reversed(list(enumerate(streams))):
            assert stream.receive().stdout == b"%d" % number
            stream.close_send()
            assert stream.receive() is None


def test_an_error_ends_a_stream(connect: Connect, path: str) -> None:
    with connect(path) as client, client.stream(JOIN) as stream:
        stream.send(shim.AttachInput(data=b"fail"))
        with pytest.raises(InputError, match="as you wish"):
            stream.receive()
        with pytest.raises(InputError, match="as you wish"):
            stream.send(shim.AttachInput(data=b"more"))


@pytest.mark.parametrize("code", range(1, 18))
def test_every_status_comes_out_as_its_class(connect: Connect, path: str, code: int) -> None:
    expected = from_status(code, f"code {code}")
    with connect(path) as client, pytest.raises(LeafError) as raised:
        client.call(STATE, task.StateRequest(id=f"code {code}"))
    assert type(raised.value) is type(expected)
    assert (raised.value.code, str(raised.value)) == (code, str(expected))


def test_a_kernel_error_keeps_its_words(connect: Connect, path: str) -> None:
    with connect(path) as client, pytest.raises(PeerError, match="mount /proc: Operation not permitted") as raised:
        client.call(STATE, task.StateRequest(id="kernel"))
    assert raised.value.code == Code.PERMISSION_DENIED


def test_a_defect_is_internal_and_hurts_nobody_else(connect: Connect, path: str, server: Any) -> None:
    with connect(path) as client:
        with pytest.raises(InternalError, match="ValueError: a bug"):
            client.call(STATE, task.StateRequest(id="defect"))
        assert [str(defect) for defect in server.defects] == ["a bug"]
        assert client.call(STATE, task.StateRequest(id="x")).id == "x"


def test_unknown_service_and_method(connect: Connect, path: str) -> None:
    with connect(path) as client:
        with pytest.raises(Unsupported, match=r"no service containerd\.task\.v2\.Task"):
            client.call(task.V2.state, task.StateRequest())
        with pytest.raises(Unsupported, match=r"no method Kill in containerd\.task\.v3\.Task"):
            client.call(task.V3.kill, task.KillRequest())


def test_a_method_of_another_form_is_refused(connect: Connect, path: str) -> None:
    as_stream = Method(STATE.service, STATE.name, STATE.request, STATE.response, server_streaming=True)
    as_unary = Method(EVENTS.service, EVENTS.name, EVENTS.request, EVENTS.response)
    with connect(path) as client:
        with pytest.raises(InputError), client.stream(as_stream, task.StateRequest()) as stream:
            stream.receive()
        with pytest.raises(InputError):
            client.call(as_unary, shim.EventsRequest())


def test_a_malformed_payload_is_internal(connect: Connect, path: str) -> None:
    odd = Method(STATE.service, STATE.name, shim.AttachOutput, STATE.response)
    with connect(path) as client, pytest.raises(InternalError, match="StateRequest: text is not UTF-8"):
        client.call(odd, shim.AttachOutput(stdout=b"\xff"))


def test_deadlines_leave_the_connection_good(connect: Connect, path: str) -> None:
    with connect(path) as client:
        with pytest.raises(DeadlineExceeded):
            client.call(STATE, task.StateRequest(id="never"), timeout=0.05)
        assert client.call(STATE, task.StateRequest(id="x"), timeout=10).id == "x"


def test_the_server_enforces_the_deadline_by_itself(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        request = Request(service=STATE.service, method=STATE.name, timeout_nano=1)
        request.payload = task.StateRequest(id="never").encode()
        sock.sendall(frames.encode(1, frames.REQUEST, 0, request.encode()))
        (answer,) = frames.FrameReader().feed(sock.recv(65536))
    assert isinstance(answer, frames.Frame)
    status = Response.decode(answer.payload).status
    assert status is not None
    assert status.code == Code.DEADLINE_EXCEEDED


def test_an_answer_over_the_limit_is_an_error(connect: Connect, path: str) -> None:
    with connect(path) as client:
        with pytest.raises(ResourceExhausted):
            client.call(STATE, task.StateRequest(id="big"))
        with pytest.raises(ResourceExhausted):
            client.call(STATE, task.StateRequest(id="x" * PAYLOAD_LIMIT))
        assert client.call(STATE, task.StateRequest(id="x" * 1_000_000)).id == "x" * 1_000_000
