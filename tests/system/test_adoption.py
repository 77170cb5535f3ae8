"""A container whose shim was killed gets another one, and nobody but leafd notices."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from leafd.describe import describe
from leafd.session import attach, execute
from leafshim.kernel import pidfd
from tests.harness.leafd import Leafd

if TYPE_CHECKING:
    from leafd.client import Client
    from leafshim.api.containers import Container
    from tests.harness.leafd import Terminal

COUNTER = "n=0; while read line; do n=$((n+1)); echo $n $line; done; exit 7"


def kill(*pids: int) -> None:
    """SIGKILL, and wait until they have ended."""
    for pid in pids:
        fd = pidfd.pidfd_open(pid)
        pidfd.send_signal(fd, signal.SIGKILL)
        assert pidfd.pid_of(fd) in (pid, None)
        os.close(fd)


def until(client: "Client", name: str, kind: str, count: int = 1) -> None:
    """Wait for the `count`-th event of a kind."""
    with client.events(follow=True, container_id=name) as events:
        for event in events:
            count -= event.type == kind
            if not count:
                return


def adopted(client: "Client", made: "Container", times: int = 1) -> "Container":
    """The container once it has been adopted that often."""
    until(client, made.id, "adopted", times)
    now = client.inspect(made.id)
    assert (now.state, now.pid, now.problem) == ("RUNNING", made.pid, "")
    assert now.shim_pid != made.shim_pid
    return now


def test_input_output_and_log_go_on(leafd: Leafd) -> None:
    with leafd.client as client:
        made = client.create("web", describe(["sh", "-c", COUNTER]), start=True, stdin=True)
        with attach(str(leafd.socket), "web", stdin=True) as first:
            first.send(b"one\n")
            assert next(iter(first)).data == b"1 one\n"
        kill(made.shim_pid)
        adopted(client, made)
        with attach(str(leafd.socket), "web", stdin=True) as second:
            second.send(b"two\n")
            second.close_stdin()
            assert next(iter(second)).data == b"2 two\n"
        ended = client.wait("web")
    assert ended.exit is not None
    assert (ended.exit.status, ended.exit.cause) == (7, "exited")
    assert leafd.ctl("logs", "web").stdout == "1 one\n2 two\n"


def test_a_terminal_goes_on(leafd: Leafd, terminal: "Callable[[list[str]], Terminal]") -> None:
    assert leafd.ctl("run", "-d", "-it", "--name", "web", "--", "sh").returncode == 0
    with leafd.client as client:
        made = client.inspect("web")
        kill(made.shim_pid)
        adopted(client, made)
    person = terminal(leafd.command("attach", "web"))
    person.type(b"echo st''ill; tty; stty size\r")
    person.expect(b"still\r\n/dev/pts/0\r\n")
    person.type(b"exit 4\r")
    assert person.status() == 4


def test_it_can_be_executed_in_paused_stopped_and_adopted_again(leafd: Leafd) -> None:
    with leafd.client as client:
        made = now = client.create("web", describe(["sleep", "1000"]), start=True)
        for times in (1, 2, 3):
            kill(now.shim_pid)
            now = adopted(client, made, times)
        assert leafd.ctl("exec", "web", "--", "sh", "-c", "exit 9").returncode == 9
        assert client.pause("web").paused
        kill(now.shim_pid)
        assert adopted(client, made, 4).paused
        assert not client.resume("web").paused
        ended = client.stop("web", grace=0)
        assert ended.exit is not None
        assert (ended.exit.status, ended.exit.cause) == (137, "killed")
        client.remove("web")


def test_a_time_limit_still_holds(leafd: Leafd) -> None:
    with leafd.client as client:
        made = client.create("web", describe(["sleep", "1000"]), start=True, timeout=3_000_000_000)
        kill(made.shim_pid)
        ended = client.wait("web")
        assert ended.exit is not None
        assert ended.exit.cause == "limitation"
        assert "adopted" in [event.type for event in client.events(container_id="web")]


@pytest.mark.parametrize("leafd_too", [False, True])
def test_with_the_nursery_gone_too_the_kernel_knows_the_status(leafd: Leafd, leafd_too: bool, tmp_path: Path) -> None:
    """Linux 6.15 and later; before that only the nursery could tell."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    mount = {"destination": "/told", "type": "bind", "source": str(fifo), "options": ["bind"]}
    document = describe(["sh", "-c", "read word < /told; exit 6"])
    document["mounts"] = [*document["mounts"], mount]  # type: ignore[misc]
    with leafd.client as client:
        made = client.create("web", document, start=True)
        nursery = client.version().nursery_pid
    if leafd_too:
        leafd.kill()
    kill(nursery, made.shim_pid)
    if leafd_too:
        leafd.start()
    with leafd.client as client:
        adopted(client, made)
        fifo.write_text("end\n")
        ended = client.wait("web")
    assert ended.exit is not None
    assert (ended.exit.status, ended.exit.cause) == (6, "exited")


@pytest.mark.vm
def test_on_an_older_kernel_the_nursery_knows_the_status(patient: Leafd) -> None:
    """Linux 6.12, in the guest, has no PIDFD_INFO_EXIT."""
    leafd = patient
    with leafd.client as client:
        made = client.create("web", describe(["sh", "-c", "read line; exit 6"]), start=True, stdin=True)
        kill(made.shim_pid)
        adopted(client, made)
        with attach(str(leafd.socket), "web", stdin=True) as person:
            person.send(b"end\n")
            person.flush()
        ended = client.wait("web")
    assert ended.exit is not None
    assert (ended.exit.status, ended.exit.cause) == (6, "exited")


def test_a_fleet_of_dead_shims_is_adopted_side_by_side(leafd: Leafd) -> None:
    with leafd.client as client:
        made = {name: client.create(name, describe(["sleep", "1000"]), start=True) for name in map(str, range(20))}
        kill(*(each.shim_pid for each in made.values()))
        for each in made.values():
            adopted(client, each)
        for name in made:
            assert leafd.ctl("exec", name, "--", "true").returncode == 0


def test_the_former_shims_events_are_told_by_the_next(leafd: Leafd) -> None:
    with leafd.client as client:
        made = client.create("web", describe(["sleep", "1000"]), start=True)
    leafd.kill()
    with execute(str(leafd.socket), "web", ["true"]) as session:
        for _ in session:
            pass
    kill(made.shim_pid)
    leafd.start()
    with leafd.client as client:
        adopted(client, made)
        kinds = [event.type for event in client.events(container_id="web")]
    assert kinds.count("exec-started") == kinds.count("exec-exited") == 1
