"""ttrpc frames: a 10-byte header and at most 4 MiB of payload.

    u32 payload length   u32 stream   u8 type   u8 flags   payload          (numbers big-endian)

Rules (containerd/ttrpc PROTOCOL.md, "Message Frame"):
1. A header that claims more than PAYLOAD_LIMIT is reported at once as Oversized. Its payload is dropped as it comes in,
   never gathered, and the frame after it is read as always.
2. The buffer holds what arrived of one frame; nothing is allocated because a header claims it.
3. Any bytes are frames. What they mean is the connection's business.
"""

import struct
from typing import NamedTuple

from leafshim.errors import ResourceExhausted

PAYLOAD_LIMIT = 4 << 20

REQUEST, RESPONSE, DATA = 1, 2, 3

REMOTE_CLOSED = 0x01  # the sender sends nothing more on this stream
REMOTE_OPEN = 0x02  # of a request: data follows
NO_DATA = 0x04  # of data: there is no message in it, not even an empty one

_HEADER = struct.Struct(">IIBB")


class Frame(NamedTuple):
    """One frame: REQUEST, RESPONSE, DATA or a `type` that we do not know."""

    stream: int
    type: int
    flags: int
    payload: bytes


class Oversized(NamedTuple):
    """The header of a frame over the limit; `length` in bytes."""

    stream: int
    type: int
    length: int


def encode(stream: int, type_: int, flags: int, payload: bytes) -> bytes:
    """A frame's bytes. ResourceExhausted when the payload is over PAYLOAD_LIMIT."""
    if len(payload) > PAYLOAD_LIMIT:
        raise ResourceExhausted(f"message of {len(payload)} bytes: the limit is {PAYLOAD_LIMIT}")
    return _HEADER.pack(len(payload), stream, type_, flags) + payload


class FrameReader:
    """Bytes, cut anywhere, into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._to_drop = 0  # bytes of an oversized payload still to come

    @property
    def buffered(self) -> int:
        """Bytes held of a frame that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame | Oversized]:
        """The frames that are complete with `data`."""
        if self._to_drop:
            dropped = min(self._to_drop, len(data))
            self._to_drop -= dropped
            data = data[dropped:]
        buffer = self._buffer
        buffer += data
        frames: list[Frame | Oversized] = []
        at = 0
        while len(buffer) - at >= _HEADER.size:
            length, stream, type_, flags = _HEADER.unpack_from(buffer, at)
            start = at + _HEADER.size
            end = start + length
            if length > PAYLOAD_LIMIT:
                frames.append(Oversized(stream, type_, length))
                at = min(end, len(buffer))
                self._to_drop = end - at
            elif end <= len(buffer):
                frames.append(Frame(stream, type_, flags, bytes(buffer[start:end])))
                at = end
            else:
                break
        del buffer[:at]
        return frames
