"""A ttrpc server for an epoll loop: plain functions as handlers, one thread, nothing ever waits.

    def state(request: StateRequest, call: Call[StateRequest, StateResponse]) -> StateResponse | None: ...

    Server(loop, listening_socket, {task.V3.state: state, ...})

Rules:
1. A handler returns its response, or None to answer later with `call.reply`, `call.fail`, or, where the server streams,
   `call.send` and `call.finish`. Where the client streams it is called as the stream opens, with an empty request, and
   every message goes to `call.on_message`.
2. A LeafError that a handler or a callback of its call lets out is the call's answer. Any other exception is a defect:
   INTERNAL to the client, the exception to `on_defect`; the connection and its other calls go on.
3. A call ends once. Then `call.closed` is true and whatever is sent is dropped, so nobody who answers late or sends to
   many has to ask first.
4. `on_close` is called when the client half-closes (`closed` is false) and when the call ends by another hand than
   ours: connection gone, deadline passed, protocol broken (`closed` is true). Never from within a method of a call.
5. A request's timeout is enforced here: DEADLINE_EXCEEDED is answered, and the call is closed.
6. A connection with more than OUTPUT_LIMIT bytes that its client does not read is closed. `call.pending` says how many
   there are, and `on_drain` is called when all have left: who streams much waits for it.
7. Whom `authorize(pid, uid, gid)` does not want is disconnected before anything is read (unix(7), SO_PEERCRED).

Writing is tried at once, and epoll asked only when the socket is full: an answer costs one system call. The answers to
one batch of requests are written together.
"""

import select
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol

from leafshim.errors import DeadlineExceeded, InternalError, LeafError
from leafshim.ttrpc.connection import (
    Ended,
    Event,
    Failed,
    MessageReceived,
    RequestReceived,
    ServerConnection,
)
from leafshim.ttrpc.frames import PAYLOAD_LIMIT
from leafshim.ttrpc.protobuf import Message
from leafshim.ttrpc.service import Method, MethodTable, RequestT, ResponseT

OUTPUT_LIMIT = 2 * PAYLOAD_LIMIT
_CHUNK = 65536
_ACCEPT_PAUSE = 1.0
_LONGEST_TIMEOUT = 2e6  # seconds; more milliseconds than this overflow epoll_wait(2), and are as good as no timeout
_UCRED = struct.Struct("iII")


class Timer(Protocol):
    """What `Loop.call_later` returns."""

    def cancel(self) -> None:
        """Do not call."""


class Loop(Protocol):
    """What a server needs of an event loop; leafshim.loop.Loop is one."""

    def add(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(mask)` whenever one of `events` holds for `fd`, level-triggered."""

    def modify(self, fd: int, events: int) -> None:
        """Wait for other events."""

    def remove(self, fd: int) -> None:
        """Forget `fd`."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call once, `delay` seconds from now."""


class Call(Generic[RequestT, ResponseT]):
    """One call at the server. `method`; `metadata`, as sent; `peer`, (pid, uid, gid) of the client."""

    def __init__(
        self, link: "_Link", stream: int, method: Method[RequestT, ResponseT], metadata: tuple[tuple[str, str], ...]
    ) -> None:
        self.method = method
        self.metadata = metadata
        self.closed = False
        self.half_closed = not method.client_streaming
        self.on_message: Callable[[RequestT], None] | None = None
        self.on_close: Callable[[], None] | None = None
        self.on_drain: Callable[[], None] | None = None
        self._link = link
        self._stream = stream
        self._timer: Timer | None = None

    @property
    def peer(self) -> tuple[int, int, int]:
        """(pid, uid, gid) of the process that connected, as it was then."""
        return self._link.peer

    @property
    def pending(self) -> int:
        """Bytes of this connection that its client has not taken yet."""
        return len(self._link.connection.output)

    def reply(self, response: ResponseT) -> None:
        """End the call with its response. One that cannot be encoded or sent becomes an error to the client."""
        if not self.closed:
            try:
                self._link.connection.respond(self._stream, response.encode())
            except LeafError as error:
                self.fail(error)
            else:
                self._end()

    def send(self, message: ResponseT) -> None:
        """Stream a message. One that cannot be encoded or sent ends the call with an error."""
        if not self.closed:
            try:
                self._link.connection.send(self._stream, message.encode())
            except LeafError as error:
                self.fail(error)
            else:
                self._link.flush()
                if self.pending:
                    self._link.drain_awaited = True

    def finish(self) -> None:
        """End a stream of messages."""
        if not self.closed:
            self._link.connection.end(self._stream)
            self._end()

    def fail(self, error: LeafError) -> None:
        """End the call with an error."""
        if not self.closed:
            self._link.connection.fail(self._stream, error.code, str(error))
            self._end()

    def _end(self) -> None:
        self._closed()
        self._link.calls.pop(self._stream, None)
        self._link.flush()

    def _closed(self) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self, handler: "Handler", payload: bytes) -> None:
        method = self.method
        if method.client_streaming:
            self._run(lambda: handler(method.request(), self))
            if payload:  # a request may carry the first message
                self._receive(payload)
            return
        self._run(lambda: handler(method.request.decode(payload), self))

    def _run(self, act: Callable[[], Message | None]) -> None:
        try:
            response = act()
            if response is not None:
                self.reply(response)  # type: ignore[arg-type]
        except LeafError as error:
            self.fail(error)
        except Exception as error:
            self.fail(InternalError(f"{type(error).__name__}: {error}"))
            self._link.server.on_defect(error)

    def _receive(self, payload: bytes) -> None:
        if self.on_message is not None and not self.closed:
            on_message = self.on_message
            self._run(lambda: on_message(self.method.request.decode(payload)))

    def _half_close(self) -> None:
        self.half_closed = True
        if self.on_close is not None:
            self._run(self.on_close)

    def _expire(self) -> None:
        self.fail(DeadlineExceeded(f"{self.method.name} took longer than its caller wanted to wait"))
        self._tell()

    def _abort(self) -> None:
        self._closed()
        self._tell()

    def _tell(self) -> None:
        if self.on_close is not None:
            self._link.server.guard(self.on_close)

    def _drained(self) -> None:
        if self.on_drain is not None and not self.closed:
            self._run(self.on_drain)


# A handler's types are those of its method, which a mapping cannot say.
Handler = Callable[[Any, Call[Any, Any]], Message | None]


class _Link:
    """One connection: a socket, its protocol state, its calls."""

    def __init__(self, server: "Server", sock: socket.socket, peer: tuple[int, int, int]) -> None:
        self.server = server
        self.peer = peer
        self.connection = ServerConnection()
        self.calls: dict[int, Call[Any, Any]] = {}
        self._socket = sock
        self.drain_awaited = False  # whether a call has left bytes behind since the last on_drain
        self._corked = False  # while a batch of requests is handled
        self._broken = False  # only the closing is still to do
        self._writing = False  # whether epoll is asked for EPOLLOUT
        server.loop.add(sock.fileno(), select.EPOLLIN, self._ready)

    def flush(self) -> None:
        """Write what the socket takes, now or after the batch at hand; over the limit, give the client up."""
        if self._broken or ((self._corked or self._writing) and len(self.connection.output) <= OUTPUT_LIMIT):
            return
        self._write()

    def _write(self) -> None:
        output = self.connection.output
        try:
            if output:
                del output[: self._socket.send(output)]
        except BlockingIOError:
            pass
        except OSError:
            self._break()
            return
        if len(output) > OUTPUT_LIMIT:
            self._break()
        elif bool(output) != self._writing:
            self._writing = bool(output)
            events = select.EPOLLIN | select.EPOLLOUT if self._writing else select.EPOLLIN
            self.server.loop.modify(self._socket.fileno(), events)

    def close(self) -> None:
        """Close the socket and abort its calls."""
        self._broken = True
        self.server.links.discard(self)
        self.server.loop.remove(self._socket.fileno())
        self._socket.close()
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call._abort()

    def _break(self) -> None:
        # We may be deep in a handler that goes through all calls, so that calling their on_close must wait.
        self._broken = True
        self.connection.output.clear()
        for call in self.calls.values():
            call._closed()
        self.server.loop.call_later(0, self._close_broken)

    def _close_broken(self) -> None:
        if self in self.server.links:
            self.close()

    def _ready(self, mask: int) -> None:
        if mask & select.EPOLLOUT and not self._broken:
            self._write()
        if mask & ~select.EPOLLOUT and not self._broken:
            self._read()
        if self.drain_awaited and not self._broken and not self.connection.output:
            self.drain_awaited = False
            for call in tuple(self.calls.values()):
                call._drained()

    def _read(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._corked = True
        for event in self.connection.receive(data):
            self._take(event)
            if self._broken:
                return
        self._corked = False
        self.flush()

    def _take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._begin(event)
            return
        call = self.calls[event.stream]
        if isinstance(event, MessageReceived):
            call._receive(event.payload)
        elif isinstance(event, Ended):
            call._half_close()
        elif isinstance(event, Failed):
            del self.calls[event.stream]
            call._abort()

    def _begin(self, event: RequestReceived) -> None:
        request = event.request
        try:
            method, handler = self.server.methods.find(request.service, request.method, event.state)
        except LeafError as error:
            self.connection.fail(event.stream, error.code, str(error))
            return
        metadata = tuple((pair.key, pair.value) for pair in request.metadata)
        call = Call(self, event.stream, method, metadata)
        self.calls[event.stream] = call
        seconds = request.timeout_nano / 1e9
        if seconds and seconds < _LONGEST_TIMEOUT:
            call._timer = self.server.loop.call_later(max(0.0, seconds), call._expire)
        call._begin(handler, request.payload)


class Server:
    """Accepts on `listener`, a listening unix socket that the server then owns, and calls `handlers`.

    `authorize(pid, uid, gid)` says whether a process may connect; the default is everybody who can reach the socket.
    `on_defect` gets each exception that is a defect of a handler.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        handlers: Mapping[Method[Any, Any], Handler] | MethodTable[Handler],
        authorize: Callable[[int, int, int], bool] = lambda _pid, _uid, _gid: True,
        on_defect: Callable[[BaseException], None] = lambda _error: None,
    ) -> None:
        self.loop = loop
        self.on_defect = on_defect
        self.links: set[_Link] = set()
        self._authorize = authorize
        self.methods = handlers if isinstance(handlers, MethodTable) else MethodTable(handlers)
        self._listener = listener
        self._resume: Timer | None = None
        listener.setblocking(False)
        loop.add(listener.fileno(), select.EPOLLIN, self._accept)

    def close(self) -> None:
        """Stop listening, close all connections, abort all calls. The socket's path stays."""
        if self._resume is None:
            self.loop.remove(self._listener.fileno())
        else:
            self._resume.cancel()
        self._listener.close()
        for link in tuple(self.links):
            link.close()

    def serve(self, sock: socket.socket) -> None:
        """Serve a connection, which is the server's from here on."""
        peer = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if not self._authorize(*peer):
            sock.close()
            return
        sock.setblocking(False)
        self.links.add(_Link(self, sock, peer))

    def guard(self, callback: Callable[[], None]) -> None:
        """Call back; an exception is the callback's defect and nobody else's."""
        try:
            callback()
        except Exception as error:
            self.on_defect(error)

    def _accept(self, _mask: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:
            # Out of descriptors or memory. The connection stays in the backlog and epoll would report it for ever.
            self.loop.remove(self._listener.fileno())
            self._resume = self.loop.call_later(_ACCEPT_PAUSE, self._accept_again)
            return
        self.serve(sock)

    def _accept_again(self) -> None:
        self._resume = None
        self.loop.add(self._listener.fileno(), select.EPOLLIN, self._accept)
