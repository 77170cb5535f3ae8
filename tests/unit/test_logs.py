"""The log gives back the workload's bytes, whatever they are and however they were cut."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leafshim import logs
from leafshim.errors import DamagedRecord


def joined(path: Path) -> bytes:
    return b"".join(logs.parse(line).data for line in path.read_bytes().splitlines(keepends=True))


@given(st.lists(st.binary(max_size=300).map(lambda data: data.replace(b"x", b"\r\n"))))
def test_bytes_come_back_exactly(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    writer = logs.LogWriter(str(path))
    for chunk in chunks:
        writer.write("stdout", chunk)
    writer.close()
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    assert b"".join(logs.parse(line).data for line in lines[:-1]) == b"".join(chunks)


@pytest.mark.parametrize("length", [1, logs.LINE_LIMIT - 1, logs.LINE_LIMIT, logs.LINE_LIMIT + 1, 3 * logs.LINE_LIMIT])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_long_lines_are_cut_and_come_back(tmp_path: Path, length: int, end: bytes) -> None:
    writer = logs.LogWriter(str(tmp_path / "log"))
    writer.write("stdout", b"a" * length + end)
    assert joined(tmp_path / "log") == b"a" * length + end
    assert all(len(line) < logs.LINE_LIMIT + 60 for line in (tmp_path / "log").read_bytes().splitlines())


def test_a_full_log_moves_aside(tmp_path: Path) -> None:
    writer = logs.LogWriter(str(tmp_path / "log"), max_size=1000)
    for number in range(30):
        writer.write("stdout", b"%060d\n" % number)
    assert (tmp_path / "log").stat().st_size <= 1000
    assert (tmp_path / "log.1").stat().st_size <= 1000
    assert joined(tmp_path / "log").endswith(b"%060d\n" % 29)


def test_what_a_full_disk_swallows_is_counted_and_told(tmp_path: Path) -> None:
    writer = logs.LogWriter(str(tmp_path / "missing" / "log"))
    writer.write("stdout", b"lost\n")
    writer.write("stdout", b"lost too\n")
    assert writer.dropped == 14
    (tmp_path / "missing").mkdir()
    writer.write("stdout", b"kept\n")
    entries = [logs.parse(line) for line in (tmp_path / "missing" / "log").read_bytes().splitlines()]
    assert [(entry.stream, entry.data) for entry in entries] == [
        ("leafd", b"14 bytes of output were dropped here\n"),
        ("stdout", b"kept\n"),
    ]
    assert writer.dropped == 0


def test_a_link_in_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    os.symlink(tmp_path / "victim", tmp_path / "log")
    writer = logs.LogWriter(str(tmp_path / "log"))
    writer.write("stdout", b"attack\n")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert writer.dropped == 7


@given(st.integers(min_value=0, max_value=4_000_000_000 * 10**9))
def test_time_stamps_come_back(timestamp: int) -> None:
    assert logs.parse(f"{logs.stamp(timestamp)} stderr P x".encode()) == (timestamp, "stderr", b"x")


@pytest.mark.parametrize("line", [b"", b"nonsense", b"2026-01-01T00:00:00Z stdout X text", b"2026-99 stdout F text"])
def test_a_foreign_line_is_refused(line: bytes) -> None:
    with pytest.raises(DamagedRecord):
        logs.parse(line)
