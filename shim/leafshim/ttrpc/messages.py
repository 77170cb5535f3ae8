"""The envelopes of ttrpc: what request and response frames carry (ttrpc's request.proto, google/rpc/status.proto).

The `details` of a Status (field 3) are not declared: nobody here sends or reads them, so they are skipped.
"""

from typing import ClassVar

from leafshim.ttrpc.protobuf import Message, bytes_, int32, int64, message, repeated, string


class KeyValue(Message):
    """One piece of metadata; a key may come more than once."""

    package: ClassVar[str] = "ttrpc"

    key: str = string(1)
    value: str = string(2)


class Request(Message):
    """What a client asks; `timeout_nano` is relative, 0 is none."""

    package: ClassVar[str] = "ttrpc"

    service: str = string(1)
    method: str = string(2)
    payload: bytes = bytes_(3)
    timeout_nano: int = int64(4)
    metadata: list[KeyValue] = repeated(message(KeyValue, 5))


class Status(Message):
    """How a call went; `code` is a google.rpc.Code."""

    package: ClassVar[str] = "google.rpc"

    code: int = int32(1)
    message: str = string(2)


class Response(Message):
    """How a call ended, and with what."""

    package: ClassVar[str] = "ttrpc"

    status: Status | None = message(Status, 1)
    payload: bytes = bytes_(2)
