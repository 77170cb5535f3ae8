"""What only asyncio has: cancellation, many calls at once, and waiting for a slow taker."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from leafshim.api import shim, task
from leafshim.errors import Code, PeerError, Unavailable
from leafshim.ttrpc.aio import AsyncCall, AsyncClient, AsyncHandler, AsyncServer
from leafshim.ttrpc.service import Method

WAIT = task.V3.wait
SIZE = 100_000


class Service:
    """Handlers, and what became of them."""

    def __init__(self) -> None:
        self.waiting = asyncio.Semaphore(0)
        self.cancelled = asyncio.Semaphore(0)
        self.release = asyncio.Event()
        self.sent = 0
        self.handlers: dict[Method[Any, Any], AsyncHandler] = {WAIT: self.wait, shim.EVENTS: self.events}

    async def wait(
        self, request: task.WaitRequest, _call: AsyncCall[task.WaitRequest, task.WaitResponse]
    ) -> task.WaitResponse:
        if request.id == "cancelled":
            raise asyncio.CancelledError
        self.waiting.release()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        return task.WaitResponse(exit_status=int(request.id))

    async def events(
        self, request: shim.EventsRequest, _call: AsyncCall[shim.EventsRequest, shim.Event]
    ) -> AsyncIterator[shim.Event]:
        for number in range(request.after):
            self.sent += 1
            yield shim.Event(sequence=number, type="x" * SIZE)


async def started(tmp_path: Path) -> tuple[Service, AsyncServer, AsyncClient]:
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    service = Service()
    server = AsyncServer(service.handlers)
    await server.listen(listener)
    return service, server, await AsyncClient.connect(path, timeout=60)


async def closed(client: AsyncClient) -> None:
    client.close()
    await client.wait_closed()


def test_many_calls_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        service, server, client = await started(tmp_path)
        calls = [asyncio.create_task(client.call(WAIT, task.WaitRequest(id=str(number)))) for number in range(200)]
        for _ in calls:
            await service.waiting.acquire()
        service.release.set()
        assert [answer.exit_status for answer in await asyncio.gather(*calls)] == list(range(200))
        await closed(client)
        await server.close()

    asyncio.run(main())


def test_a_cancelled_call_leaves_the_connection_good(tmp_path: Path) -> None:
    async def main() -> None:
        service, server, client = await started(tmp_path)
        call = asyncio.create_task(client.call(WAIT, task.WaitRequest(id="1")))
        await service.waiting.acquire()
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        service.release.set()
        assert (await client.call(WAIT, task.WaitRequest(id="2"))).exit_status == 2
        await closed(client)
        await server.close()

    asyncio.run(main())


def test_handlers_end_with_their_connection(tmp_path: Path) -> None:
    async def main() -> None:
        service, server, client = await started(tmp_path)
        call = asyncio.create_task(client.call(WAIT, task.WaitRequest(id="1")))
        await service.waiting.acquire()
        client.close()
        await service.cancelled.acquire()
        with pytest.raises(Unavailable):
            await call
        assert client.closed
        await server.close()

    asyncio.run(main())


def test_a_handler_that_was_cancelled_answers_so(tmp_path: Path) -> None:
    async def main() -> None:
        _, server, client = await started(tmp_path)
        with pytest.raises(PeerError, match="Wait was cancelled") as raised:
            await client.call(WAIT, task.WaitRequest(id="cancelled"))
        assert raised.value.code == Code.CANCELLED
        await closed(client)
        await server.close()

    asyncio.run(main())


def test_a_slow_taker_slows_the_sender(tmp_path: Path) -> None:
    async def main() -> None:
        service, server, client = await started(tmp_path)
        service.release.set()
        other = await AsyncClient.connect(str(tmp_path / "s"))
        async with client.stream(shim.EVENTS, shim.EventsRequest(after=500)) as stream:
            for _ in range(500):  # nobody takes, while both ends have every occasion to go on
                await other.call(WAIT, task.WaitRequest(id="1"))
            assert service.sent * SIZE < 12_000_000  # the limits of inbox, sockets and transport
            assert [event.sequence async for event in stream] == list(range(500))
        await closed(other)
        await closed(client)
        await server.close()

    asyncio.run(main())
