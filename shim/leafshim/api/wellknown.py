"""The messages of google/protobuf that containerd's API uses."""

from typing import ClassVar, TypeVar

from leafshim.errors import InputError
from leafshim.ttrpc import protobuf as pb

M = TypeVar("M", bound=pb.Message)

_NANOSECONDS = 1_000_000_000


class _Message(pb.Message):
    package: ClassVar[str] = "google.protobuf"


class Empty(_Message):
    """Nothing."""


class Timestamp(_Message):
    """A point in time: seconds since the epoch, and 0 to 999,999,999 nanoseconds forward from there."""

    seconds: int = pb.int64(1)
    nanos: int = pb.int32(2)

    @classmethod
    def from_ns(cls, nanoseconds: int) -> "Timestamp":
        """From nanoseconds since the epoch, time.time_ns()."""
        seconds, nanos = divmod(nanoseconds, _NANOSECONDS)
        return cls(seconds=seconds, nanos=nanos)

    def to_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return self.seconds * _NANOSECONDS + self.nanos


class Any(_Message):
    """A value of a type that its URL names: of a message the full name, as containerd writes it, or after a last "/"
    as the standard has it; of JSON whatever containerd registered."""

    type_url: str = pb.string(1)
    value: bytes = pb.bytes_(2)

    @classmethod
    def pack(cls, message: pb.Message) -> "Any":
        """`message` under its full name."""
        return cls(type_url=message.full_name(), value=message.encode())

    def holds(self, type_: type[pb.Message]) -> bool:
        """Whether the URL names this message class."""
        return self.type_url.rpartition("/")[2] == type_.full_name()

    def unpack(self, type_: type[M]) -> M:
        """The message inside. InputError when the URL names another type, ProtocolError when it is malformed."""
        if not self.holds(type_):
            raise InputError(f"expected a {type_.full_name()}, not {self.type_url!r}")
        return type_.decode(self.value)
