"""Reading and following a log that a real writer writes and rotates."""

import asyncio
from pathlib import Path

from leafd.tail import tail
from leafshim.logs import LogWriter


async def _read(path: Path, over: asyncio.Event | None = None) -> list[bytes]:
    return [entry.data async for entry in tail(str(path), over)]


def test_a_log_and_the_one_before_it_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = LogWriter(str(path), max_size=4096)
    lines = [b"line %d\n" % number for number in range(100)]
    for line in lines:
        writer.write("stdout", line)
    assert (tmp_path / "log.1").exists()
    got = asyncio.run(_read(path))
    assert got == lines[len(lines) - len(got) :]
    assert len(got) > 40


def test_no_log_yet_is_an_empty_one(tmp_path: Path) -> None:
    assert asyncio.run(_read(tmp_path / "log")) == []


def test_a_follower_sees_all_across_rotations_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [b"line %d\n" % number for number in range(500)]

    async def follow() -> list[bytes]:
        over, got, step = asyncio.Event(), [], asyncio.Event()
        writer = LogWriter(str(path), max_size=2048)

        async def write() -> None:
            for line in lines:
                writer.write("stdout", line)
                step.clear()
                await step.wait()  # a rotation per line would outrun any reader: there is one old file only
            over.set()

        writing = asyncio.create_task(write())
        async for entry in tail(str(path), over):
            got.append(entry.data)
            step.set()
        await writing
        return got

    assert asyncio.run(follow()) == lines


def test_what_is_written_before_the_end_is_told_before_the_end(tmp_path: Path) -> None:
    async def follow() -> list[bytes]:
        over = asyncio.Event()
        LogWriter(str(tmp_path / "log")).write("stdout", b"last words\n")
        over.set()
        return await _read(tmp_path / "log", over)

    assert asyncio.run(follow()) == [b"last words\n"]


def test_foreign_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log"
    LogWriter(str(path)).write("stderr", b"good\n")
    with path.open("ab") as file:
        file.write(b"not a line of ours\n")
    LogWriter(str(path)).write("stderr", b"better\n")
    assert asyncio.run(_read(path)) == [b"good\n", b"better\n"]
