"""The journal as clients see it: across restarts of everything, and for those who do not read."""

import os
import signal
import socket
from pathlib import Path

from leafd.describe import describe
from tests.harness.leafd import Leafd

SLEEP = describe(("sleep", "1000"))


def test_numbers_go_on_when_leafd_shims_and_nursery_are_killed(leafd: Leafd) -> None:
    with leafd.client as client:
        made = client.create("web", SLEEP, start=True)
        nursery = client.version().nursery_pid
        with client.events(follow=True) as events:
            last = next(event.sequence for event in events if event.type == "start")
    leafd.kill()
    for pid in (nursery, made.shim_pid):
        os.kill(pid, signal.SIGKILL)
    leafd.start()
    with leafd.client as client:
        client.stop("web", grace=0)
        since = list(client.events(last))
        assert [event.sequence for event in since] == list(range(last + 1, last + 1 + len(since)))
        assert [event.type for event in since if event.type in ("exit", "start", "create")] == ["exit"]
        numbers = [event.sequence for event in client.events()]
        assert numbers == list(range(1, len(numbers) + 1))


def test_a_reader_that_never_reads_holds_nobody_up_and_is_told(leafd: Leafd, tmp_path: Path) -> None:
    leafd.stop()
    (tmp_path / "leafd.toml").write_text("journal_size = 8192\n")
    leafd.start("--config", str(tmp_path / "leafd.toml"))
    with leafd.client as client, leafd.client as sleepy:
        client.create("web", SLEEP, start=True)
        with sleepy.events(1, follow=True) as unread:
            for _ in range(600):  # more events than leafd has in memory
                client.pause("web")
                client.resume("web")
            told = leafd.ctl("events", "--since", "1")
            assert told.stderr.startswith("leafctl: events: ")
            assert " came and went unread\n" in told.stderr
            assert next(iter(unread)).sequence > 1
        ahead = leafd.ctl("events", "--since", "1000000")
        assert ahead.returncode == 1
        assert "since: 1000000: the newest event has number" in ahead.stderr


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    leafd = Leafd(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(60)

        def hear(word: str) -> None:
            while not manager.recv(4096).startswith(word.encode()):
                pass

        leafd.environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1000000"}
        try:
            leafd.start()
            hear("READY=1")
            hear("WATCHDOG=1")
            assert leafd.process is not None
            leafd.process.send_signal(signal.SIGHUP)
            hear("RELOADING=1")
            hear("READY=1")
            assert leafd.stop() == 0
            hear("STOPPING=1")
        finally:
            leafd.close()
