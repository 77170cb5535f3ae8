"""What a service offers, as data. Clients call by it, servers are tables from it to handlers."""

from typing import Generic, TypeVar

from leafshim.ttrpc.protobuf import Message

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)


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
