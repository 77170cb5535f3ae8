"""The client of leafd: what `leafctl` does, for programs.

    with Client() as client:
        spec = describe(["sleep", "60"])
        client.create("web", spec, start=True)
        print(client.wait("web").exit.status)

The rules:
1. Both clients offer the same methods with the same meaning: `Client` blocks, `AsyncClient` is for asyncio.
2. What leafd refuses comes out as the error that it is (leafshim.errors). Silence is DeadlineExceeded, and says nothing
   about the containers.
3. What goes to the shim itself, exec and attach, is in `leafd.session`.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict, Unpack

from leafshim.api import containers as api
from leafshim.api.shim import Policy
from leafshim.errors import StateError
from leafshim.kernel import fdpass
from leafshim.ttrpc import client as blocking
from leafshim.ttrpc.client import Stream
from leafshim.ttrpc.service import Method, RequestT, ResponseT

if TYPE_CHECKING:
    from leafd.describe import Document
    from leafshim.ttrpc import aio

DEFAULT_SOCKET = "/run/leafd/leafd.sock"

_CONNECT_TIMEOUT = 5.0  # s
_TIMEOUT = 90.0  # for calls that wait for processes to die or start; leafd's own deadlines are below it
_NANOSECONDS = 1_000_000_000


class CreateOptions(TypedDict, total=False):
    """What `create` takes beside id and description; see CreateRequest in containers.proto."""

    labels: dict[str, str]
    restart: str
    start: bool
    stdin: bool
    remove: bool
    timeout: int
    overlay_size: int
    rootfs: str
    share_cgroups: bool
    container_class: str
    share: list[str]
    policy: Policy


class Client:
    """A blocking connection to leafd. Close it, or use it in a `with` block. Not for several threads at once.

    `timeout`: seconds for connecting and for each call but `wait`. Raises Unavailable when nobody listens at `socket`,
    DeadlineExceeded when leafd does not accept in time.
    """

    def __init__(self, socket: str = DEFAULT_SOCKET, timeout: float = _TIMEOUT) -> None:
        self.socket = socket
        self._timeout = timeout
        self._client = blocking.Client(fdpass.connect(socket, timeout=min(timeout, _CONNECT_TIMEOUT)))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: Method[RequestT, ResponseT], request: RequestT) -> ResponseT:
        return self._client.call(method, request, timeout=self._timeout)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def version(self) -> api.VersionResponse:
        """Who leafd is: version, pids, directories, cgroups root and its controllers."""
        return self._call(api.VERSION, api.VersionRequest())

    def create(self, container_id: str, spec: "Document | bytes", **options: Unpack[CreateOptions]) -> api.Container:
        """Make a container from an OCI description, up to init waiting for `start`; with `start=True`, run it.

        Raises AlreadyExists, InputError (a field of the description, by its path), and what the kernel refused.
        """
        return self._call(api.CREATE, _create_request(container_id, spec, options))

    def start(self, container_id: str) -> api.Container:
        """Let init of a made container go. Raises NotFound, StateError, and what kept the program from executing."""
        return self._call(api.START, api.ContainerRequest(id=container_id))

    def list(self) -> Sequence[api.Container]:
        """All containers, in no order. One whose shim does not answer in time is UNKNOWN, and delays no other."""
        return self._call(api.LIST, api.ListRequest()).containers

    def inspect(self, container_id: str) -> api.Container:
        """One container. Raises NotFound."""
        return self._call(api.INSPECT, api.ContainerRequest(id=container_id))

    def wait(self, container_id: str, timeout: float | None = None) -> api.Container:
        """The container once it has ended (with a restart policy: for good). `timeout`: seconds, None waits for ever.

        Raises NotFound, DeadlineExceeded.
        """
        return self._client.call(api.WAIT, api.ContainerRequest(id=container_id), timeout=timeout)

    def kill(self, container_id: str, signal: int = 9, *, everything: bool = False) -> None:
        """Send `signal` to init, or to every process. Raises NotFound, also when it has ended, and InputError."""
        self._call(api.KILL, api.KillRequest(id=container_id, signal=signal, all=everything))

    def stop(self, container_id: str, grace: float | None = None) -> api.Container:
        """Ask a container to end, and kill it after `grace` seconds (None: as leafd is configured).

        Returns the container, STOPPED. Raises NotFound.
        """
        return self._client.call(api.STOP, _stop_request(container_id, grace), timeout=self._timeout + (grace or 0))

    def pause(self, container_id: str) -> api.Container:
        """Freeze all processes. Raises NotFound, StateError."""
        return self._call(api.PAUSE, api.ContainerRequest(id=container_id))

    def resume(self, container_id: str) -> api.Container:
        """Thaw all processes. Raises NotFound, StateError."""
        return self._call(api.RESUME, api.ContainerRequest(id=container_id))

    def remove(self, container_id: str, *, force: bool = False) -> None:
        """Forget a stopped container; with `force`, kill one that runs first. Raises NotFound, StateError."""
        self._call(api.REMOVE, api.RemoveRequest(id=container_id, force=force))

    def events(
        self, since: int = 0, *, follow: bool = False, container_id: str = ""
    ) -> Stream[api.EventsRequest, api.Event]:
        """The journal after number `since`, of all containers or of one; with `follow`, on and on.

        Iterate over it; leave its `with` block to end it.
        """
        return self._client.stream(api.EVENTS, api.EventsRequest(since=since, follow=follow, id=container_id))

    def logs(self, container_id: str, *, follow: bool = False) -> Stream[api.LogsRequest, api.LogChunk]:
        """What the container wrote, in pieces; with `follow`, until it has ended. As `events`. Raises NotFound."""
        return self._client.stream(api.LOGS, api.LogsRequest(id=container_id, follow=follow))

    def upgrade(self, container_id: str) -> api.UpgradeResponse:
        """Put another shim, of the nursery's code, in charge of a container that runs; attached clients are cut off.

        Raises NotFound, and StateError with the reason why the shim before stays in charge.
        """
        return self._call(api.UPGRADE, api.UpgradeRequest(id=container_id))

    def renew(self) -> api.RenewResponse:
        """Have the nursery go on with the code that is installed: what new shims, and upgrades, are made of.

        Raises StateError with the reason why it goes on as before.
        """
        return self._call(api.RENEW, api.Empty())

    def recover(self) -> api.RecoverResponse:
        """Look at everything again, as after a restart of leafd: how many containers came out how."""
        return self._call(api.RECOVER, api.Empty())


class AsyncClient:
    """The same for asyncio; `async with AsyncClient() as client`. Its methods are Client's, and so are their meanings.

    One connection serves many calls at once.
    """

    def __init__(self, socket: str = DEFAULT_SOCKET, timeout: float = _TIMEOUT) -> None:
        self.socket = socket
        self._timeout = timeout
        self._client: aio.AsyncClient | None = None

    async def __aenter__(self) -> "AsyncClient":
        from leafshim.ttrpc import aio  # asyncio costs leafctl more than everything else together

        connection = fdpass.connect(self.socket, timeout=min(self._timeout, _CONNECT_TIMEOUT))
        self._client = await aio.AsyncClient.connect(connection)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    @property
    def _connected(self) -> "aio.AsyncClient":
        if self._client is None:
            raise StateError("not connected: use `async with`")
        return self._client

    async def _call(self, method: Method[RequestT, ResponseT], request: RequestT) -> ResponseT:
        return await self._connected.call(method, request, timeout=self._timeout)

    def close(self) -> None:
        """As Client.close."""
        if self._client is not None:
            self._client.close()

    async def version(self) -> api.VersionResponse:
        """As Client.version."""
        return await self._call(api.VERSION, api.VersionRequest())

    async def create(
        self, container_id: str, spec: "Document | bytes", **options: Unpack[CreateOptions]
    ) -> api.Container:
        """As Client.create."""
        return await self._call(api.CREATE, _create_request(container_id, spec, options))

    async def start(self, container_id: str) -> api.Container:
        """As Client.start."""
        return await self._call(api.START, api.ContainerRequest(id=container_id))

    async def list(self) -> Sequence[api.Container]:
        """As Client.list."""
        return (await self._call(api.LIST, api.ListRequest())).containers

    async def inspect(self, container_id: str) -> api.Container:
        """As Client.inspect."""
        return await self._call(api.INSPECT, api.ContainerRequest(id=container_id))

    async def wait(self, container_id: str, timeout: float | None = None) -> api.Container:
        """As Client.wait."""
        return await self._connected.call(api.WAIT, api.ContainerRequest(id=container_id), timeout=timeout)

    async def kill(self, container_id: str, signal: int = 9, *, everything: bool = False) -> None:
        """As Client.kill."""
        await self._call(api.KILL, api.KillRequest(id=container_id, signal=signal, all=everything))

    async def stop(self, container_id: str, grace: float | None = None) -> api.Container:
        """As Client.stop."""
        request = _stop_request(container_id, grace)
        return await self._connected.call(api.STOP, request, timeout=self._timeout + (grace or 0))

    async def pause(self, container_id: str) -> api.Container:
        """As Client.pause."""
        return await self._call(api.PAUSE, api.ContainerRequest(id=container_id))

    async def resume(self, container_id: str) -> api.Container:
        """As Client.resume."""
        return await self._call(api.RESUME, api.ContainerRequest(id=container_id))

    async def remove(self, container_id: str, *, force: bool = False) -> None:
        """As Client.remove."""
        await self._call(api.REMOVE, api.RemoveRequest(id=container_id, force=force))

    def events(
        self, since: int = 0, *, follow: bool = False, container_id: str = ""
    ) -> "aio.AsyncStream[api.EventsRequest, api.Event]":
        """As Client.events; `async for` over it."""
        return self._connected.stream(api.EVENTS, api.EventsRequest(since=since, follow=follow, id=container_id))

    def logs(self, container_id: str, *, follow: bool = False) -> "aio.AsyncStream[api.LogsRequest, api.LogChunk]":
        """As Client.logs; `async for` over it."""
        return self._connected.stream(api.LOGS, api.LogsRequest(id=container_id, follow=follow))

    async def upgrade(self, container_id: str) -> api.UpgradeResponse:
        """As Client.upgrade."""
        return await self._call(api.UPGRADE, api.UpgradeRequest(id=container_id))

    async def renew(self) -> api.RenewResponse:
        """As Client.renew."""
        return await self._call(api.RENEW, api.Empty())

    async def recover(self) -> api.RecoverResponse:
        """As Client.recover."""
        return await self._call(api.RECOVER, api.Empty())


def _create_request(container_id: str, spec: "Document | bytes", options: CreateOptions) -> api.CreateRequest:
    document = spec if isinstance(spec, bytes) else json.dumps(spec).encode()
    return api.CreateRequest(id=container_id, spec=document, **options)


def _stop_request(container_id: str, grace: float | None) -> api.StopRequest:
    return api.StopRequest(id=container_id, grace=None if grace is None else int(grace * _NANOSECONDS))
