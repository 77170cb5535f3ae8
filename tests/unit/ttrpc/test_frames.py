"""Frames come out whole however the bytes were cut, and nothing over the limit is ever held."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leafshim.errors import ResourceExhausted
from leafshim.ttrpc import frames
from leafshim.ttrpc.frames import PAYLOAD_LIMIT, Frame, FrameReader, Oversized

FRAMES = st.builds(Frame, st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=50))


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(edge % (len(data) + 1) for edge in at), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(FRAMES), st.lists(st.integers(0)))
def test_any_cut_gives_the_same_frames(sent: list[Frame], at: list[int]) -> None:
    reader = FrameReader()
    data = b"".join(frames.encode(*frame) for frame in sent)
    assert [frame for piece in cut(data, at) for frame in reader.feed(piece)] == sent
    assert reader.buffered == 0


def test_the_header_is_the_specifications() -> None:
    assert frames.encode(0x01020304, 5, 6, b"abc") == b"\x00\x00\x00\x03\x01\x02\x03\x04\x05\x06abc"


@pytest.mark.parametrize("length", [PAYLOAD_LIMIT + 1, 2**32 - 1])
def test_an_oversized_claim_is_known_from_the_header_and_allocates_nothing(length: int) -> None:
    reader = FrameReader()
    assert reader.feed(struct.pack(">IIBB", length, 7, 1, 0)) == [Oversized(7, 1, length)]
    for _ in range(PAYLOAD_LIMIT // 65536):
        assert reader.feed(bytes(65536)) == []
        assert reader.buffered == 0


def test_the_frame_after_an_oversized_one_is_read() -> None:
    reader = FrameReader()
    data = struct.pack(">IIBB", PAYLOAD_LIMIT + 1, 7, 1, 0) + bytes(PAYLOAD_LIMIT + 1) + frames.encode(9, 1, 0, b"x")
    got = [frame for start in range(0, len(data), 65521) for frame in reader.feed(data[start : start + 65521])]
    assert got == [Oversized(7, 1, PAYLOAD_LIMIT + 1), Frame(9, 1, 0, b"x")]


def test_the_limit_itself_passes_both_ways() -> None:
    data = frames.encode(1, 1, 0, bytes(PAYLOAD_LIMIT))
    assert len(FrameReader().feed(data)) == 1
    with pytest.raises(ResourceExhausted):
        frames.encode(1, 1, 0, bytes(PAYLOAD_LIMIT + 1))
