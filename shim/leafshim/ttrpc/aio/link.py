"""What both ends of an asyncio connection share: a transport, the protocol's state, and the flow in both directions."""

import asyncio
from collections import deque
from typing import Any, Generic, TypeVar, cast

from leafshim.errors import LeafError
from leafshim.ttrpc.connection import ClientConnection, Event, ServerConnection
from leafshim.ttrpc.frames import PAYLOAD_LIMIT

OUTPUT_LIMIT = 2 * PAYLOAD_LIMIT
INBOX_LIMIT = PAYLOAD_LIMIT

C = TypeVar("C", ClientConnection, ServerConnection)


class Inbox:
    """Payloads that arrived on one stream and were not taken yet, then how it ended."""

    def __init__(self, link: "Link[Any]") -> None:
        self._link = link
        self._payloads: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._over = False
        self._error: LeafError | None = None

    def put(self, payload: bytes) -> None:
        """One more has arrived."""
        self._payloads.append(payload)
        self._link.hold(len(payload))
        self._changed.set()

    def end(self, error: LeafError | None = None) -> None:
        """Nothing more comes, because of `error` or in good order."""
        self._over = True
        self._error = error
        self._changed.set()

    def discard(self) -> None:
        """Nobody takes what is left."""
        self._link.hold(-sum(len(payload) for payload in self._payloads))
        self._payloads.clear()

    async def take(self) -> bytes | None:
        """The next payload, None after the last; raises the error that ended the stream."""
        while not self._payloads:
            if self._error is not None:
                raise self._error
            if self._over:
                return None
            self._changed.clear()
            await self._changed.wait()
        payload = self._payloads.popleft()
        self._link.hold(-len(payload))
        return payload

    def raise_if_failed(self) -> None:
        """Raise the error that ended the stream, if one did."""
        if self._error is not None:
            raise self._error


class Link(asyncio.Protocol, Generic[C]):
    """What both ends share: a transport that writes what the connection puts out, and the flow in both directions."""

    def __init__(self, connection: C) -> None:
        self.connection: C = connection
        self.gone = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._held = 0
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def transport(self) -> asyncio.Transport:
        """The connection's."""
        assert self._transport is not None  # connection_made comes before anything else
        return self._transport

    @property
    def pending(self) -> int:
        """Bytes that the peer has not taken yet."""
        return self.transport.get_write_buffer_size()

    def hold(self, size: int) -> None:
        """`size` more bytes (fewer, when negative) wait to be taken."""
        self._held += size
        if self._held > INBOX_LIMIT:
            self.transport.pause_reading()
        elif size < 0:
            self.transport.resume_reading()

    def flush(self) -> None:
        """Hand what the connection puts out to the transport."""
        output = self.connection.output
        if output and not self.transport.is_closing():
            self.transport.write(bytes(output))
            output.clear()

    async def drain(self) -> None:
        """Wait until the peer takes what was written."""
        await self._writable.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        for event in self.connection.receive(data):
            self.take(event)
        self.flush()

    def take(self, event: Event) -> None:
        """Act on an event."""
        raise NotImplementedError
