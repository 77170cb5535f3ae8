"""The same small service by both of our servers, and both of our clients behind one face."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leafshim.api import shim, task
from leafshim.errors import InputError, KernelError, from_status
from leafshim.loop import READ, Loop
from leafshim.ttrpc.aio import AsyncCall, AsyncClient, AsyncHandler, AsyncServer, AsyncStream
from leafshim.ttrpc.client import Client
from leafshim.ttrpc.frames import PAYLOAD_LIMIT
from leafshim.ttrpc.server import Call, Handler, Server
from leafshim.ttrpc.service import Method

STATE = task.V3.state
EVENTS = shim.EVENTS
ATTACH = shim.ATTACH
JOIN = Method("test.Test", "Join", shim.AttachInput, shim.AttachOutput, client_streaming=True)

# What the State handler does, by the id that it is asked about.
FAILURES: dict[str, Callable[[], Exception]] = {
    "defect": lambda: ValueError("a bug"),
    "kernel": lambda: KernelError("mount", 1, "/proc"),
    **{f"code {code}": lambda code=code: from_status(code, f"code {code}") for code in range(1, 18)},  # type: ignore[misc]
}


def state_of(request: task.StateRequest) -> task.StateResponse:
    if request.id in FAILURES:
        raise FAILURES[request.id]()
    if request.id == "big":
        return task.StateResponse(bundle="x" * PAYLOAD_LIMIT)
    return task.StateResponse(id=request.id, pid=42)


class EpollServer:
    """`leafshim.ttrpc.server` on `leafshim.loop` in a thread."""

    def __init__(self, listener: socket.socket, authorize: Callable[[int, int, int], bool]) -> None:
        self.defects: list[BaseException] = []
        self.loop = Loop(self.defects.append)
        self._wake, ours = socket.socketpair()
        self.loop.add(ours.fileno(), READ, lambda _mask: self.loop.stop())
        handlers: dict[Method[Any, Any], Handler] = {
            STATE: self.state,
            EVENTS: self.events,
            ATTACH: self.attach,
            JOIN: self.join,
        }
        self.server = Server(self.loop, listener, handlers, authorize, self.defects.append)
        self._ours = ours
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        self._wake.send(b"x")
        self._thread.join()
        self.server.close()
        assert self.loop.descriptors() == [self._ours.fileno()]
        self._wake.close()
        self._ours.close()
        self.loop.close()

    def state(
        self, request: task.StateRequest, call: Call[task.StateRequest, task.StateResponse]
    ) -> task.StateResponse | None:
        if request.id == "never":
            return None
        if request.id == "later":
            self.loop.call_later(0, lambda: call.reply(task.StateResponse(id="later", pid=call.peer[1])))
            return None
        return state_of(request)

    def events(self, request: shim.EventsRequest, call: Call[shim.EventsRequest, shim.Event]) -> None:
        numbers = iter(range(1, request.after + 1))

        def more() -> None:
            for number in numbers:
                call.send(shim.Event(sequence=number, type="x" * 1000))
                if call.pending:
                    return
            call.finish()

        call.on_drain = more
        more()

    def attach(self, _request: shim.AttachInput, call: Call[shim.AttachInput, shim.AttachOutput]) -> None:
        call.on_message = lambda message: call.send(shim.AttachOutput(stdout=message.data))
        call.on_close = call.finish

    def join(self, _request: shim.AttachInput, call: Call[shim.AttachInput, shim.AttachOutput]) -> None:
        got: list[bytes] = []

        def take(message: shim.AttachInput) -> None:
            if message.data == b"fail":
                raise InputError("as you wish")
            got.append(message.data)

        call.on_message = take
        call.on_close = lambda: call.reply(shim.AttachOutput(stdout=b"".join(got)))


class AsyncioServer:
    """`leafshim.ttrpc.aio` in a thread."""

    def __init__(self, listener: socket.socket, authorize: Callable[[int, int, int], bool]) -> None:
        self.defects: list[BaseException] = []
        self._loop = asyncio.new_event_loop()
        handlers: dict[Method[Any, Any], AsyncHandler] = {
            STATE: self.state,
            EVENTS: self.events,
            ATTACH: self.attach,
            JOIN: self.join,
        }
        self._server = AsyncServer(handlers, authorize, self.defects.append)
        self._loop.run_until_complete(self._server.listen(listener))
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def state(
        self, request: task.StateRequest, call: AsyncCall[task.StateRequest, task.StateResponse]
    ) -> task.StateResponse:
        if request.id == "never":
            await asyncio.Event().wait()
        if request.id == "later":
            await asyncio.sleep(0)
            return task.StateResponse(id="later", pid=call.peer[1])
        return state_of(request)

    async def events(
        self, request: shim.EventsRequest, _call: AsyncCall[shim.EventsRequest, shim.Event]
    ) -> AsyncIterator[shim.Event]:
        for number in range(1, request.after + 1):
            yield shim.Event(sequence=number, type="x" * 1000)

    async def attach(self, _request: shim.AttachInput, call: AsyncCall[shim.AttachInput, shim.AttachOutput]) -> None:
        async for message in call:
            await call.send(shim.AttachOutput(stdout=message.data))

    async def join(
        self, _request: shim.AttachInput, call: AsyncCall[shim.AttachInput, shim.AttachOutput]
    ) -> shim.AttachOutput:
        got = b""
        async for message in call:
            if message.data == b"fail":
                raise InputError("as you wish")
            got += message.data
        return shim.AttachOutput(stdout=got)


class Blocked:
    """The asyncio client with the blocking client's face, so that one test serves both."""

    def __init__(self, path: str, timeout: float | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._run = self._loop.run_until_complete
        try:
            self.client = self._run(AsyncClient.connect(path, timeout))
        except BaseException:
            self._loop.close()
            raise

    def __enter__(self) -> "Blocked":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._run(self.client.wait_closed())
        self._run(self._loop.shutdown_asyncgens())
        self._loop.close()

    def call(self, *arguments: Any, **options: Any) -> Any:
        return self._run(self.client.call(*arguments, **options))

    def stream(self, *arguments: Any, **options: Any) -> "BlockedStream":
        async def begin() -> AsyncStream[Any, Any]:
            return self.client.stream(*arguments, **options)

        return BlockedStream(self._run, self._run(begin()))


class BlockedStream:
    def __init__(self, run: Callable[[Any], Any], stream: AsyncStream[Any, Any]) -> None:
        self._run = run
        self._stream = stream
        self.close_send = stream.close_send

    def __enter__(self) -> "BlockedStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def send(self, message: Any) -> None:
        self._run(self._stream.send(message))

    def receive(self) -> Any:
        return self._run(self._stream.receive())

    def __iter__(self) -> Iterator[Any]:
        while (message := self.receive()) is not None:
            yield message


Connect = Callable[..., Any]
Serve = Callable[..., EpollServer | AsyncioServer]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


@pytest.fixture(params=[EpollServer, AsyncioServer])
def serve(request: pytest.FixtureRequest, path: str) -> Iterator[Serve]:
    """Start a server of this kind at `path`; it is closed after the test."""
    running: list[EpollServer | AsyncioServer] = []

    def start(
        authorize: Callable[[int, int, int], bool] = lambda _pid, _uid, _gid: True,
    ) -> EpollServer | AsyncioServer:
        running.append(request.param(listening(path), authorize))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture
def server(serve: Serve) -> EpollServer | AsyncioServer:
    """A running server."""
    return serve()


@pytest.fixture(params=[Client, Blocked], ids=["blocking", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Connect:
    return request.param  # type: ignore[no-any-return]


def listening(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(128)
    return listener
