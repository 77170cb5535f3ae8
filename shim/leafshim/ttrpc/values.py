"""How protobuf puts single values on the wire (protobuf.dev/programming-guides/encoding).

Rules:
1. A varint holds 64 bits in at most ten bytes, seven a byte, least significant first. What is over 64 bits is dropped.
2. A negative number is sent as 64 bits, whatever its type; what comes back is cut to its type.
3. Strings, bytes and messages are a length and that many bytes.
"""

import struct
from collections.abc import Callable
from typing import Any

from leafshim.errors import ProtocolError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5

_SMALL = [bytes((number,)) for number in range(0x80)]
_VARINT_BYTES = 10
_MASK_64 = (1 << 64) - 1
_DOUBLE = struct.Struct("<d")


def varint(value: int) -> bytes:
    """`value`, 0 to 2**64 - 1, as a varint."""
    if value < 0x80:
        return _SMALL[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(value modulo 2**64, where the next byte is). IndexError when `data` ends within it."""
    value = shift = 0
    for byte in data[at : at + _VARINT_BYTES]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value & _MASK_64, at + shift // 7
    if shift < 7 * _VARINT_BYTES:
        raise IndexError
    raise ProtocolError("varint longer than ten bytes")


class Kind:
    """How one type of value is written and read. `write` yields what follows the tag, `read` takes the raw value."""

    __slots__ = ("default", "name", "read", "wire", "write")

    def __init__(
        self, name: str, wire: int, default: object, write: Callable[[Any], bytes], read: Callable[[Any], Any]
    ) -> None:
        self.name = name
        self.wire = wire
        self.default = default
        self.write = write
        self.read = read


def write_bytes(value: bytes) -> bytes:
    """`value` with its length before it."""
    return varint(len(value)) + value


def _write_string(value: str) -> bytes:
    raw = value.encode()
    return varint(len(raw)) + raw


def _write_boolean(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def _read_double(raw: bytes) -> float:
    value: float = _DOUBLE.unpack(raw)[0]
    return value


def _same(raw: bytes) -> bytes:
    return raw


def _integer(name: str, bits: int, signed: bool) -> Kind:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    mask, sign = (1 << bits) - 1, 1 << bits - 1

    def write(value: int) -> bytes:
        if 0 <= value < 0x80:
            return _SMALL[value]
        if not low <= value <= high:
            raise OverflowError(f"{value} is not a value of {name}")
        return varint(value & _MASK_64)  # a negative number is sent as 64 bits whatever its type

    def read_signed(raw: int) -> int:
        return ((raw & mask) ^ sign) - sign

    def read_unsigned(raw: int) -> int:
        return raw & mask

    return Kind(name, VARINT, 0, write, read_signed if signed else read_unsigned)


STRING = Kind("string", LENGTH, "", _write_string, bytes.decode)
BYTES = Kind("bytes", LENGTH, b"", write_bytes, _same)
BOOLEAN = Kind("bool", VARINT, False, _write_boolean, bool)
INT32 = _integer("int32", 32, signed=True)
INT64 = _integer("int64", 64, signed=True)
UINT32 = _integer("uint32", 32, signed=False)
UINT64 = _integer("uint64", 64, signed=False)
ENUM = _integer("enum", 32, signed=True)
DOUBLE = Kind("double", FIXED64, 0.0, _DOUBLE.pack, _read_double)
