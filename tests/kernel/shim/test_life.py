"""A container's life as its shim has it: Task's operations on real processes."""

import os
import select
import signal
from pathlib import Path

import pytest

from leafshim import record
from leafshim.api import shim, task
from leafshim.checkpoint import Checkpoint
from leafshim.errors import AlreadyExists, InputError, LeafError, NotFound, StateError
from leafshim.kernel import pidfd
from tests.harness.shim import ID, Shim


def test_create_start_wait_delete_shutdown(web: Shim) -> None:
    pid = web.create("sh", "-c", "exit 7")
    assert web.info().state == "ISOLATING"
    assert web.state().status == task.Status.CREATED
    assert web.start() == pid
    assert web.wait() == 7
    assert web.state().status == task.Status.STOPPED
    assert web.state().exit_status == 7
    assert web.delete().exit_status == 7
    assert not web.cgroup.exists()
    with pytest.raises(NotFound):
        web.delete()
    shim_gone = os.pidfd_open(web.pid)
    web.client.call(task.V3.shutdown, task.ShutdownRequest(id=ID))
    assert select.select([shim_gone], [], [], 30)[0]
    os.close(shim_gone)


def test_one_that_is_killed_before_its_start_has_ended_like_any_other(web: Shim) -> None:
    web.create("sleep", "1000")
    web.kill()
    assert web.wait() == 137
    assert web.info().state == "STOPPED"
    assert web.delete().exit_status == 137


def test_both_versions_of_task_are_served(web: Shim) -> None:
    pid = web.run("sleep", "1000")
    for version in (task.V2, task.V3):
        assert web.client.call(version.state, task.StateRequest(id=ID)).pid == pid
        answer = web.client.call(version.connect, task.ConnectRequest(id=ID))
        assert (answer.shim_pid, answer.task_pid) == (web.pid, pid)


def test_init_is_born_in_the_leaf_and_the_shim_is_not(web: Shim) -> None:
    pid = web.run("sleep", "1000")
    leaf = Path(web.cgroup.path, "leaf", "cgroup.procs").read_text().split()
    assert leaf == [str(pid)]
    assert Path(web.cgroup.path, "cgroup.procs").read_text() == ""
    assert web.client.call(task.V3.pids, task.PidsRequest(id=ID)).processes == [task.ProcessInfo(pid=pid)]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, 137), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_that_was_asked_for_is_the_cause(web: Shim, number: int, status: int) -> None:
    # A pid namespace's init ignores signals that it does not handle, but for SIGKILL (pid_namespaces(7)).
    web.run(
        "sh",
        "-c",
        "trap 'trap - USR1 TERM; exit 0' HUP; sleep 1000"
        if number == signal.SIGKILL
        else f"trap 'exit {status}' USR1 TERM; touch /tmp/ready; while :; do sleep 0.01; done",
    )
    if number != signal.SIGKILL:
        web.add_exec("ready", "sh", "-c", "until [ -e /tmp/ready ]; do sleep 0.01; done", stdin="", stdout="")
        web.start("ready")
        web.wait("ready")
    web.kill(number)
    assert web.wait() == status
    end = web.info().exit
    assert end is not None
    assert end.cause == ("killed" if number == signal.SIGKILL else "exited")


def test_killed_by_somebody_else_is_signalled(web: Shim) -> None:
    pid = web.run("sleep", "1000")
    os.kill(pid, signal.SIGKILL)
    assert web.wait() == 137
    end = web.info().exit
    assert end is not None
    assert (end.cause, end.signal, end.status) == ("signalled", 9, 137)


def test_kill_and_delete_may_be_repeated(web: Shim) -> None:
    web.run("sleep", "1000")
    with pytest.raises(StateError):
        web.delete()
    web.kill()
    web.wait()
    with pytest.raises(NotFound):
        web.kill()
    assert web.wait() == 137
    assert web.delete().exit_status == 137


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-command", "exec no-such-command: No such file or directory"),
        ("/etc/passwd", "exec /etc/passwd: Permission denied"),
    ],
)
def test_what_cannot_be_executed_is_refused_at_creation(web: Shim, command: str, said: str) -> None:
    with pytest.raises(LeafError, match=said):
        web.create(command)
    assert not web.cgroup.exists()
    assert web.run("true") > 0
    assert web.wait() == 0


def test_an_exec_that_cannot_be_executed_ends_as_in_a_shell(web: Shim) -> None:
    web.run("sleep", "1000")
    web.add_exec("oops", "no-such-command", stdin="", stdout="")
    with pytest.raises(LeafError, match="exec no-such-command: No such file or directory"):
        web.start("oops")
    assert web.wait("oops") == 127


def test_a_creation_that_fails_leaves_nothing(web: Shim) -> None:
    with pytest.raises(InputError, match=r"process\.args"):
        web.create("true", args=[])
    with pytest.raises(LeafError, match="Not a directory"):
        web.create("true", cwd="/etc/passwd")
    assert not web.cgroup.exists()
    assert web.info().state == "PREPARING"
    with pytest.raises(NotFound):
        web.state()


def test_a_cgroup_of_somebody_else_is_left_alone(web: Shim) -> None:
    web.cgroup.create()
    with pytest.raises(AlreadyExists, match=web.cgroup.path):
        web.create("true")
    assert web.cgroup.exists()


def test_creation_and_start_in_one_step(web: Shim) -> None:
    pid = web.create("sh", "-c", "exit 8", options=shim.CreateOptions(start=True))
    assert pid > 0
    assert web.wait() == 8
    assert web.info().last_sequence == 3


def test_one_step_that_fails_leaves_nothing(web: Shim) -> None:
    with pytest.raises(LeafError, match="exec no-such-command: No such file or directory"):
        web.create("no-such-command", options=shim.CreateOptions(start=True))
    assert not web.cgroup.exists()
    assert web.info().state == "PREPARING"


def test_a_second_creation_is_refused(web: Shim) -> None:
    web.run("sleep", "1000")
    with pytest.raises(AlreadyExists):
        web.create("true")
    assert web.state().status == task.Status.RUNNING


def test_another_container_is_not_found(web: Shim) -> None:
    web.run("sleep", "1000")
    with pytest.raises(NotFound, match="other"):
        web.client.call(task.V3.state, task.StateRequest(id="other"))


def test_what_the_shim_writes_down(web: Shim) -> None:
    pid = web.create("sh", "-c", "exit 3", options=shim.CreateOptions(first_sequence=10))
    noted = Checkpoint.read(web.bundle.checkpoint)
    assert (noted.state, noted.pid, noted.shim_pid) == ("ISOLATING", pid, web.pid)
    assert noted.pid_start_time == pidfd.start_time(pid)
    assert noted.boot_id == pidfd.boot_id()
    assert noted.cgroup == web.cgroup.path
    web.start()
    web.wait()
    exit_record = record.read(web.bundle.exit, "exit")
    assert exit_record["id"] == ID
    assert exit_record["pid"] == pid
    told = exit_record["exit"]
    assert isinstance(told, dict)
    assert (told["status"], told["cause"]) == (3, "exited")
    assert exit_record["sequence"] == web.info().last_sequence == 12
    assert Checkpoint.read(web.bundle.checkpoint).state == "STOPPED"


def test_pause_and_resume(web: Shim) -> None:
    web.run("sh", "-c", "while :; do :; done")
    web.client.call(task.V3.pause, task.PauseRequest(id=ID))
    assert web.state().status == task.Status.PAUSED
    assert Path(web.cgroup.path, "leaf", "cgroup.events").read_text().split() == ["populated", "1", "frozen", "1"]
    with pytest.raises(StateError, match="paused"):
        web.add_exec("late", "true")
    web.client.call(task.V3.resume, task.ResumeRequest(id=ID))
    assert web.state().status == task.Status.RUNNING
    web.client.call(task.V3.resume, task.ResumeRequest(id=ID))


def test_a_paused_container_can_be_killed(web: Shim) -> None:
    web.run("sleep", "1000")
    web.client.call(task.V3.pause, task.PauseRequest(id=ID))
    web.kill()
    assert web.wait() == 137
    web.delete()
    assert not web.cgroup.exists()


def test_a_time_limit_ends_it(web: Shim) -> None:
    web.run("sleep", "1000", options=shim.CreateOptions(timeout=50_000_000))
    assert web.wait() == 137
    end = web.info().exit
    assert end is not None
    assert (end.cause, end.message) == ("limitation", "time limit of 0.05 s")


def test_what_init_leaves_behind_is_killed_before_its_end_is_told(web: Shim) -> None:
    web.run("sh", "-c", "setsid sleep 1000 & exit 5")
    assert web.wait() == 5
    assert web.cgroup.read("cgroup.events").startswith("populated 0")


def test_events_stay_until_they_are_acknowledged(web: Shim) -> None:
    web.run("true")
    web.wait()

    def told(after: int) -> list[tuple[int, str]]:
        with web.connect() as client, client.stream(shim.EVENTS, shim.EventsRequest(after=after)) as stream:
            seen = []
            for event in stream:
                seen.append((event.sequence, event.type))
                if event.type == "exit":
                    return seen
        return seen

    assert told(0) == [(1, "create"), (2, "start"), (3, "exit")]
    assert told(0) == [(1, "create"), (2, "start"), (3, "exit")]
    assert told(1) == [(2, "start"), (3, "exit")]
    web.client.call(shim.ACKNOWLEDGE, shim.AcknowledgeRequest(sequence=2))
    assert told(0) == [(3, "exit")]


def test_shutdown_is_ignored_while_the_container_remains(web: Shim) -> None:
    web.run("sleep", "1000")
    web.client.call(task.V3.shutdown, task.ShutdownRequest(id=ID))
    assert web.state().status == task.Status.RUNNING


def test_signals_from_a_terminal_do_not_end_the_shim(web: Shim) -> None:
    web.run("sleep", "1000")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(web.pid, number)
    assert web.state().status == task.Status.RUNNING
