"""What the service manager hears, on a real datagram socket; and a loop that is stuck."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from leafd.service_manager import ServiceManager, beat


@pytest.mark.parametrize("abstract", [False, True])
def test_it_hears_every_word(tmp_path: Path, abstract: bool) -> None:
    name = f"@leafd-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name[1:]}" if abstract else name)
        us = ServiceManager({"NOTIFY_SOCKET": name})
        us.ready()
        us.reloading()
        us.alive()
        us.stopping()
        heard = [manager.recv(4096).decode() for _ in range(4)]
    assert [words.partition("\n")[0] for words in heard] == ["READY=1", "RELOADING=1", "WATCHDOG=1", "STOPPING=1"]
    assert heard[1].splitlines()[1].removeprefix("MONOTONIC_USEC=").isdecimal()


def test_nobody_listens_and_nothing_happens(tmp_path: Path) -> None:
    ServiceManager({}).ready()
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


def test_whom_it_watches() -> None:
    assert ServiceManager({"WATCHDOG_USEC": "3000000"}).patience == 3.0
    assert ServiceManager({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}).patience == 3.0
    assert ServiceManager({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}).patience == 0.0
    assert ServiceManager({"WATCHDOG_USEC": "soon"}).patience == 0.0


def test_the_heart_beats_on(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.setblocking(False)

        async def three_beats() -> list[bytes]:
            us = ServiceManager({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "10000"})
            heart = asyncio.create_task(beat(us, 600.0))
            loop = asyncio.get_running_loop()
            heard = [await loop.sock_recv(manager, 4096) for _ in range(3)]
            heart.cancel()
            return heard

        assert asyncio.run(three_beats()) == [b"WATCHDOG=1"] * 3


def test_a_loop_that_is_stuck_ends_with_where_it_is_stuck() -> None:
    program = """
import asyncio, select
from leafd.service_manager import ServiceManager, beat
async def main():
    heart = asyncio.create_task(beat(ServiceManager({}), 0.2))
    await asyncio.sleep(0)
    select.poll().poll()  # for ever
asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", timeout=60)
    assert ended.returncode == 1
    assert "Timeout (0:00:00.2" in ended.stderr
    assert 'File "<string>", line 7 in main' in ended.stderr
