"""What a service offers, as data. Clients call by it, servers are tables from it to handlers."""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from leafshim.errors import InputError, Unsupported
from leafshim.ttrpc.connection import OPEN, REPLYING, UNARY
from leafshim.ttrpc.protobuf import Message

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)
HandlerT = TypeVar("HandlerT")


class Method(Generic[RequestT, ResponseT]):
    """One method: `service` (with its package), `name`, both message classes, and which sides send streams."""

    __slots__ = ("client_streaming", "name", "request", "response", "server_streaming", "service")

    def __init__(
        self,
        service: str,
        name: str,
        request: type[RequestT],
        response: type[ResponseT],
        *,
        client_streaming: bool = False,
        server_streaming: bool = False,
    ) -> None:
        self.service = service
        self.name = name
        self.request = request
        self.response = response
        self.client_streaming = client_streaming
        self.server_streaming = server_streaming

    @property
    def streaming(self) -> bool:
        """Whether either side sends a stream; if not, the call is unary."""
        return self.client_streaming or self.server_streaming

    def __repr__(self) -> str:
        return f"<Method {self.service}/{self.name}>"


def opening(method: Method[Any, Any]) -> str:
    """The state that a call of this method begins in."""
    return OPEN if method.client_streaming else REPLYING if method.server_streaming else UNARY


class MethodTable(Generic[HandlerT]):
    """A server's methods by the names that requests give them."""

    def __init__(self, handlers: Mapping[Method[Any, Any], HandlerT]) -> None:
        self._services: dict[str, dict[str, tuple[Method[Any, Any], HandlerT]]] = {}
        for method, handler in handlers.items():
            self._services.setdefault(method.service, {})[method.name] = method, handler

    def find(self, service: str, name: str, state: str) -> tuple[Method[Any, Any], HandlerT]:
        """The method and its handler. Unsupported when there is none; InputError when a request that begins in `state`
        is of another form than the method, for its client would misread the answer."""
        methods = self._services.get(service)
        if methods is None:
            raise Unsupported(f"no service {service}")
        if name not in methods:
            raise Unsupported(f"no method {name} in {service}")
        method = methods[name][0]
        # A client that streams may also close at once, before any message.
        if state != opening(method) and not (method.client_streaming and state == REPLYING):
            raise InputError(f"{service}/{name} is not called as {state}")
        return methods[name]
