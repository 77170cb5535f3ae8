"""The loop's rules, with real descriptors."""

import os
import time
from collections.abc import Iterator

import pytest

from leafshim import loop as loops
from leafshim.loop import Loop


@pytest.fixture
def defects() -> list[BaseException]:
    return []


@pytest.fixture
def loop(defects: list[BaseException]) -> Iterator[Loop]:
    loop = Loop(defects.append)
    yield loop
    loop.close()
    assert defects == []


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_a_readable_descriptor_calls_back(loop: Loop, pipe: tuple[int, int]) -> None:
    seen: list[bytes] = []

    def ready(mask: int) -> None:
        assert mask & loops.READ
        seen.append(os.read(pipe[0], 10))
        loop.stop()

    loop.add(pipe[0], loops.READ, ready)
    os.write(pipe[1], b"hello")
    loop.run()
    assert seen == [b"hello"]
    assert [entry[1] for entry in loop.history] == [pipe[0]]


def test_timers_fire_in_order_and_cancelled_ones_do_not(loop: Loop) -> None:
    seen: list[str] = []
    loop.call_later(0.02, lambda: seen.append("last"))
    loop.call_later(0.02, loop.stop)
    loop.call_later(0.01, lambda: seen.append("second"))
    loop.call_later(0, lambda: seen.append("first"))
    loop.call_later(0.005, lambda: seen.append("never")).cancel()
    loop.run()
    assert seen == ["first", "second", "last"]


def test_a_descriptor_removed_within_a_batch_is_not_called(loop: Loop) -> None:
    (first, first_end), (second, second_end) = os.pipe(), os.pipe()
    called: list[int] = []

    def callback(fd: int, other: int) -> None:
        called.append(fd)
        loop.remove(other)
        loop.stop()

    loop.add(first, loops.READ, lambda _mask: callback(first, second))
    loop.add(second, loops.READ, lambda _mask: callback(second, first))
    os.write(first_end, b"x")
    os.write(second_end, b"x")
    loop.run()
    loop.call_later(0, loop.stop)
    assert len(called) == 1
    for fd in (first, first_end, second, second_end):
        os.close(fd)


def test_a_defect_in_a_callback_does_not_end_the_loop(pipe: tuple[int, int]) -> None:
    defects: list[BaseException] = []
    loop = Loop(defects.append)
    loop.call_later(0, [].pop)
    loop.call_later(0.001, loop.stop)
    loop.run()
    loop.close()
    assert [type(defect) for defect in defects] == [IndexError]


def test_an_idle_loop_sleeps_until_its_deadline(loop: Loop) -> None:
    loop.call_later(0.05, loop.stop)
    before = time.process_time_ns()
    began = time.monotonic()
    loop.run()
    assert time.monotonic() - began >= 0.05
    assert time.process_time_ns() - before < 50_000_000


def test_removing_what_is_not_there_is_a_defect(loop: Loop, pipe: tuple[int, int]) -> None:
    with pytest.raises(KeyError):
        loop.remove(pipe[0])
