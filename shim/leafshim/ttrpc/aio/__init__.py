"""ttrpc for asyncio: a client for many calls at once on one connection, and a server whose handlers are coroutines.

    client = await AsyncClient.connect("/run/leafd/leafd.sock", timeout=2)
    answer = await client.call(task.V3.state, task.StateRequest(id="web"))
    async with client.stream(shim.EVENTS, shim.EventsRequest(after=7)) as events:
        async for event in events: ...

    async def state(request: StateRequest, call: AsyncCall[StateRequest, StateResponse]) -> StateResponse: ...
    async def events(request: EventsRequest, call: AsyncCall[EventsRequest, Event]) -> AsyncIterator[Event]: yield ...

Rules:
1. A client's call that is cancelled or late is abandoned; its connection goes on. DeadlineExceeded does not mean dead.
2. A handler returns the response, or streams by `call.send` or by being an async generator; where the client streams,
   it iterates over the call. It is cancelled when its connection is gone or its deadline has passed.
3. A LeafError that a handler lets out is its call's answer; any other exception is INTERNAL, and goes to `on_defect`.
4. `send` waits while the peer does not read. While what arrived and nobody took is over INBOX_LIMIT the connection is
   not read, so that a slow taker slows the sender: a stream of much data deserves a connection of its own.
5. A peer that leaves more than OUTPUT_LIMIT unread is given up by a server; to a client its calls fail.
"""

from leafshim.ttrpc.aio.client import AsyncClient, AsyncStream
from leafshim.ttrpc.aio.server import AsyncCall, AsyncHandler, AsyncServer

__all__ = ["AsyncCall", "AsyncClient", "AsyncHandler", "AsyncServer", "AsyncStream"]
