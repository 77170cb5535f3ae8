"""The codec by its rules. That it agrees with the official runtime is tested with the messages of our API."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leafshim.errors import InputError, ProtocolError
from leafshim.ttrpc import protobuf as pb


class Point(pb.Message):
    package = "test"

    x: int = pb.int32(1)
    label: str = pb.string(2)


class Shape(pb.Message):
    package = "test"

    name: str = pb.string(1)
    origin: Point | None = pb.message(Point, 2)
    points: list[Point] = pb.repeated(pb.message(Point, 3))
    sizes: list[int] = pb.repeated(pb.uint32(4))
    grace: int | None = pb.optional(pb.uint64(5))
    labels: dict[str, str] = pb.string_map(6)
    flags: list[bool] = pb.repeated(pb.boolean(7))
    big: int = pb.int64(16)


def test_defaults_are_not_sent() -> None:
    assert Shape().encode() == b""
    assert Shape(name="", sizes=[], labels={}, big=0).encode() == b""
    assert Shape.decode(b"") == Shape()


def test_presence_is_sent() -> None:
    shape = Shape(origin=Point(), grace=0)
    assert shape.encode() == b"\x12\x00\x28\x00"
    decoded = Shape.decode(shape.encode())
    assert decoded.origin == Point()
    assert decoded.grace == 0
    assert Shape().grace is None


def test_instances_do_not_share_containers() -> None:
    one, other = Shape(), Shape.decode(b"")
    one.sizes.append(1)
    one.labels["a"] = "b"
    assert (other.sizes, other.labels, Shape().sizes) == ([], {}, [])


@pytest.mark.parametrize("data", [b"\x22\x03\x01\x96\x01", b"\x20\x01\x20\x96\x01", b"\x20\x01\x22\x02\x96\x01"])
def test_repeated_numbers_packed_and_not(data: bytes) -> None:
    assert Shape.decode(data).sizes == [1, 150]
    assert Shape.decode(data).encode() == b"\x22\x03\x01\x96\x01"


def test_the_last_scalar_counts_and_messages_merge() -> None:
    assert Shape.decode(b"\x0a\x01a\x0a\x01b").name == "b"
    assert Shape.decode(b"\x12\x02\x08\x07\x12\x03\x12\x01l").origin == Point(x=7, label="l")


@pytest.mark.parametrize(
    "unknown",
    [b"\x78\x05", b"\x7a\x02hi", b"\x79" + bytes(8), b"\x7d" + bytes(4), b"\x0d" + bytes(4), b"\x08\x05"],
    ids=["varint", "length", "fixed64", "fixed32", "known number, foreign wire type", "string as varint"],
)
def test_unknown_fields_are_skipped(unknown: bytes) -> None:
    assert Shape.decode(unknown + b"\x0a\x01a" + unknown) == Shape(name="a")


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",
        b"\x0a\x05abcd",
        b"\x0a\x80",
        b"\x80",
        b"\x79\x00",
        b"\x7d\x00",
        b"\x28" + b"\xff" * 10 + b"\x01",
        b"\x00\x01",
        b"\x0a\x02\xff\xfe",
        b"\x12\x02\x08",
        b"\x22\x01\x80",
        b"\x0b\x0c",
        b"\x0e\x00",
        b"\x32\x05\x0a\x01a\x12",
        b"\xff\xff\xff\xff\xff\x01\x00",
    ],
)
def test_malformed_input_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Shape.decode(data)


@given(st.binary(max_size=60))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        shape = Shape.decode(data)
    except ProtocolError:
        return
    assert Shape.decode(shape.encode()) == shape


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape(sizes=[-1]), "test.Shape.sizes: -1 is not a value of uint32"),
        (Shape(sizes=[2**32]), "test.Shape.sizes: 4294967296 is not a value of uint32"),
        (Shape(origin=Point(x=2**31)), "test.Point.x: 2147483648 is not a value of int32"),
        (Shape(name="\udcff"), "test.Shape.name: 'utf-8' codec can't encode"),
    ],
)
def test_values_that_do_not_fit_are_refused(shape: Shape, message: str) -> None:
    with pytest.raises(InputError) as raised:
        shape.encode()
    assert str(raised.value).startswith(message)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(TypeError, match="Shape has no field nam"):
        Shape(nam="x")  # type: ignore[call-arg]


def test_a_message_shows_what_it_holds() -> None:
    assert repr(Shape(name="a", grace=0, sizes=[1])) == "Shape(name='a', sizes=[1], grace=0)"
    assert repr(Shape()) == "Shape()"


def test_messages_of_different_classes_differ() -> None:
    assert Point() != Shape()
    assert Point(x=1) == Point(x=1)
    assert Point(x=1) != Point(x=2)
