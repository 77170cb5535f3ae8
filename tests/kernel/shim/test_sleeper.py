"""A shim that sleeps: no worker while there is nothing to do, and nothing lost between one worker and the next."""

import os
import select
import signal
from pathlib import Path

from leafshim import logs
from leafshim.api import shim, task
from tests.harness.procfs import children
from tests.harness.shim import ID, Shim


def workers(web: Shim) -> list[int]:
    """The pids of the sleeper's children that are ours; the others are in the container's namespaces."""
    return [pid for pid in children(web.pid) if _is_ours(f"/proc/{pid}")]


def _is_ours(process: str) -> bool:
    try:
        os.readlink(f"{process}/exe")  # a zombie has none
        return os.readlink(f"{process}/ns/pid") == os.readlink("/proc/self/ns/pid")
    except OSError:  # it has ended
        return False


def ended(pidfd: int) -> None:
    """Wait until a process is no more."""
    assert select.select([pidfd], [], [], 30)[0]
    os.close(pidfd)


def fall_asleep(web: Shim) -> None:
    """Close the only connection, and wait until the worker has ended."""
    watched = [os.pidfd_open(pid) for pid in workers(web)]
    web.client.close()
    for pidfd in watched:
        ended(pidfd)


def wake(web: Shim) -> None:
    web.client = web.connect()


def test_there_is_no_worker_while_nobody_asks(web: Shim) -> None:
    pid = web.run("sleep", "1000")
    assert len(workers(web)) == 1
    fall_asleep(web)
    assert workers(web) == []
    wake(web)
    assert (web.info().state, web.info().pid, web.info().shim_pid) == ("RUNNING", pid, web.pid)


def test_everything_that_was_known_is_known_again(web: Shim) -> None:
    web.run("sleep", "1000", options=shim.CreateOptions(first_sequence=7))
    web.add_exec("once", "sh", "-c", "exit 5", stdin="", stdout="")
    web.start("once")
    web.wait("once")
    before = web.info()
    fall_asleep(web)
    wake(web)
    assert web.info() == before
    assert web.wait("once") == 5
    events = web.client.call(shim.COLLECT, shim.EventsRequest()).events
    assert [(event.sequence, event.type) for event in events] == [
        (7, "create"),
        (8, "start"),
        (9, "exec-added"),
        (10, "exec-started"),
        (11, "exec-exited"),
    ]


def test_an_end_while_it_sleeps_is_told_afterwards(web: Shim) -> None:
    pid = web.run("sleep", "1000")
    fall_asleep(web)
    os.kill(pid, signal.SIGKILL)
    wake(web)
    assert web.wait() == 137
    assert web.delete().exit_status == 137


def test_output_wakes_it(web: Shim, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    mount = {"destination": "/mnt", "type": "bind", "source": str(tmp_path), "options": ["rbind"]}
    web.run("sh", "-c", "read word < /mnt/fifo; echo $word; exit 4", mounts=[mount])
    fall_asleep(web)
    fifo.write_text("hello\n")
    wake(web)
    assert web.wait() == 4
    assert [logs.parse(line).data for line in Path(web.bundle.log).read_bytes().splitlines(True)] == [b"hello\n"]


def test_standard_input_is_kept_open_and_closed_at_last(web: Shim) -> None:
    web.create("cat", stdin="attach:")
    web.start()
    fall_asleep(web)
    wake(web)
    with web.connect() as client:
        stream = web.attach(client, stdin=True)
        stream.send(shim.AttachInput(data=b"kept", close_stdin=True))
        assert b"".join(message.stdout for message in stream) == b"kept"
    assert web.wait() == 0


def test_a_paused_container_stays_paused(web: Shim) -> None:
    web.run("sleep", "1000")
    web.client.call(task.V3.pause, task.PauseRequest(id=ID))
    fall_asleep(web)
    wake(web)
    assert web.state().status == task.Status.PAUSED
    web.client.call(task.V3.resume, task.ResumeRequest(id=ID))
    assert web.state().status == task.Status.RUNNING


def test_a_time_limit_wakes_it(web: Shim) -> None:
    web.run("sleep", "1000", options=shim.CreateOptions(timeout=300_000_000))
    fall_asleep(web)
    wake(web)
    assert web.wait() == 137
    end = web.info().exit
    assert end is not None
    assert end.cause == "limitation"


def test_a_worker_that_is_killed_is_replaced(web: Shim) -> None:
    pid = web.run("sleep", "1000")
    (worker,) = workers(web)
    watched = os.pidfd_open(worker)
    os.kill(worker, signal.SIGKILL)
    ended(watched)
    web.client.close()
    wake(web)
    assert (web.info().state, web.info().pid) == ("RUNNING", pid)
    web.kill()
    assert web.wait() == 137
    end = web.info().exit
    assert end is not None
    assert end.cause == "killed"


def test_a_worker_that_is_killed_as_soon_as_it_has_answered_took_nothing_with_it(web: Shim) -> None:
    """What a client was told is with the sleeper by then; a launch in one step is told once."""
    for _ in range(20):
        pid = web.create("sleep", "1000", options=shim.CreateOptions(start=True))
        (worker,) = workers(web)
        os.kill(worker, signal.SIGKILL)
        web.client.close()
        wake(web)
        assert (web.info().state, web.info().pid) == ("RUNNING", pid)
        web.kill()
        assert web.wait() == 137
        web.delete()
        web.again()


def test_an_end_that_comes_as_the_worker_goes_is_not_lost(web: Shim) -> None:
    """The worker may end without having read what the sleeper sent it: the line is then reset."""
    for _ in range(30):
        web.run("sleep", "1000")
        web.kill()
        web.client.close()
        wake(web)
        assert web.wait() == 137
        end = web.info().exit
        assert end is not None
        assert end.cause == "killed"
        web.delete()
        web.again()


def test_a_container_that_waits_for_its_start_keeps_the_worker(web: Shim) -> None:
    web.create("sh", "-c", "exit 3")
    web.client.close()
    wake(web)
    assert len(workers(web)) == 1
    web.start()
    assert web.wait() == 3
