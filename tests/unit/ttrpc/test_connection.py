"""The state machine alone: its table, its refusals, and that no bytes upset it."""

import struct
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leafshim.errors import Code, InputError, LeafError, NotFound, ProtocolError, ResourceExhausted, StateError
from leafshim.ttrpc import connection, frames
from leafshim.ttrpc.connection import (
    ANSWER,
    CLIENT_END,
    CLIENT_MESSAGE,
    OPEN,
    REPLYING,
    SERVER_END,
    SERVER_MESSAGE,
    TRANSITIONS,
    UNARY,
    ClientConnection,
    Ended,
    Event,
    Failed,
    MessageReceived,
    RequestReceived,
    ResponseReceived,
    ServerConnection,
)
from leafshim.ttrpc.frames import DATA, NO_DATA, PAYLOAD_LIMIT, REMOTE_CLOSED, REQUEST, RESPONSE
from leafshim.ttrpc.messages import Request, Response, Status

Pair = tuple[ClientConnection, ServerConnection]


def to_server(pair: Pair) -> list[Event]:
    data = bytes(pair[0].output)
    pair[0].output.clear()
    return list(pair[1].receive(data))


def to_client(pair: Pair) -> list[Event]:
    data = bytes(pair[1].output)
    pair[1].output.clear()
    return list(pair[0].receive(data))


def opened(state: str) -> tuple[Pair, int]:
    pair = ClientConnection(), ServerConnection()
    stream = pair[0].request("s", "m", b"", state=state)
    assert [(event.stream, event.state) for event in to_server(pair) if isinstance(event, RequestReceived)] == [
        (stream, state)
    ]
    return pair, stream


def take(pair: Pair, stream: int, step: str) -> list[Event]:
    """Do a step at its end, and carry it to the other."""
    client, server = pair
    if step == CLIENT_MESSAGE:
        client.send(stream, b"x")
    elif step == CLIENT_END:
        client.end(stream)
    elif step == SERVER_MESSAGE:
        server.send(stream, b"x")
    elif step == SERVER_END:
        server.end(stream)
    elif step == ANSWER:
        server.respond(stream, b"x")
    return to_server(pair) if step in (CLIENT_MESSAGE, CLIENT_END) else to_client(pair)


STEPS: dict[str, Event] = {
    CLIENT_MESSAGE: MessageReceived(1, b"x"),
    CLIENT_END: Ended(1),
    SERVER_MESSAGE: MessageReceived(1, b"x"),
    SERVER_END: Ended(1),
    ANSWER: ResponseReceived(1, b"x"),
}


@pytest.mark.parametrize(("state", "step"), list(product([UNARY, OPEN, REPLYING], STEPS)))
def test_both_ends_follow_the_table(state: str, step: str) -> None:
    pair, stream = opened(state)
    if (state, step) not in TRANSITIONS:
        with pytest.raises(StateError):
            take(pair, stream, step)
        assert (bytes(pair[0].output), bytes(pair[1].output)) == (b"", b"")
        assert pair[0].is_open(stream)
        assert pair[1].is_open(stream)
        return
    assert take(pair, stream, step) == [STEPS[step]]
    over = TRANSITIONS[state, step] is None
    assert (pair[0].is_open(stream), pair[1].is_open(stream)) == (not over, not over)
    if over:
        for after in STEPS:
            with pytest.raises(StateError):
                take(pair, stream, after)


def test_the_table_reaches_an_end_from_every_state() -> None:
    assert {state for state, step in TRANSITIONS if step == ANSWER} == {UNARY, OPEN, REPLYING}
    assert all(TRANSITIONS[key] is None for key in TRANSITIONS if key[1] == ANSWER)


def refusals(server: ServerConnection, data: bytes) -> list[tuple[int, int]]:
    """(stream, code) of the responses to `data`."""
    list(server.receive(data))
    answers = frames.FrameReader().feed(bytes(server.output))
    server.output.clear()
    result = []
    for frame in answers:
        assert isinstance(frame, frames.Frame)
        status = Response.decode(frame.payload).status
        assert status is not None
        result.append((frame.stream, status.code))
    return result


def request(stream: int, flags: int = 0) -> bytes:
    return frames.encode(stream, REQUEST, flags, Request(service="s", method="m").encode())


def test_a_server_refuses_what_breaks_the_rules_and_goes_on() -> None:
    server = ServerConnection()
    invalid = Code.INVALID_ARGUMENT
    assert refusals(server, request(2)) == [(2, invalid)]
    assert refusals(server, request(5)) == []
    assert refusals(server, request(3)) == [(3, invalid)]
    assert refusals(server, request(5)) == [(5, invalid)]
    assert not server.is_open(5)
    assert refusals(server, frames.encode(9, DATA, 0, b"")) == [(9, invalid)]
    assert refusals(server, frames.encode(5, DATA, 0, b"")) == []  # crossed with its end
    assert refusals(server, request(7) + frames.encode(7, DATA, 0, b"")) == [(7, invalid)]
    assert refusals(server, request(11, flags=3)) == [(11, invalid)]
    assert refusals(server, frames.encode(13, REQUEST, 0, b"\xff")) == [(13, invalid)]
    assert refusals(server, struct.pack(">IIBB", PAYLOAD_LIMIT + 1, 15, REQUEST, 0)) == [(15, Code.RESOURCE_EXHAUSTED)]
    list(server.receive(bytes(PAYLOAD_LIMIT + 1)))
    assert refusals(server, frames.encode(17, 9, 0, b"")) == []
    assert [type(event) for event in server.receive(request(19))] == [RequestReceived]


def test_a_refused_stream_fails_at_both_ends() -> None:
    (client, server), stream = opened(OPEN)
    client.end(stream)
    late = bytes(client.output) + frames.encode(stream, DATA, 0, b"late")
    events = list(server.receive(late))
    assert [type(event) for event in events] == [Ended, Failed]
    (failed,) = client.receive(bytes(server.output))
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, InputError)


def test_calls_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STREAM_LIMIT", 2)
    server = ServerConnection()
    assert refusals(server, request(1) + request(3) + request(5)) == [(5, Code.RESOURCE_EXHAUSTED)]
    server.respond(1, b"")
    server.output.clear()
    assert refusals(server, request(7)) == []


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (frames.encode(1, RESPONSE, 0, b"\xff"), ProtocolError),
        (frames.encode(1, DATA, 0, b""), ProtocolError),
        (struct.pack(">IIBB", PAYLOAD_LIMIT + 1, 1, RESPONSE, 0), ResourceExhausted),
        (frames.encode(1, RESPONSE, 0, Response(status=Status(code=5, message="gone")).encode()), NotFound),
    ],
)
def test_what_ends_a_call_at_the_client(frame: bytes, error: type[LeafError]) -> None:
    client = ClientConnection()
    stream = client.request("s", "m", b"")
    (event,) = client.receive(frame)
    assert isinstance(event, Failed)
    assert type(event.error) is error
    assert not client.is_open(stream)
    assert client.request("s", "m", b"") == 3


def test_an_abandoned_call_is_not_heard_of_again() -> None:
    pair, stream = opened(REPLYING)
    pair[0].abandon(stream)
    pair[1].send(stream, b"x")
    pair[1].respond(stream, b"x")
    assert to_client(pair) == []


def test_the_last_message_may_carry_the_end() -> None:
    client = ClientConnection()
    stream = client.request("s", "m", b"", state=REPLYING)
    events = list(client.receive(frames.encode(stream, DATA, REMOTE_CLOSED, b"x")))
    assert events == [MessageReceived(stream, b"x"), Ended(stream)]


def test_an_answer_between_a_message_and_its_end_is_heeded() -> None:
    (client, server), stream = opened(OPEN)
    client.send(stream, b"x")
    events = server.receive(frames.encode(stream, DATA, REMOTE_CLOSED, b"x"))
    assert next(events) == MessageReceived(stream, b"x")
    server.respond(stream, b"")
    assert list(events) == []


def test_empty_messages_are_messages_unless_flagged() -> None:
    server = ServerConnection()
    list(server.receive(request(1, flags=2)))
    assert list(server.receive(frames.encode(1, DATA, 0, b""))) == [MessageReceived(1, b"")]
    assert list(server.receive(frames.encode(1, DATA, NO_DATA, b""))) == []


def test_a_message_over_the_limit_changes_nothing() -> None:
    (client, server), stream = opened(UNARY)
    with pytest.raises(ResourceExhausted):
        server.respond(stream, bytes(PAYLOAD_LIMIT))
    assert not server.output
    server.fail(stream, Code.RESOURCE_EXHAUSTED, "too much")
    with pytest.raises(ResourceExhausted):
        client.request("s", "m", bytes(PAYLOAD_LIMIT))
    assert client.request("s", "m", b"") == 3


def test_metadata_and_timeout_arrive() -> None:
    pair = ClientConnection(), ServerConnection()
    pair[0].request("s", "m", b"p", timeout_ns=5, metadata=[("k", "v"), ("k", "w")])
    (event,) = to_server(pair)
    assert isinstance(event, RequestReceived)
    assert (event.request.timeout_nano, event.request.payload) == (5, b"p")
    assert [(pair.key, pair.value) for pair in event.request.metadata] == [("k", "v"), ("k", "w")]


def test_an_error_of_any_text_can_be_sent() -> None:
    (client, server), stream = opened(UNARY)
    server.fail(stream, 0, "\udcff" * 10_000_000)
    (event,) = client.receive(bytes(server.output))
    assert isinstance(event, Failed)
    assert event.error.code == Code.UNKNOWN


FRAME = st.builds(
    frames.encode,
    st.integers(0, 12),
    st.integers(0, 4),
    st.integers(0, 7),
    st.binary(max_size=20) | st.builds(lambda text: Request(service=text).encode(), st.text("abc", max_size=3)),
)
ANYTHING = st.lists(FRAME | st.binary(max_size=30), max_size=20).map(b"".join)


@settings(max_examples=500)
@given(ANYTHING, st.lists(st.integers(0, 600), max_size=10))
def test_no_bytes_upset_either_end_and_cuts_do_not_matter(data: bytes, at: list[int]) -> None:
    for make in (ServerConnection, calling_client):
        whole, pieces = make(), make()
        expected = list(whole.receive(data))
        edges = [0, *sorted(min(edge, len(data)) for edge in at), len(data)]
        got = [event for start, end in pairwise(edges) for event in pieces.receive(data[start:end])]
        assert [shown(event) for event in got] == [shown(event) for event in expected]
        assert pieces.output == whole.output


def calling_client() -> ClientConnection:
    client = ClientConnection()
    for state in (UNARY, OPEN, REPLYING):
        client.request("s", "m", b"", state=state)
    return client


def shown(event: Event) -> tuple[object, ...]:
    """An event so that equal errors are equal."""
    return (type(event), *(str(part) if isinstance(part, LeafError) else part for part in event))
