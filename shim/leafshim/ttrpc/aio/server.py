"""The asyncio server; its rules are the package's."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Generic

from leafshim.errors import Code, DeadlineExceeded, InternalError, LeafError, PeerError
from leafshim.ttrpc.aio.link import OUTPUT_LIMIT, Inbox, Link
from leafshim.ttrpc.connection import Ended, Event, Failed, MessageReceived, RequestReceived, ServerConnection
from leafshim.ttrpc.protobuf import Message
from leafshim.ttrpc.service import Method, MethodTable, RequestT, ResponseT, opening

_UCRED = struct.Struct("iII")


class AsyncCall(Generic[RequestT, ResponseT]):
    """One call at the server: `method`, `metadata` as sent, `peer` (pid, uid, gid) of the process that connected.
    Where the client streams, an async iterator over its messages."""

    def __init__(
        self, link: "_ServerLink", stream: int, method: Method[RequestT, ResponseT], metadata: list[tuple[str, str]]
    ) -> None:
        self.method = method
        self.metadata = metadata
        self.peer = link.peer
        self.inbox = Inbox(link)
        self._link = link
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[RequestT]:
        while (payload := await self.inbox.take()) is not None:
            yield self.method.request.decode(payload)

    async def send(self, message: ResponseT) -> None:
        """Stream a message, and wait while the client does not read. ResourceExhausted when it is over the limit."""
        self._link.connection.send(self._stream, message.encode())
        self._link.flush()
        await self._link.drain()


# A handler's types are those of its method, which a mapping cannot say.
AsyncHandler = Callable[[Any, AsyncCall[Any, Any]], Awaitable[Message | None] | AsyncIterator[Message]]


class _ServerLink(Link[ServerConnection]):
    def __init__(self, server: "AsyncServer") -> None:
        super().__init__(ServerConnection())
        self.server = server
        self.peer = (0, 0, 0)
        self._calls: dict[int, tuple[AsyncCall[Any, Any], asyncio.Task[None]]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        self.peer = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        self.server.links.add(self)
        # asyncio may hand over a connection that it accepted before `close`.
        if not self.server.serving or not self.server.authorize(*self.peer):
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.server.links.discard(self)
        for _, task in self._calls.values():
            task.cancel()

    def flush(self) -> None:
        super().flush()
        if self.pending > OUTPUT_LIMIT:
            self.transport.abort()

    def take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._begin(event)
            return
        call, task = self._calls[event.stream]
        if isinstance(event, MessageReceived):
            call.inbox.put(event.payload)
        elif isinstance(event, Ended):
            call.inbox.end()
        elif isinstance(event, Failed):
            task.cancel()

    def _begin(self, event: RequestReceived) -> None:
        request = event.request
        try:
            method, handler = self.server.methods.find(request.service, request.method, event.state)
        except LeafError as error:
            self.connection.fail(event.stream, error.code, str(error))
            return
        call = AsyncCall(self, event.stream, method, [(pair.key, pair.value) for pair in request.metadata])
        payload = request.payload
        if method.client_streaming:
            if payload:  # a request may carry the first message
                call.inbox.put(payload)
            if event.state != opening(method):
                call.inbox.end()
            payload = b""
        deadline = request.timeout_nano / 1e9 if request.timeout_nano else None
        task = asyncio.get_running_loop().create_task(self._serve(event.stream, call, handler, payload, deadline))
        self._calls[event.stream] = call, task
        task.add_done_callback(lambda _task: self._forget(event.stream))

    def _forget(self, stream: int) -> None:
        call, _ = self._calls.pop(stream)
        call.inbox.discard()

    async def _serve(
        self, stream: int, call: AsyncCall[Any, Any], handler: AsyncHandler, payload: bytes, timeout: float | None
    ) -> None:
        error: LeafError | None = None
        deadline = asyncio.timeout(timeout)
        try:
            async with deadline:
                response = await _answer(call, handler(call.method.request.decode(payload), call))
            self._end(stream, call.method, response)
        except asyncio.CancelledError:
            error = PeerError(f"{call.method.name} was cancelled")
            error.code = Code.CANCELLED
            raise
        except LeafError as failure:
            error = failure
        except Exception as failure:
            if isinstance(failure, TimeoutError) and deadline.expired():
                error = DeadlineExceeded(f"{call.method.name} took longer than its caller wanted to wait")
            else:
                error = InternalError(f"{type(failure).__name__}: {failure}")
                self.server.on_defect(failure)
        finally:
            if error is not None and self.connection.is_open(stream):
                self.connection.fail(stream, error.code, str(error))
            self.flush()

    def _end(self, stream: int, method: Method[Any, Any], response: Message | None) -> None:
        if method.server_streaming:
            self.connection.end(stream)
        elif response is None:
            raise InternalError(f"{method.name} returned nothing")
        else:
            self.connection.respond(stream, response.encode())


async def _answer(
    call: AsyncCall[Any, Any], result: Awaitable[Message | None] | AsyncIterator[Message]
) -> Message | None:
    if isinstance(result, AsyncIterator):
        async for message in result:
            await call.send(message)
        return None
    return await result


class AsyncServer:
    """Calls `handlers` for every connection that a listening socket accepts. `authorize` and `on_defect` as in
    `server.Server`."""

    def __init__(
        self,
        handlers: Mapping[Method[Any, Any], AsyncHandler],
        authorize: Callable[[int, int, int], bool] = lambda _pid, _uid, _gid: True,
        on_defect: Callable[[BaseException], None] = lambda _error: None,
    ) -> None:
        self.authorize = authorize
        self.on_defect = on_defect
        self.methods = MethodTable(handlers)
        self.links: set[_ServerLink] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, listener: socket.socket) -> None:
        """Serve a listening unix socket, which the server then owns, until `close`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _ServerLink(self), sock=listener)

    @property
    def serving(self) -> bool:
        """Whether it listens."""
        return self._server is not None and self._server.is_serving()

    async def close(self) -> None:
        """Stop listening and close all connections; handlers are cancelled. The socket's path stays."""
        if self._server is not None:
            self._server.close()
            links = tuple(self.links)
            for link in links:
                link.transport.abort()
            for link in links:
                await link.gone.wait()
            await self._server.wait_closed()
