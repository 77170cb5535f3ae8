"""A blocking ttrpc client: for tools, tests, and whoever asks one thing at a time. Not for several threads at once.

Rules:
1. Every wait has the deadline of the call that waits, and DeadlineExceeded is all that passing it means: the connection
   is still good, a late answer is ignored, and the peer may well be alive.
2. The server is told the timeout of a call, and may give up by itself.
3. While a request cannot be written, answers are read: two peers never block on writing to each other.
4. At most OUTPUT_LIMIT bytes wait for a peer that does not read; then calls fail with ResourceExhausted at once.
5. When the peer closes, everything in progress fails with Unavailable, and so does every later call.
"""

import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic

from leafshim.errors import DeadlineExceeded, InputError, LeafError, ResourceExhausted, StateError, Unavailable
from leafshim.ttrpc.connection import (
    ClientConnection,
    Failed,
    MessageReceived,
    ResponseReceived,
)
from leafshim.ttrpc.frames import PAYLOAD_LIMIT
from leafshim.ttrpc.service import Method, RequestT, ResponseT, opening

OUTPUT_LIMIT = 2 * PAYLOAD_LIMIT
_CHUNK = 65536
_LONGEST_POLL = (1 << 31) - 1  # milliseconds


class Inbox:
    """What has arrived on one stream and was not taken yet: messages, then how it ended (None: well)."""

    __slots__ = ("error", "messages", "over")

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.over = False
        self.error: LeafError | None = None

    def put(self, event: object, *, server_streaming: bool) -> None:
        """Add an event of this stream."""
        if isinstance(event, MessageReceived):
            self.messages.append(event.payload)
            return
        self.over = True
        if isinstance(event, Failed):
            self.error = event.error
        elif isinstance(event, ResponseReceived) and (event.payload or not server_streaming):
            self.messages.append(event.payload)  # after a stream of messages, an empty response is only its end


class Client:
    """A connection to a server: `target` is the path of its socket, or a connected socket, which the client then owns.

    `timeout`: seconds, for connecting and for every unary call that gives none of its own; None waits for ever.
    Raises Unavailable when nobody listens, DeadlineExceeded when the server does not accept in time, InputError for a
    path that is too long for a socket address (108 bytes, unix(7)).
    """

    def __init__(self, target: str | socket.socket, timeout: float | None = None) -> None:
        self.timeout = timeout
        self._connection = ClientConnection()
        self._inboxes: dict[int, tuple[Inbox, bool]] = {}
        self._lost: Unavailable | None = None
        self._socket = _connect(target, timeout) if isinstance(target, str) else target
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls in progress are lost."""
        self._socket.close()
        self._lose("connection closed")

    def fileno(self) -> int:
        """The connection's descriptor, readable when `Stream.ready` may have news."""
        return self._socket.fileno()

    def call(
        self,
        method: Method[RequestT, ResponseT],
        request: RequestT,
        timeout: float | None = None,
        metadata: Iterable[tuple[str, str]] = (),
    ) -> ResponseT:
        """Make a unary call. Raises what the server answered (errors.from_status), DeadlineExceeded, Unavailable,
        ResourceExhausted (a message over the limit), ProtocolError (a malformed response)."""
        if method.streaming:
            raise StateError(f"{method.service}/{method.name} is streaming: use stream()")
        stream = Stream(self, method, request, self.timeout if timeout is None else timeout, metadata)
        try:
            response = stream.receive()
        finally:
            stream.close()
        assert response is not None  # a unary call ends with its response or an error
        return response

    def stream(
        self,
        method: Method[RequestT, ResponseT],
        request: RequestT | None = None,
        timeout: float | None = None,
        metadata: Iterable[tuple[str, str]] = (),
    ) -> "Stream[RequestT, ResponseT]":
        """Begin a streaming call. Where only the server streams, `request` is the call's one request (None: an empty
        one); where the client streams, it is the first message (None: none yet). `timeout`: seconds for the whole
        stream, None for ever. Raises as `call` does."""
        if not method.streaming:
            raise StateError(f"{method.service}/{method.name} is unary: use call()")
        return Stream(self, method, request, timeout, metadata)

    def _open(
        self,
        method: Method[RequestT, ResponseT],
        payload: bytes,
        timeout: float | None,
        metadata: Iterable[tuple[str, str]],
    ) -> tuple[int, Inbox]:
        self._admit()
        stream = self._connection.request(
            method.service,
            method.name,
            payload,
            state=opening(method),
            timeout_ns=0 if timeout is None else max(1, int(timeout * 1e9)),
            metadata=metadata,
        )
        inbox = Inbox()
        self._inboxes[stream] = inbox, method.server_streaming
        return stream, inbox

    def _admit(self) -> None:
        if self._lost is not None:
            raise Unavailable(str(self._lost))
        if len(self._connection.output) > OUTPUT_LIMIT:
            raise ResourceExhausted(f"{len(self._connection.output)} bytes wait for a peer that does not read")

    def _forget(self, stream: int) -> None:
        self._connection.abandon(stream)
        self._inboxes.pop(stream, None)

    def _exchange(self, deadline: float | None, *, write_only: bool = False) -> None:
        """Write what waits; then, or meanwhile, read what comes. Returns after one read, or with `write_only` as soon
        as all is written. DeadlineExceeded after `deadline`, seconds of time.monotonic()."""
        output = self._connection.output
        try:
            while True:
                if output:
                    try:
                        del output[: self._socket.send(output)]
                    except BlockingIOError:
                        pass
                if write_only and not output:
                    return
                self._poll.modify(self._socket, select.POLLIN | select.POLLOUT if output else select.POLLIN)
                ready = self._poll.poll(_milliseconds_until(deadline))
                if ready and ready[0][1] & ~select.POLLOUT:
                    self._read()
                    if self._lost is not None or not write_only:
                        return
                elif not ready and deadline is not None and time.monotonic() >= deadline:
                    raise DeadlineExceeded("no answer in time")
        except OSError as error:
            self._lose(f"connection lost: {error.strerror}")

    def _read(self) -> None:
        data = self._socket.recv(_CHUNK)
        if not data:
            self._lose("connection closed by the peer")
        for event in self._connection.receive(data):
            inbox, server_streaming = self._inboxes[event.stream]
            inbox.put(event, server_streaming=server_streaming)
            if inbox.over:
                del self._inboxes[event.stream]

    def _lose(self, why: str) -> None:
        if self._lost is None:
            self._lost = Unavailable(why)
            for inbox, _ in self._inboxes.values():
                inbox.put(Failed(0, Unavailable(why)), server_streaming=False)
            self._inboxes.clear()


class Stream(Generic[RequestT, ResponseT]):
    """One call in progress. Iterating gives the server's messages until the stream ends; leaving a `with` block, or
    `close`, gives the call up."""

    def __init__(
        self,
        client: Client,
        method: Method[RequestT, ResponseT],
        request: RequestT | None,
        timeout: float | None,
        metadata: Iterable[tuple[str, str]],
    ) -> None:
        self._client = client
        self._method = method
        self._deadline = None if timeout is None else time.monotonic() + timeout
        first = request.encode() if request is not None and not method.client_streaming else b""
        self._stream, self._inbox = client._open(method, first, timeout, metadata)
        try:
            if request is not None and method.client_streaming:
                client._connection.send(self._stream, request.encode())
            client._exchange(self._deadline, write_only=True)
        except LeafError:
            self.close()
            raise

    def __enter__(self) -> "Stream[RequestT, ResponseT]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[ResponseT]:
        while (message := self.receive()) is not None:
            yield message

    def send(self, message: RequestT) -> None:
        """Send a message; returns when the kernel has it. Raises the error that ended the stream, if one did,
        StateError after `close_send` or when the server has ended the stream, DeadlineExceeded, Unavailable."""
        self._raise_if_failed()
        self._client._admit()
        self._client._connection.send(self._stream, message.encode())
        self._client._exchange(self._deadline, write_only=True)

    def close_send(self) -> None:
        """Tell the server that no more messages follow. Raises as `send` does."""
        self._raise_if_failed()
        self._client._admit()
        self._client._connection.end(self._stream)
        self._client._exchange(self._deadline, write_only=True)

    def receive(self, timeout: float | None = None) -> ResponseT | None:
        """The next message, the single response where the server does not stream; None when the stream has ended.
        Waits `timeout` seconds at most, and not past the stream's own deadline; DeadlineExceeded then, and the stream
        goes on. Raises what the server answered, Unavailable, ProtocolError (a malformed message)."""
        deadline = self._deadline
        if timeout is not None:
            deadline = min(time.monotonic() + timeout, self._deadline or float("inf"))
        inbox = self._inbox
        while not inbox.messages:
            if inbox.over:
                self._raise_if_failed()
                return None
            self._client._exchange(deadline)
        return self._method.response.decode(inbox.messages.popleft())

    def ready(self) -> bool:
        """Whether `receive` has something to return or raise without waiting. Reads what has arrived."""
        if not self._inbox.messages and not self._inbox.over:
            try:
                self._client._exchange(0)
            except DeadlineExceeded:
                return False
        return bool(self._inbox.messages) or self._inbox.over

    def close(self) -> None:
        """Give the call up, if it is not over. The server is not told."""
        self._client._forget(self._stream)

    def _raise_if_failed(self) -> None:
        if self._inbox.error is not None and not self._inbox.messages:
            raise self._inbox.error


def _connect(path: str, timeout: float | None) -> socket.socket:
    if len(path.encode(errors="surrogateescape")) > 107:
        raise InputError(f"{path}: longer than a socket address")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if timeout is not None:
            # A server that does not accept fills its backlog, and connect(2) then waits. A non-blocking connect would
            # fail with EAGAIN at once and cannot be polled for, but the send timeout bounds the wait, see socket(7).
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *_timeval(timeout)))
        sock.connect(path)
    except BlockingIOError:
        sock.close()
        raise DeadlineExceeded(f"{path}: connection not accepted in time") from None
    except OSError as error:
        sock.close()
        raise Unavailable(f"{path}: {error.strerror}") from error
    return sock


def _milliseconds_until(deadline: float | None) -> int | None:
    """poll(2)'s argument, an int, rounded up so that the deadline has passed when it gives up."""
    if deadline is None:
        return None
    return min(max(0, int((deadline - time.monotonic()) * 1000 + 1)), _LONGEST_POLL)


def _timeval(seconds: float) -> tuple[int, int]:
    whole = int(seconds)
    return whole, max(1, int((seconds - whole) * 1_000_000))
