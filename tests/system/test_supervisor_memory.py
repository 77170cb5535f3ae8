"""What the next leafd must know of a container that went on without one, also where nobody is there to be asked."""

import os
import select
import signal
from pathlib import Path

import pytest

from leafd.describe import describe
from leafd.store import Store
from leafshim import exits
from leafshim.api.shim import Exit
from leafshim.kernel import pidfd
from leafshim.state import DESTROYING, RUNNING
from tests.harness.commanded import Commanded
from tests.harness.leafd import DEADLINE, Leafd


@pytest.mark.parametrize("shim_too", [False, True])
def test_one_that_was_paused_is_paused(leafd: Leafd, shim_too: bool) -> None:
    """Its shim sleeps and has nothing to tell: the journal has the event already."""
    with leafd.client as client:
        made = client.create("web", describe(["sleep", "1000"]), start=True)
        client.pause("web")
        with client.events(follow=True, container_id="web") as events:
            assert any(event.type == "paused" for event in events)
    leafd.kill()
    if shim_too:
        _kill(made.shim_pid)
    leafd.start()
    with leafd.client as client:
        assert client.inspect("web").paused
        assert not client.resume("web").paused
        client.remove("web", force=True)


def test_a_nursery_that_is_new_with_leafd_holds_what_is_needed_for_a_true_exit_status(
    leafd: Leafd, tmp_path: Path
) -> None:
    """Linux 6.15 and later, as who reaps it is the system's init."""
    workload = Commanded(tmp_path / "workload")
    with leafd.client as client:
        made = client.create("web", workload.document, start=True)
        nursery = client.version().nursery_pid
        workload.up(DEADLINE)
    leafd.kill()
    _kill(nursery)
    leafd.start()
    init = pidfd.pidfd_open(made.pid)
    leafd.kill()
    _kill(made.shim_pid)
    workload.end(7)
    poll = select.poll()
    poll.register(init, 0)
    assert poll.poll(DEADLINE * 1000), "nobody has reaped it"
    os.close(init)
    leafd.start()
    with leafd.client as client:
        end = client.wait("web", DEADLINE).exit
        assert end is not None
        assert (end.cause, end.status) == ("exited", 7)
        client.remove("web")
    workload.close()


def _kill(pid: int) -> None:
    watched = pidfd.pidfd_open(pid)
    pidfd.send_signal(watched, signal.SIGKILL)
    assert select.select([watched], [], [], DEADLINE)[0]
    os.close(watched)


def test_what_a_former_run_told_does_not_end_the_next(leafd: Leafd, tmp_path: Path) -> None:
    """leafd was killed between noting an exit and letting its shim go: the next one asks that shim, ends it, and starts
    the container again."""
    workload = Commanded(tmp_path / "workload")
    with leafd.client as client:
        made = client.create("web", workload.document, start=True, restart="on-failure")
        workload.up(DEADLINE)
    leafd.kill()
    init = pidfd.pidfd_open(made.pid)
    workload.end(3)
    assert select.select([init], [], [], DEADLINE)[0]
    os.close(init)
    store = Store(str(leafd.root))
    entry = store.read("web")
    entry.state, entry.exit = DESTROYING, exits.pack(Exit(cause="exited", status=3))
    entry.sequence = 3  # created, started, ended
    store.write(entry)
    leafd.start()
    workload.up(DEADLINE)
    with leafd.client as client:
        with client.events(follow=True, container_id="web") as events:
            assert any(event.type == "start" and event.pid != made.pid for event in events)
        now = client.inspect("web")
        assert now.state == RUNNING
        assert f"PPid:\t{now.shim_pid}\n" in Path(f"/proc/{now.pid}/status").read_text()
        workload.end(0)
        ended = client.wait("web", DEADLINE)
        told = [event.exit.status for event in client.events(container_id="web") if event.exit is not None]
        assert ended.exit is not None
        assert (ended.exit.status, ended.restarts, told[-1]) == (0, 1, 0)
        client.remove("web")
    workload.close()
