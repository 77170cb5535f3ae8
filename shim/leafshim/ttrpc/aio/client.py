"""The asyncio client; its rules are the package's."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import Any, Generic

from leafshim.errors import DeadlineExceeded, LeafError, ResourceExhausted, StateError, Unavailable
from leafshim.ttrpc.aio.link import OUTPUT_LIMIT, Inbox, Link
from leafshim.ttrpc.connection import ClientConnection, Event, Failed, MessageReceived, ResponseReceived
from leafshim.ttrpc.service import Method, RequestT, ResponseT, opening

_CONNECT_RETRY = 0.01  # seconds


class _ClientLink(Link[ClientConnection]):
    def __init__(self) -> None:
        super().__init__(ClientConnection())
        self.inboxes: dict[int, tuple[Inbox, bool]] = {}
        self.lost: Unavailable | None = None

    def take(self, event: Event) -> None:
        inbox, server_streaming = self.inboxes[event.stream]
        if isinstance(event, MessageReceived):
            inbox.put(event.payload)
            return
        del self.inboxes[event.stream]
        if isinstance(event, ResponseReceived) and (event.payload or not server_streaming):
            inbox.put(event.payload)  # after a stream of messages, an empty response is only its end
        inbox.end(event.error if isinstance(event, Failed) else None)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost = Unavailable(f"connection lost: {exc}" if exc else "connection closed")
        for inbox, _ in self.inboxes.values():
            inbox.end(self.lost)
        self.inboxes.clear()


class AsyncClient:
    """A connection to a server; made by `connect`. `timeout`: seconds, for each unary call that gives none."""

    def __init__(self, link: _ClientLink, timeout: float | None) -> None:
        self.timeout = timeout
        self._link = link

    @classmethod
    async def connect(cls, target: str | socket.socket, timeout: float | None = None) -> "AsyncClient":
        """Connect to the socket at a path, or take over a connected one. Unavailable when nobody listens,
        DeadlineExceeded when the server does not accept within `timeout` seconds."""
        loop = asyncio.get_running_loop()
        sock = await _connected(target, timeout) if isinstance(target, str) else target
        _, link = await loop.create_unix_connection(_ClientLink, sock=sock)
        return cls(link, timeout)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await self.wait_closed()

    def close(self) -> None:
        """Close the connection; calls in progress fail with Unavailable."""
        self._link.transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection is gone, by `close` or by the server."""
        await self._link.gone.wait()

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._link.lost is not None or self._link.transport.is_closing()

    async def call(
        self,
        method: Method[RequestT, ResponseT],
        request: RequestT,
        timeout: float | None = None,
        metadata: Iterable[tuple[str, str]] = (),
    ) -> ResponseT:
        """Make a unary call. Raises as `client.Client.call` does."""
        if method.streaming:
            raise StateError(f"{method.service}/{method.name} is streaming: use stream()")
        async with AsyncStream(
            self._link, method, request, self.timeout if timeout is None else timeout, metadata
        ) as stream:
            response = await stream.receive()
        assert response is not None  # a unary call ends with its response or an error
        return response

    def stream(
        self,
        method: Method[RequestT, ResponseT],
        request: RequestT | None = None,
        timeout: float | None = None,
        metadata: Iterable[tuple[str, str]] = (),
    ) -> "AsyncStream[RequestT, ResponseT]":
        """Begin a streaming call; `request` and `timeout` as in `client.Client.stream`."""
        if not method.streaming:
            raise StateError(f"{method.service}/{method.name} is unary: use call()")
        return AsyncStream(self._link, method, request, timeout, metadata)


class AsyncStream(Generic[RequestT, ResponseT]):
    """One call in progress: an async iterator over the server's messages. Leaving an `async with` block gives it up."""

    def __init__(
        self,
        link: _ClientLink,
        method: Method[RequestT, ResponseT],
        request: RequestT | None,
        timeout: float | None,
        metadata: Iterable[tuple[str, str]],
    ) -> None:
        if link.lost is not None:
            raise Unavailable(str(link.lost))
        if link.pending > OUTPUT_LIMIT:
            raise ResourceExhausted(f"{link.pending} bytes wait for a peer that does not read")
        self._link = link
        self._method = method
        self._deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        self._inbox = Inbox(link)
        self._stream = link.connection.request(
            method.service,
            method.name,
            request.encode() if request is not None and not method.client_streaming else b"",
            state=opening(method),
            timeout_ns=0 if timeout is None else max(1, int(timeout * 1e9)),
            metadata=metadata,
        )
        link.inboxes[self._stream] = self._inbox, method.server_streaming
        try:
            if request is not None and method.client_streaming:
                link.connection.send(self._stream, request.encode())
        except LeafError:
            self.close()
            raise
        finally:
            link.flush()

    async def __aenter__(self) -> "AsyncStream[RequestT, ResponseT]":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def __aiter__(self) -> AsyncIterator[ResponseT]:
        while (message := await self.receive()) is not None:
            yield message

    async def send(self, message: RequestT) -> None:
        """Send a message, and wait while the server does not read. Raises as `client.Stream.send` does."""
        self._inbox.raise_if_failed()
        self._link.connection.send(self._stream, message.encode())
        self._link.flush()
        await self._within(self._link.drain())

    def close_send(self) -> None:
        """Tell the server that no more messages follow. Raises as `send` does."""
        self._inbox.raise_if_failed()
        self._link.connection.end(self._stream)
        self._link.flush()

    async def receive(self) -> ResponseT | None:
        """The next message, the single response where the server does not stream; None when the stream has ended.
        Raises as `client.Stream.receive` does."""
        payload = await self._within(self._inbox.take())
        return None if payload is None else self._method.response.decode(payload)

    def close(self) -> None:
        """Give the call up, if it is not over. The server is not told."""
        self._link.connection.abandon(self._stream)
        self._link.inboxes.pop(self._stream, None)
        self._inbox.discard()

    async def _within(self, wait: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await wait
        except TimeoutError:
            raise DeadlineExceeded(f"{self._method.name}: no answer in time") from None


async def _connected(path: str, timeout: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    sock.connect(path)
                    return sock
                except BlockingIOError:
                    # The server's backlog is full. unix(7) sockets do not connect in the background, so there is
                    # nothing to poll for (and asyncio's own connect takes this for success).
                    await asyncio.sleep(_CONNECT_RETRY)
    except TimeoutError:
        sock.close()
        raise DeadlineExceeded(f"{path}: connection not accepted in time") from None
    except OSError as error:
        sock.close()
        raise Unavailable(f"{path}: {error.strerror or error}") from error
    except BaseException:
        sock.close()
        raise
