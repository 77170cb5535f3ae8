"""A record is whole, or it is known not to be."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leafshim import record
from leafshim.errors import DamagedRecord, KernelError, NotFound

VALUE: dict[str, record.Value] = {"id": "web", "pid": 42, "labels": {"a": "b"}, "raw": b"\x00\xff", "none": None}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "checkpoint")
    record.write(path, "checkpoint", VALUE, sync=True)
    assert record.read(path, "checkpoint") == VALUE
    assert os.listdir(tmp_path) == ["checkpoint"]
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_another_kind_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "exit")
    record.write(path, "exit", VALUE)
    with pytest.raises(DamagedRecord, match="kind 'exit'"):
        record.read(path, "checkpoint")


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        record.read(str(tmp_path / "nothing"), "exit")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)])
def test_what_is_no_file_is_refused(tmp_path: Path, make: "type[os.PathLike[str]]") -> None:
    path = str(tmp_path / "record")
    make(path)  # type: ignore[call-arg]
    with pytest.raises((DamagedRecord, KernelError)):
        record.read(path, "exit")


@given(st.data())
def test_any_torn_or_flipped_byte_is_noticed(data: st.DataObject) -> None:
    whole = record.encode("exit", VALUE)
    damaged = bytearray(whole)
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedRecord):
        record.decode(bytes(damaged), "exit", "path")


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedRecord):
        record.decode(data, "exit", "path")


def test_a_failed_write_leaves_the_old_record(tmp_path: Path) -> None:
    path = tmp_path / "record"
    record.write(str(path), "exit", VALUE)
    (tmp_path / "record.new").mkdir()
    with pytest.raises(KernelError):
        record.write(str(path), "exit", {"id": "other"})
    assert record.read(str(path), "exit") == VALUE


def test_quarantine_moves_it_aside(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_bytes(b"garbage")
    assert record.quarantine(str(path)) == f"{path}.damaged"
    assert not path.exists()
