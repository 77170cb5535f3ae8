"""Containers get shims of the installed code while they run, and do not notice."""

import ctypes
import json
import os
import select
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from leafd.client import Client
from leafd.describe import describe
from leafd.session import attach, execute
from leafshim.checkpoint import Checkpoint
from leafshim.errors import StateError
from leafshim.kernel import pidfd
from tests.harness.procfs import children
from tests.harness.sessions import end_input

if TYPE_CHECKING:
    from leafshim.api.containers import Container
    from tests.harness.leafd import Leafd, Terminal

COUNTER = "n=0; while [ ! -e /told/end ]; do n=$((n+1)); echo $n; done; exit 7"


def counter(client: Client, name: str, told: str) -> "Container":
    """A container that counts without a pause, until there is a file `end` in the directory `told`."""
    document = describe(["sh", "-c", COUNTER])
    mount = {"destination": "/told", "type": "bind", "source": told, "options": ["bind"]}
    document["mounts"] = [*document["mounts"], mount]  # type: ignore[misc]
    return client.create(name, document, start=True)


def has_every_number_once(text: str) -> None:
    """Nothing is lost, nothing is there twice."""
    numbers = text.split()
    assert len(numbers) > 100
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]


def upgraded(client: Client, made: "Container") -> None:
    """Upgrade it, and see that it is the same container with another shim."""
    before = client.inspect(made.id)
    done = client.upgrade(made.id)
    now = client.inspect(made.id)
    assert (now.state, now.pid, now.problem) == ("RUNNING", made.pid, "")
    assert (done.former_pid, done.shim_pid) == (before.shim_pid, now.shim_pid)
    assert done.shim_pid != done.former_pid
    assert not os.path.exists(f"/proc/{done.former_pid}")
    assert now.shim_version == done.version == client.version().version


def spare_of(client: Client) -> int:
    """The pid of the spare shim, made anew by a launch and its end."""
    while not (spare := client.version().spare_pid):
        client.create("other", describe(["true"]), start=True, remove=True)
        client.wait("other")
    return spare


def wait_for_a_packet(pid: int) -> None:
    """Until something waits to be read on one of the process's sockets, by copies of them (pidfd_getfd(2))."""
    process = pidfd.pidfd_open(pid)
    copies = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(entry).startswith("socket:"):
            copies.append(ctypes.CDLL(None).syscall(438, process, int(entry.name), 0))
    select.select(copies, [], [])
    for fd in (process, *copies):
        os.close(fd)


def test_a_counter_is_upgraded_ten_times(leafd: "Leafd", tmp_path: "os.PathLike[str]") -> None:
    with leafd.client as client:
        made = counter(client, "web", os.fspath(tmp_path))
        for _ in range(10):
            upgraded(client, made)
        open(os.path.join(tmp_path, "end"), "w").close()
        ended = client.wait("web")
        kinds = [event.type for event in client.events(container_id="web")]
    assert ended.exit is not None
    assert (ended.exit.status, ended.exit.cause) == (7, "exited")
    assert kinds.count("upgraded") == 10
    assert "shim-lost" not in kinds
    has_every_number_once(leafd.ctl("logs", "web").stdout)


def test_input_goes_on_and_its_end_arrives(leafd: "Leafd") -> None:
    with leafd.client as client:
        program = "while read line; do echo got $line; done; exit 3"
        made = client.create("web", describe(["sh", "-c", program]), start=True, stdin=True)
        upgraded(client, made)
        with attach(str(leafd.socket), "web", stdin=True) as person:
            person.send(b"one\n")
            assert next(iter(person)).data == b"got one\n"
        upgraded(client, made)
        with attach(str(leafd.socket), "web", stdin=True) as person:
            end_input(person)
        ended = client.wait("web")
    assert ended.exit is not None
    assert ended.exit.status == 3


def test_a_terminal_goes_on(leafd: "Leafd", terminal: "Callable[[list[str]], Terminal]") -> None:
    assert leafd.ctl("run", "-d", "-it", "--name", "web", "--", "sh").returncode == 0
    with leafd.client as client:
        upgraded(client, client.inspect("web"))
    person = terminal(leafd.command("attach", "web"))
    person.type(b"echo st''ill; tty\r")
    person.expect(b"still\r\n/dev/pts/0\r\n")
    person.type(b"exit 4\r")
    assert person.status() == 4


def test_what_is_paused_stays_paused(leafd: "Leafd") -> None:
    with leafd.client as client:
        made = client.create("web", describe(["sleep", "1000"]), start=True)
        client.pause("web")
        upgraded(client, made)
        assert client.inspect("web").paused
        assert not client.resume("web").paused
        assert leafd.ctl("exec", "web", "--", "sh", "-c", "exit 9").returncode == 9
        upgraded(client, made)
        ended = client.stop("web", grace=0)
    assert ended.exit is not None
    assert (ended.exit.status, ended.exit.cause) == (137, "killed")


def test_a_time_limit_still_holds(leafd: "Leafd") -> None:
    with leafd.client as client:
        made = client.create("web", describe(["sleep", "1000"]), start=True, timeout=8_000_000_000)
        upgraded(client, made)
        ended = client.wait("web")
    assert ended.exit is not None
    assert ended.exit.cause == "limitation"


def test_while_an_exec_runs_the_shim_stays(leafd: "Leafd") -> None:
    with leafd.client as client:
        made = client.create("web", describe(["sleep", "1000"]), start=True)
        with execute(str(leafd.socket), "web", ["cat"], stdin=True) as session:
            with pytest.raises(StateError, match=r"exec .* has not ended"):
                client.upgrade("web")
            assert client.inspect("web").shim_pid == made.shim_pid
            session.send(b"still\n")
            assert next(iter(session)).data == b"still\n"
            end_input(session)
        upgraded(client, made)


def test_a_checkpoint_that_cannot_be_read_leaves_the_shim_in_charge(leafd: "Leafd") -> None:
    with leafd.client as client:
        made = client.create("web", describe(["sh", "-c", "read line; exit 6"]), start=True, stdin=True)
        path = os.path.join(made.bundle, "checkpoint")
        noted = Checkpoint.read(path)
        noted._replace(snapshot=b"of a release that nobody knows").write(path)
        failed = leafd.ctl("upgrade", "web")
        assert failed.returncode == 1
        assert "the next shim cannot take it over" in failed.stderr
        assert client.inspect("web").shim_pid == made.shim_pid
        with attach(str(leafd.socket), "web", stdin=True) as person:
            end_input(person)
        ended = client.wait("web")
    assert ended.exit is not None
    assert ended.exit.status == 6


def test_a_next_shim_that_is_killed_in_the_middle_leaves_the_shim_in_charge(leafd: "Leafd") -> None:
    with leafd.client as client, ThreadPoolExecutor(1) as aside:
        made = client.create("web", describe(["sleep", "1000"]), start=True)
        spare = spare_of(client)
        while not children(spare):  # it forks its worker as soon as it can
            client.version()
        (worker,) = children(spare)
        os.kill(worker, signal.SIGSTOP)
        upgrade = aside.submit(leafd.ctl, "upgrade", "web")
        wait_for_a_packet(worker)
        os.kill(worker, signal.SIGKILL)
        failed = upgrade.result()
        assert failed.returncode == 1
        assert "it died" in failed.stderr
        assert client.inspect("web").shim_pid == made.shim_pid
        upgraded(client, made)


def test_a_spare_that_has_died_is_replaced(leafd: "Leafd") -> None:
    with leafd.client as client:
        made = client.create("web", describe(["sleep", "1000"]), start=True)
        spare = spare_of(client)
        fd = pidfd.pidfd_open(spare)
        os.kill(spare, signal.SIGKILL)
        select.select([fd], [], [])
        os.close(fd)
        upgraded(client, made)


def test_leafctl_says_what_it_did(leafd: "Leafd") -> None:
    with leafd.client as client:
        made = client.create("web", describe(["sleep", "1000"]), start=True)
    told = json.loads(leafd.ctl("--json", "upgrade", "web").stdout)
    assert told["id"] == "web"
    assert told["former_shim_pid"] == made.shim_pid
    line = leafd.ctl("upgrade", "web")
    assert line.returncode == 0
    assert line.stdout.startswith(f"web: shim {told['shim_pid']} ({told['version']}) → ")
    shown = json.loads(leafd.ctl("inspect", "web").stdout)
    assert shown["shim_version"] == told["version"]
    assert leafd.ctl("upgrade").returncode == 2
    assert leafd.ctl("upgrade", "nobody").returncode == 1


def test_twenty_under_load_are_upgraded(leafd: "Leafd", tmp_path: "os.PathLike[str]") -> None:
    with leafd.client as client:
        made = {str(number): counter(client, str(number), os.fspath(tmp_path)) for number in range(20)}
        outcome = leafd.ctl("upgrade", "--all")
        assert outcome.returncode == 0, outcome.stderr
        assert len(outcome.stdout.splitlines()) == 1 + 20  # the nursery first
        for name, each in made.items():
            now = client.inspect(name)
            assert now.pid == each.pid
            assert now.shim_pid != each.shim_pid
        open(os.path.join(tmp_path, "end"), "w").close()
        for name in made:
            ended = client.wait(name)
            assert ended.exit is not None
            assert ended.exit.status == 7
