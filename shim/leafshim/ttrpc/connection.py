"""ttrpc without I/O: bytes in, events out; calls in, bytes out. Either end of a connection is one object.

Rules (containerd/ttrpc PROTOCOL.md, and server.go where that is silent):
1. The client opens streams, with odd numbers that only grow. The flags of its request say what the stream is: none,
   unary; REMOTE_OPEN, messages of the client follow; REMOTE_CLOSED, none follow but the server may stream.
2. A stream lives by TRANSITIONS, at both ends alike. It is over when the server has sent its Response or its end; there
   is no cancel message.
3. A step of our own that the table forbids raises StateError, and a message over the frame limit ResourceExhausted;
   neither changes anything.
4. Nothing that a peer sends raises, and nothing closes the connection: at worst it ends the stream that it names. A
   server answers it, with INVALID_ARGUMENT or, over a limit, RESOURCE_EXHAUSTED; a client sees the stream Failed.
5. What comes for a stream that is over is ignored, for it crossed with the end. Unknown frame types are ignored.
6. `output` grows until its owner sends from its front and deletes what was sent; the owner bounds it.

The table needs no role: a stream's state is the same seen from both ends, only who may cause which step differs.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from leafshim.errors import Code, InputError, LeafError, ProtocolError, ResourceExhausted, StateError, from_status
from leafshim.ttrpc import frames
from leafshim.ttrpc.frames import (
    DATA,
    NO_DATA,
    REMOTE_CLOSED,
    REMOTE_OPEN,
    REQUEST,
    RESPONSE,
    Frame,
    FrameReader,
    Oversized,
)
from leafshim.ttrpc.messages import KeyValue, Request, Response, Status

# States of a stream that is not over.
UNARY = "unary"  # one request, one response
OPEN = "open"  # both ends may send messages
REPLYING = "replying"  # only the server may

# Steps.
CLIENT_MESSAGE = "message of the client"
CLIENT_END = "end of the client's messages"
SERVER_MESSAGE = "message of the server"
SERVER_END = "end of the server's messages"
ANSWER = "response"

# (state, step) → state; None: the stream is over.
TRANSITIONS: dict[tuple[str, str], str | None] = {
    (UNARY, ANSWER): None,
    (OPEN, CLIENT_MESSAGE): OPEN,
    (OPEN, CLIENT_END): REPLYING,
    (OPEN, SERVER_MESSAGE): OPEN,
    (OPEN, SERVER_END): None,
    (OPEN, ANSWER): None,
    (REPLYING, SERVER_MESSAGE): REPLYING,
    (REPLYING, SERVER_END): None,
    (REPLYING, ANSWER): None,
}

# A request's flags → the state that its stream begins in.
OPENING = {0: UNARY, REMOTE_OPEN: OPEN, REMOTE_CLOSED: REPLYING}
_FLAGS = {state: flags for flags, state in OPENING.items()}

STREAM_LIMIT = 4096  # calls at once on one connection, so that a flood of requests has a bound
_LAST_STREAM = (1 << 32) - 1
_TEXT_LIMIT = 16384  # characters of an error's message: no error is too long to be sent


class RequestReceived(NamedTuple):
    """To a server: a call begins. `state`: UNARY, OPEN or REPLYING."""

    stream: int
    request: Request
    state: str


class MessageReceived(NamedTuple):
    """The peer sent a message on a stream."""

    stream: int
    payload: bytes


class Ended(NamedTuple):
    """The peer sends no more on this stream. To a client that means that it is over."""

    stream: int


class ResponseReceived(NamedTuple):
    """To a client: the stream is over, and well."""

    stream: int
    payload: bytes


class Failed(NamedTuple):
    """The stream is over. To a client `error` is the server's or a breach of the protocol; to a server it is the
    breach that the peer has been told of."""

    stream: int
    error: LeafError


Event = RequestReceived | MessageReceived | Ended | ResponseReceived | Failed


class _Connection:
    """What both ends share: frames in, frames out, the table of streams."""

    _message: str
    _end: str
    _breach: type[LeafError]

    def __init__(self) -> None:
        self.output = bytearray()
        self._frames = FrameReader()
        self._streams: dict[int, str] = {}
        self._last_stream = 0

    def is_open(self, stream: int) -> bool:
        """Whether this stream has begun and is not over."""
        return stream in self._streams

    def send(self, stream: int, payload: bytes) -> None:
        """Send one message. StateError where the table forbids it, ResourceExhausted over the frame limit."""
        self._step(stream, self._message, DATA, 0, payload)

    def end(self, stream: int) -> None:
        """Send no more messages. StateError where the table forbids it."""
        self._step(stream, self._end, DATA, REMOTE_CLOSED | NO_DATA, b"")

    def _step(self, stream: int, step: str, type_: int, flags: int, payload: bytes) -> None:
        state = self._streams.get(stream, "over")
        if (state, step) not in TRANSITIONS:
            raise StateError(f"stream {stream} is {state}: no {step} now")
        self.output += frames.encode(stream, type_, flags, payload)
        self._move(stream, step)

    def _move(self, stream: int, step: str) -> None:
        state = TRANSITIONS[self._streams[stream], step]
        if state is None:
            del self._streams[stream]
        else:
            self._streams[stream] = state

    def receive(self, data: bytes) -> Iterator[Event]:
        """What `data`, cut anywhere, completes. The streams move as the events are taken: whoever answers an event
        before taking the next one finds the stream as that event left it. All are to be taken before the next call."""
        return self._interpret(self._frames.feed(data))

    def _interpret(self, arrived: Iterable[Frame | Oversized]) -> Iterator[Event]:
        for frame in arrived:
            try:
                if isinstance(frame, Frame):
                    yield from self._take(frame)
                else:
                    raise ResourceExhausted(f"message of {frame.length} bytes: the limit is {frames.PAYLOAD_LIMIT}")
            except LeafError as error:
                yield from self._refuse(frame.stream, error)

    def _take(self, frame: Frame) -> Iterator[Event]:
        raise NotImplementedError

    def _refuse(self, stream: int, error: LeafError) -> Iterator[Event]:
        if self._streams.pop(stream, None) is not None:
            yield Failed(stream, error)

    def _take_data(self, frame: Frame, message: str, end: str) -> Iterator[Event]:
        if not frame.flags & NO_DATA:
            self._check(frame.stream, message)
            yield MessageReceived(frame.stream, frame.payload)
        if frame.flags & REMOTE_CLOSED and frame.stream in self._streams:
            self._check(frame.stream, end)
            self._move(frame.stream, end)
            yield Ended(frame.stream)

    def _check(self, stream: int, step: str) -> None:
        state = self._streams[stream]
        if (state, step) not in TRANSITIONS:
            raise self._breach(f"stream {stream} is {state}: no {step} now")


class ClientConnection(_Connection):
    """The end that calls."""

    _message, _end, _breach = CLIENT_MESSAGE, CLIENT_END, ProtocolError

    def request(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        state: str = UNARY,
        timeout_ns: int = 0,
        metadata: Iterable[tuple[str, str]] = (),
    ) -> int:
        """Open a stream in `state` (UNARY, OPEN, REPLYING) and return its number. `timeout_ns` tells the server how
        long we shall wait, 0 for ever; enforcing it here is the caller's. ResourceExhausted: over the frame limit, or
        no stream number is left on this connection."""
        stream = self._last_stream + 2 if self._last_stream else 1
        if stream > _LAST_STREAM:
            raise ResourceExhausted("no stream numbers left on this connection")
        request = Request(service=service, method=method, payload=payload, timeout_nano=timeout_ns)
        request.metadata = [KeyValue(key=key, value=value) for key, value in metadata]
        self.output += frames.encode(stream, REQUEST, _FLAGS[state], request.encode())
        self._last_stream = stream
        self._streams[stream] = state
        return stream

    def abandon(self, stream: int) -> None:
        """Forget a stream; what still comes for it is ignored. The server is not told: ttrpc has no message for it."""
        self._streams.pop(stream, None)

    def _take(self, frame: Frame) -> Iterator[Event]:
        if frame.stream not in self._streams:
            return
        if frame.type == RESPONSE:
            response = Response.decode(frame.payload)
            if response.status is not None and response.status.code != Code.OK:
                raise from_status(response.status.code, response.status.message)
            self._move(frame.stream, ANSWER)
            yield ResponseReceived(frame.stream, response.payload)
        elif frame.type == DATA:
            yield from self._take_data(frame, SERVER_MESSAGE, SERVER_END)


class ServerConnection(_Connection):
    """The end that is called."""

    _message, _end, _breach = SERVER_MESSAGE, SERVER_END, InputError

    def respond(self, stream: int, payload: bytes) -> None:
        """End a stream with its response. StateError when it is over, ResourceExhausted over the frame limit."""
        # An empty Status is sent rather than none: ttrpc before 1.0.2 takes a response without one for a failure.
        self._step(stream, ANSWER, RESPONSE, 0, Response(status=Status(), payload=payload).encode())

    def fail(self, stream: int, code: int, message: str) -> None:
        """End a stream with an error: `code`, a google.rpc.Code that is not OK. StateError when it is over."""
        self._step(stream, ANSWER, RESPONSE, 0, _failure(code, message))

    def _take(self, frame: Frame) -> Iterator[Event]:
        if frame.type == REQUEST:
            yield self._take_request(frame)
        elif frame.type == DATA:
            if frame.stream in self._streams:
                yield from self._take_data(frame, CLIENT_MESSAGE, CLIENT_END)
            elif frame.stream % 2 == 0 or frame.stream > self._last_stream:
                raise InputError(f"stream {frame.stream}: data before its request")

    def _take_request(self, frame: Frame) -> RequestReceived:
        if frame.stream % 2 == 0:
            raise InputError(f"stream {frame.stream}: a client's streams are odd")
        if frame.stream <= self._last_stream:
            raise InputError(f"stream {frame.stream}: not after stream {self._last_stream}")
        self._last_stream = frame.stream
        if len(self._streams) >= STREAM_LIMIT:
            raise ResourceExhausted(f"{STREAM_LIMIT} calls at once on one connection")
        state = OPENING.get(frame.flags & (REMOTE_OPEN | REMOTE_CLOSED))
        if state is None:
            raise InputError(f"stream {frame.stream}: flags {frame.flags:#x} of a request")
        try:
            request = Request.decode(frame.payload)
        except ProtocolError as error:
            raise InputError(str(error)) from error
        self._streams[frame.stream] = state
        return RequestReceived(frame.stream, request, state)

    def _refuse(self, stream: int, error: LeafError) -> Iterator[Event]:
        # Answered whether or not there is such a stream: the client should learn which number was wrong.
        self.output += frames.encode(stream, RESPONSE, 0, _failure(error.code, str(error)))
        return super()._refuse(stream, error)


def _failure(code: int, message: str) -> bytes:
    text = message[:_TEXT_LIMIT].encode(errors="replace").decode()  # a file name in it may not be UTF-8
    return Response(status=Status(code=code or Code.UNKNOWN, message=text)).encode()
