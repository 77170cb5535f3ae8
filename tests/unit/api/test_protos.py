"""Our message classes are those of the .proto files, by the judgement of the official protobuf runtime."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Official
from grpc_tools import protoc  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from leafshim import api
from leafshim.api import containers, debug, metrics, nursery, shim, task, wellknown
from leafshim.errors import InputError, ProtocolError
from leafshim.ttrpc.protobuf import MAP, OPTIONAL, REPEATED, Field, Message
from leafshim.ttrpc.service import Method

MODULES: dict[str, ModuleType] = {
    "task": task,
    "shim": shim,
    "nursery": nursery,
    "containers": containers,
    "metrics": metrics,
    "debug": debug,
}
PROTOS = Path(api.__path__[0])


@cache
def pool() -> descriptor_pool.DescriptorPool:
    with TemporaryDirectory() as directory:
        target = Path(directory) / "set"
        include = Path(protoc.__file__).parent / "_proto"
        arguments = ["protoc", f"-I{PROTOS}", f"-I{include}", "--include_imports", f"--descriptor_set_out={target}"]
        assert protoc.main([*arguments, *(f"{name}.proto" for name in MODULES)]) == 0
        files = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())
    result = descriptor_pool.DescriptorPool()
    for file in files.file:
        result.AddSerializedFile(file.SerializeToString())
    return result


def official(ours: type[Message]) -> type[Official]:
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(ours.full_name()))


def classes(module: ModuleType) -> list[type[Message]]:
    found = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Message)]
    return [value for value in found if value.__module__ == module.__name__ and not value.__name__.startswith("_")]


OURS = [class_ for module in (*MODULES.values(), wellknown) for class_ in classes(module)]
EVERY_MESSAGE = pytest.mark.parametrize("ours", OURS, ids=lambda ours: ours.full_name())

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": TEXT,
    "bytes": st.binary(max_size=200),
    "bool": st.booleans(),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint32": st.integers(0, 2**32 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "double": st.floats(allow_nan=False),
    "enum": st.integers(-(2**31), 2**31 - 1),
}


def values(field: Field) -> st.SearchStrategy[Any]:
    if field.label == MAP:
        return st.dictionaries(TEXT, TEXT, max_size=4)
    one = VALUES[field.kind.name] if field.message is None else messages(field.message)
    if field.label == REPEATED:
        return st.lists(one, max_size=4)
    return st.none() | one if field.explicit else one


def messages(ours: type[Message]) -> st.SearchStrategy[Message]:
    return st.builds(ours, **{field.name: values(field) for field in ours.fields})


def assert_same(ours: Message, theirs: Official) -> None:
    for field in ours.fields:
        our, their = getattr(ours, field.name), getattr(theirs, field.name)
        if field.explicit:
            assert (our is not None) == theirs.HasField(field.name)
        if our is None:
            continue
        if field.label == MAP:
            assert dict(their) == our
        elif field.message is None:
            assert (list(their) if field.label == REPEATED else their) == our
        elif field.label == REPEATED:
            assert len(our) == len(their)
            for our_one, their_one in zip(our, their, strict=True):
                assert_same(our_one, their_one)
        else:
            assert_same(our, their)


def declared(ours: type[Message]) -> set[tuple[str, int, str]]:
    return {(field.name, field.number, field.label) for field in ours.fields}


def label(field: Any) -> str:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return MAP
    if field.is_repeated:
        return REPEATED
    return OPTIONAL if field.has_presence and field.message_type is None else "singular"


@pytest.mark.parametrize("name", MODULES)
def test_every_message_of_the_proto_exists(name: str) -> None:
    theirs = set(pool().FindFileByName(f"{name}.proto").message_types_by_name)
    assert {ours.__name__ for ours in classes(MODULES[name])} == theirs


@EVERY_MESSAGE
def test_the_schema_is_the_protos(ours: type[Message]) -> None:
    fields = official(ours).DESCRIPTOR.fields
    assert declared(ours) == {(field.name, field.number, label(field)) for field in fields}


@EVERY_MESSAGE
@settings(max_examples=30)
@given(data=st.data())
def test_both_codecs_agree(ours: type[Message], data: st.DataObject) -> None:
    message = data.draw(messages(ours))
    encoded = message.encode()
    theirs = official(ours).FromString(encoded)
    assert_same(message, theirs)
    assert ours.decode(theirs.SerializeToString()) == message
    assert ours.decode(encoded) == message


@settings(max_examples=500)
@given(data=st.data())
def test_damaged_messages_are_refused_by_both_or_read_alike(data: st.DataObject) -> None:
    ours = data.draw(st.sampled_from(OURS))
    encoded = bytearray(data.draw(messages(ours)).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(encoded)))
        encoded[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        message = ours.decode(bytes(encoded))
    except ProtocolError:
        return  # we refuse more than they do: groups
    try:
        theirs = official(ours).FromString(bytes(encoded))
    except DecodeError:
        pytest.fail(f"{bytes(encoded)!r} is {message!r} to us, and malformed to the official runtime")
    assert_same(message, theirs)


def methods(module: ModuleType) -> list[Method[Any, Any]]:
    return [value for value in vars(module).values() if isinstance(value, Method)]


@pytest.mark.parametrize(
    ("file", "service", "ours"),
    [
        ("shim", "leafd.shim.v1.Shim", methods(shim)),
        ("containers", "leafd.v1.Containers", methods(containers)),
        ("task", "containerd.task.v2.Task", list(vars(task.V2).values())),
    ],
)
def test_the_methods_are_the_protos(file: str, service: str, ours: list[Method[Any, Any]]) -> None:
    descriptor = pool().FindServiceByName(service)
    assert {method.service for method in ours} == {service}
    assert {
        (m.name, m.request.full_name(), m.response.full_name(), m.client_streaming, m.server_streaming) for m in ours
    } == {
        (m.name, m.input_type.full_name, m.output_type.full_name, m.client_streaming, m.server_streaming)
        for m in descriptor.methods
    }


def test_version_3_of_task_differs_in_the_package_only() -> None:
    assert {method.service for method in vars(task.V3).values()} == {"containerd.task.v3.Task"}
    assert [method.name for method in vars(task.V3).values()] == [method.name for method in vars(task.V2).values()]


@given(st.integers(-(10**18), 10**19))
def test_timestamps_are_exact(nanoseconds: int) -> None:
    stamp = wellknown.Timestamp.from_ns(nanoseconds)
    assert 0 <= stamp.nanos < 10**9
    assert stamp.to_ns() == nanoseconds


def test_any_names_its_type() -> None:
    options = shim.CreateOptions(exit_path="/x", timeout=5)
    packed = wellknown.Any.pack(options)
    assert packed.type_url == "leafd.shim.v1.CreateOptions"
    assert packed.unpack(shim.CreateOptions) == options
    standard = wellknown.Any(type_url="type.googleapis.com/leafd.shim.v1.CreateOptions", value=packed.value)
    assert standard.unpack(shim.CreateOptions) == options
    with pytest.raises(InputError, match=r"expected a leafd\.shim\.v1\.Exit"):
        packed.unpack(shim.Exit)
