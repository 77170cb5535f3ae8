"""The journal: order, torn tails, rotation, followers. Real files throughout."""

import asyncio
import os
import struct
import zlib
from pathlib import Path

import msgpack
import pytest

from leafd.journal import Journal
from leafshim.api.containers import Event
from leafshim.api.shim import Exit, Figure, Limitation


def _open(path: Path, size: int = 1 << 20) -> Journal:
    return Journal.open(str(path / "events"), size)


def _numbers(journal: Journal, since: int = 0) -> list[int]:
    return [event.sequence for event in journal.read(since)]


def test_what_was_appended_is_read_again_after_a_restart(tmp_path: Path) -> None:
    journal = _open(tmp_path)
    end = Exit(status=137, signal=9, cause="oom", finished_at=5, duration=6, cpu_usage=7, memory_peak=8, message="x")
    journal.append("recovered", message="3 containers")
    journal.append("exit", "web", pid=7, end=end, timestamp=123, shim_sequence=4)
    journal.append("exec-exited", "web", exec_id="e", end=Exit(cause="lost"))
    written = list(journal.read())
    journal.close()
    again = _open(tmp_path)
    assert list(again.read()) == written
    assert written[1] == Event(sequence=2, timestamp=123, id="web", type="exit", pid=7, exit=end, shim_sequence=4)
    assert written[2].exit is not None
    assert written[2].exit.status is None
    assert again.last == 3
    assert again.damage == []
    event = again.append("removed", "web")
    assert event is not None
    assert event.sequence == 4


def test_a_limitation_is_read_again(tmp_path: Path) -> None:
    hit = Limitation(kind="oom", scope="own", cgroup="/x", message="m", figures=[Figure(name="anon", value=5)])
    journal = _open(tmp_path)
    journal.append("oom", "web", limitation=hit)
    journal.append("exit", "web", end=Exit(cause="oom", limitation=hit, oom_kills=2))
    journal.close()
    told, ended = _open(tmp_path).read()
    assert told.limitation == hit
    assert ended.exit == Exit(cause="oom", limitation=hit, oom_kills=2)


def test_what_the_last_release_wrote_is_read(tmp_path: Path) -> None:
    end = {"status": 3, "signal": 0, "cause": "exited", "finished_at": 1, "duration": 2}
    end |= {"cpu_usage": 3, "memory_peak": 4, "message": ""}
    payload = msgpack.packb([1, 123, "web", "exit", "", 7, end, 4, ""])
    (tmp_path / "events").mkdir()
    frame = struct.pack(">II", len(payload), zlib.crc32(payload)) + payload
    (tmp_path / "events" / f"{1:020d}").write_bytes(b"LEAFEVT\x01" + frame)
    journal = _open(tmp_path)
    assert journal.damage == []
    (event,) = journal.read()
    assert event.exit == Exit(status=3, cause="exited", finished_at=1, duration=2, cpu_usage=3, memory_peak=4)


def test_an_event_that_a_shim_tells_again_is_not_written_again(tmp_path: Path) -> None:
    journal = _open(tmp_path)
    assert journal.append("start", "web", shim_sequence=2)
    journal.close()
    journal = _open(tmp_path)
    assert journal.told("web") == 2
    assert journal.append("start", "web", shim_sequence=2) is None
    assert journal.append("exit", "web", shim_sequence=3)
    assert journal.append("start", "db", shim_sequence=2)
    journal.append("removed", "web")
    assert journal.append("start", "web", shim_sequence=2), "the next container of that name counts anew"


@pytest.mark.parametrize("cut", [1, 4, 9, 20])
def test_a_torn_tail_is_cut_off_and_the_rest_survives(tmp_path: Path, cut: int) -> None:
    journal = _open(tmp_path)
    for _ in range(3):
        journal.append("start", "web", message="m" * 30)
    journal.close()
    (segment,) = (tmp_path / "events").iterdir()
    os.truncate(segment, segment.stat().st_size - cut)
    journal = _open(tmp_path)
    assert _numbers(journal) == [1, 2]
    assert [str(segment) in str(damage) for damage in journal.damage] == [True]
    journal.append("exit", "web")
    journal.close()
    assert _numbers(_open(tmp_path)) == [1, 2, 3]


@pytest.mark.parametrize("position", range(8, 60, 7))
def test_a_flipped_bit_is_noticed(tmp_path: Path, position: int) -> None:
    journal = _open(tmp_path)
    for _ in range(3):
        journal.append("start", "web", message="m" * 30)
    journal.close()
    (segment,) = (tmp_path / "events").iterdir()
    data = bytearray(segment.read_bytes())
    data[position] ^= 0x10
    segment.write_bytes(data)
    journal = _open(tmp_path)
    assert journal.damage
    assert all(event.message == "m" * 30 for event in journal.read())


def test_the_oldest_go_when_it_is_full_and_numbers_go_on(tmp_path: Path) -> None:
    journal = _open(tmp_path, size=8192)
    for number in range(1, 1001):
        event = journal.append("start", "web", message="m" * 50)
        assert event is not None
        assert event.sequence == number
    size = sum(file.stat().st_size for file in (tmp_path / "events").iterdir())
    assert size < 8192 + 1024
    kept = _numbers(journal)
    assert kept == list(range(kept[0], 1001))
    assert _numbers(journal, since=990) == list(range(991, 1001))
    assert _numbers(journal, since=1000) == []
    journal.close()
    journal = _open(tmp_path, size=8192)
    assert journal.last == 1000
    assert _numbers(journal) == kept


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "notes").write_text("mine")
    journal = _open(tmp_path)
    journal.append("start", "web")
    assert (tmp_path / "events" / "notes").read_text() == "mine"


def test_a_follower_gets_the_past_and_then_the_news(tmp_path: Path) -> None:
    async def follow() -> list[int]:
        journal = _open(tmp_path, size=64 << 10)
        for _ in range(2000):  # more than are kept in memory: the beginning comes from the disk
            journal.append("start", "web")
        oldest = next(journal.read()).sequence
        seen: list[int] = []
        async for event in journal.follow(0):
            seen.append(event.sequence)
            if event.sequence == 2000:
                asyncio.get_running_loop().call_soon(journal.append, "exit", "web")
            if event.sequence == 2001:
                break
        assert seen == list(range(oldest, 2002))
        return seen

    assert len(asyncio.run(follow())) > 100


def test_callers_of_sync_share_one_and_none_returns_early(tmp_path: Path) -> None:
    async def sync() -> None:
        journal = _open(tmp_path)
        journal.append("start", "web")
        await asyncio.gather(*(journal.sync() for _ in range(10)))
        journal.close()

    asyncio.run(sync())


def test_a_reader_that_is_too_late_is_told_what_it_missed(tmp_path: Path) -> None:
    """It stops reading after the first event, the journal goes on without it, and forgets the oldest."""

    async def follow() -> list[Event]:
        journal = _open(tmp_path, size=8192)
        journal.append("start", "web")
        journal.append("start", "web")
        follower = journal.follow(0)
        seen = [await anext(follower)]
        for _ in range(3000):
            journal.append("start", "web", message="m" * 50)
        return [*seen, await anext(follower), await anext(follower), await anext(follower)]

    first, second, missed, next_one = asyncio.run(follow())
    assert (first.sequence, second.sequence, missed.type) == (1, 2, "missed")
    assert missed.sequence == next_one.sequence - 1
    assert missed.message == f"{missed.sequence - 2} events, 3 to {missed.sequence}, came and went unread"


def test_a_reader_of_all_lets_others_have_their_turn(tmp_path: Path) -> None:
    async def read() -> int:
        journal = _open(tmp_path)
        for _ in range(2000):
            journal.append("start", "web")
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(other())
        assert len([event async for event in journal.follow(0, for_ever=False)]) == 2000
        beside.cancel()
        return turns

    assert asyncio.run(read()) > 10
