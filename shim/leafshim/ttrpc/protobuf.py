"""Protocol Buffers, proto3: messages as Python classes, the schema as data.

    class StateRequest(Message):
        id: str = string(1)
        exec_id: str = string(2)
        options: list[str] = repeated(string(3))

    StateRequest(id="web").encode()    StateRequest.decode(data).id

Rules (protobuf.dev/programming-guides/encoding):
1. A field holds its default until it is set. A default is not encoded; for `optional` fields and sub-messages the
   default is None, and everything else is encoded, an empty message and 0 included.
2. Fields are encoded in the order of their numbers, repeated integers packed. Both forms of those are decoded.
3. An unknown field is skipped, and so is a known number with a foreign wire type. Of a scalar sent twice the last one
   counts; a sub-message sent twice is merged.
4. Malformed input raises ProtocolError: a cut value, a varint over ten bytes, field number 0, text that is not UTF-8,
   groups (proto3 has none). A value that does not fit its field raises InputError when it is encoded.
5. A field can only name a message class that exists already, so no schema is recursive: the schema, not the input,
   bounds how deep decoding goes.

Decoding reads the value first and looks its field up after, by the tag: number and wire type in one integer. So
skipping is reading without storing, and rule 3 needs no code. An instance's `__dict__` has only what was set or
received, the defaults are attributes of the class: small messages of a wide schema cost what they hold.

The names here are words that messages use for fields too: `from leafshim.ttrpc import protobuf as pb`.
"""

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, dataclass_transform

from leafshim.errors import InputError, ProtocolError
from leafshim.ttrpc.values import (
    BOOLEAN,
    BYTES,
    DOUBLE,
    ENUM,
    FIXED32,
    FIXED64,
    INT32,
    INT64,
    LENGTH,
    STRING,
    UINT32,
    UINT64,
    VARINT,
    Kind,
    read_varint,
    varint,
    write_bytes,
)

T = TypeVar("T")
M = TypeVar("M", bound="Message")

_MAX_TAG = (1 << 32) - 1

SINGULAR, OPTIONAL, REPEATED, MAP = "singular", "optional", "repeated", "map"

# What decoding a tag needs: the attribute, how to make a value of the raw one, and how to add it (None: assign).
_Collect = Callable[[dict[str, Any], Any], None]
_Reader = tuple[str, Callable[[Any], Any], _Collect | None]


class Field:
    """One line of a schema: `number`, `kind`, `label` (SINGULAR, OPTIONAL, REPEATED, MAP), and of a sub-message its
    class, `message`. `name` is set by the class that has the field."""

    __slots__ = ("kind", "label", "message", "name", "number")

    def __init__(self, number: int, kind: Kind, label: str = SINGULAR, message: "type[Message] | None" = None) -> None:
        self.number = number
        self.kind = kind
        self.label = label
        self.message = message
        self.name = ""

    @property
    def container(self) -> Callable[[], Any] | None:
        """What makes the empty value of a field that holds many."""
        return {REPEATED: list, MAP: dict}.get(self.label)

    @property
    def default(self) -> object:
        """What a field without a container holds until it is set."""
        return None if self.explicit else self.kind.default

    @property
    def explicit(self) -> bool:
        """Whether set to its type's zero is told apart from not set."""
        return self.label == OPTIONAL or (self.label == SINGULAR and self.message is not None)

    def writer(self) -> Callable[[Any], bytes]:
        """The function from this field's value to its bytes, tag included."""
        write = self.kind.write
        packed = self.label == REPEATED and self.kind.wire == VARINT
        tag = varint(self.number << 3 | (LENGTH if packed else self.kind.wire))
        if packed:
            return lambda values: tag + write_bytes(b"".join([write(value) for value in values]))
        if self.label == REPEATED:
            return lambda values: b"".join([tag + write(value) for value in values])
        if self.label == MAP:
            return lambda values: b"".join([tag + write(_Entry(key=key, value=values[key])) for key in values])
        return lambda value: tag + write(value)

    def readers(self) -> dict[int, _Reader]:
        """How to decode this field, by each tag it may come with."""
        name, read = self.name, self.kind.read

        def append(values: dict[str, Any], raw: Any) -> None:
            values[name].append(read(raw))

        def extend(values: dict[str, Any], raw: bytes) -> None:
            at = 0
            while at < len(raw):
                value, at = read_varint(raw, at)
                values[name].append(read(value))

        def put(values: dict[str, Any], raw: bytes) -> None:
            entry = read(raw)
            values[name][entry.key] = entry.value

        def merge(values: dict[str, Any], raw: bytes) -> None:
            if values.get(name) is None:
                values[name] = read(raw)
            else:
                values[name]._merge(raw)

        tag = self.number << 3 | self.kind.wire
        if self.label == REPEATED:
            readers: dict[int, _Reader] = {tag: (name, read, append)}
            if self.kind.wire == VARINT:
                readers[self.number << 3 | LENGTH] = (name, read, extend)
            return readers
        if self.label == MAP:
            return {tag: (name, read, put)}
        return {tag: (name, read, merge if self.message is not None else None)}


def _declare(number: int, kind: Kind, label: str = SINGULAR, message: "type[Message] | None" = None) -> Any:
    # To the type checker a declaration is the field's default value; to the class that collects it, a Field.
    return Field(number, kind, label, message)


def string(number: int) -> str:
    """A `string` field."""
    return _declare(number, STRING)  # type: ignore[no-any-return]


def bytes_(number: int) -> bytes:
    """A `bytes` field."""
    return _declare(number, BYTES)  # type: ignore[no-any-return]


def boolean(number: int) -> bool:
    """A `bool` field."""
    return _declare(number, BOOLEAN)  # type: ignore[no-any-return]


def int32(number: int) -> int:
    """An `int32` field."""
    return _declare(number, INT32)  # type: ignore[no-any-return]


def int64(number: int) -> int:
    """An `int64` field."""
    return _declare(number, INT64)  # type: ignore[no-any-return]


def uint32(number: int) -> int:
    """A `uint32` field."""
    return _declare(number, UINT32)  # type: ignore[no-any-return]


def uint64(number: int) -> int:
    """A `uint64` field."""
    return _declare(number, UINT64)  # type: ignore[no-any-return]


def double(number: int) -> float:
    """A `double` field."""
    return _declare(number, DOUBLE)  # type: ignore[no-any-return]


def enum(number: int) -> int:
    """A field of an enum type. Enums are open in proto3: any int32 may arrive."""
    return _declare(number, ENUM)  # type: ignore[no-any-return]


def message(type_: type[M], number: int) -> M | None:
    """A sub-message, None when absent."""
    kind = Kind(type_.__name__, LENGTH, None, lambda value: write_bytes(value.encode()), type_._parse)
    return _declare(number, kind, message=type_)  # type: ignore[no-any-return]


def optional(field: T) -> T | None:
    """`optional(uint32(1))`: a scalar that may be absent, None then."""
    assert isinstance(field, Field)
    return _declare(field.number, field.kind, OPTIONAL)  # type: ignore[no-any-return]


def repeated(field: T | None) -> list[T]:
    """`repeated(string(1))`, `repeated(message(Mount, 1))`: a list."""
    assert isinstance(field, Field)
    assert field.kind.wire != FIXED64, "packed doubles: nobody needs them yet"
    return _declare(field.number, field.kind, REPEATED, field.message)  # type: ignore[no-any-return]


def string_map(number: int) -> dict[str, str]:
    """A `map<string, string>` field."""
    kind = Kind("map", LENGTH, None, lambda entry: write_bytes(entry.encode()), _Entry._parse)
    return _declare(number, kind, MAP)  # type: ignore[no-any-return]


@dataclass_transform(kw_only_default=True, eq_default=False)
class Message:
    """Base of all messages. A subclass declares fields; its constructor takes them by keyword (TypeError for a name it
    does not have). `package` is the .proto file's; `fields` the schema, in the order of the numbers."""

    package: ClassVar[str] = ""
    fields: ClassVar[tuple[Field, ...]] = ()
    _writers: ClassVar[tuple[tuple[str, Callable[[Any], bytes], bool], ...]] = ()
    _readers: ClassVar[dict[int, _Reader]] = {}
    _containers: ClassVar[tuple[tuple[str, Callable[[], Any]], ...]] = ()
    _names: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        declared = [(name, field) for name, field in vars(cls).items() if isinstance(field, Field)]
        cls.fields = tuple(field for _, field in sorted(declared, key=lambda item: item[1].number))
        containers = []
        readers: dict[int, _Reader] = {}
        for name, field in declared:
            field.name = name
            readers |= field.readers()
            if field.container is not None:
                containers.append((name, field.container))
                delattr(cls, name)
            else:
                setattr(cls, name, field.default)
        cls._writers = tuple((field.name, field.writer(), field.explicit) for field in cls.fields)
        cls._readers = readers
        cls._containers = tuple(containers)
        cls._names = frozenset(name for name, _ in declared)

    def __init__(self, **values: Any) -> None:
        if not values.keys() <= self._names:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(values.keys() - self._names))}")
        for name, empty in self._containers:
            self.__dict__[name] = empty()
        self.__dict__.update(values)

    @classmethod
    def full_name(cls) -> str:
        """The name with its package, as in the type URL of an Any."""
        return f"{cls.package}.{cls.__name__}" if cls.package else cls.__name__

    def encode(self) -> bytes:
        """The message on the wire. InputError for a number out of its field's range and for text with lone surrogates
        (a file name that is not UTF-8, say)."""
        get = self.__dict__.get
        parts = []
        for name, write, explicit in self._writers:
            value = get(name)
            if value or (explicit and value is not None):
                try:
                    parts.append(write(value))
                except (OverflowError, UnicodeEncodeError) as error:
                    raise InputError(f"{self.full_name()}.{name}: {error}") from error
        return b"".join(parts)

    @classmethod
    def decode(cls: type[M], data: bytes) -> M:
        """The message that `data` holds. ProtocolError when it is malformed."""
        try:
            return cls._parse(data)
        except IndexError:
            raise ProtocolError(f"{cls.full_name()}: cut off within a number") from None
        except UnicodeDecodeError as error:
            raise ProtocolError(f"{cls.full_name()}: text is not UTF-8: {error.reason}") from error

    @classmethod
    def _parse(cls: type[M], data: bytes) -> M:
        self = cls.__new__(cls)
        for name, empty in cls._containers:
            self.__dict__[name] = empty()
        self._merge(data)
        return self

    def _merge(self, data: bytes) -> None:
        values, readers = self.__dict__, self._readers
        at, end = 0, len(data)
        raw: int | bytes
        while at < end:
            tag = data[at]
            at += 1
            if tag > 0x7F:
                tag, at = read_varint(data, at - 1)
            wire = tag & 7
            if wire == LENGTH:
                length = data[at]
                at += 1
                if length > 0x7F:
                    length, at = read_varint(data, at - 1)
                raw = data[at : at + length]
                at += length
            elif wire == VARINT:
                raw = data[at]
                at += 1
                if raw > 0x7F:
                    raw, at = read_varint(data, at - 1)
            elif wire in (FIXED64, FIXED32):
                width = 8 if wire == FIXED64 else 4
                raw = data[at : at + width]
                at += width
            else:
                raise ProtocolError(f"{self.full_name()}: wire type {wire}")
            if at > end:
                raise ProtocolError(f"{self.full_name()}: cut off within a value")
            reader = readers.get(tag)
            if reader is not None:
                name, read, collect = reader
                if collect is None:
                    values[name] = read(raw)
                else:
                    collect(values, raw)
            elif not 8 <= tag <= _MAX_TAG:
                raise ProtocolError(f"{self.full_name()}: field number {tag >> 3}")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, field.name) == getattr(other, field.name) for field in self.fields)

    def __repr__(self) -> str:
        values = ((field.name, getattr(self, field.name), field.explicit) for field in self.fields)
        shown = [f"{name}={value!r}" for name, value, explicit in values if value or (explicit and value is not None)]
        return f"{type(self).__name__}({', '.join(shown)})"


class _Entry(Message):
    """What a map's entry is on the wire."""

    key: str = string(1)
    value: str = string(2)
