"""kill -9 of leafd at any moment of launches and removals: nothing is left that nobody owns, and nobody is lost."""

import os
import random
import select
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from leafd.client import Client
from leafd.describe import describe
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.layout import Layout
from leafshim.errors import AlreadyExists, NotFound, PeerError
from leafshim.state import RUNNING

if TYPE_CHECKING:
    from tests.harness.leafd import Leafd

OPERATIONS = 400  # half of them launches, as far as there is something to remove
KILLS = 50
LONGEST_DELAY = 0.05  # s; of a kill after the beginning of an operation that takes about half as long
SLEEP = describe(("sleep", "1000"))


class _Expected:
    """What the client knows by the answers that it got; `unsure` are those whose answer a kill took."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.gone: set[str] = set()
        self.unsure: set[str] = set()

    def launch(self, client: Client, name: str) -> None:
        self.unsure.add(name)
        try:
            client.create(name, SLEEP, start=True)
        except AlreadyExists:
            return  # an orphan of an earlier kill that is being removed
        self.unsure.discard(name)
        self.there.add(name)

    def remove(self, client: Client, name: str) -> None:
        self.there.discard(name)
        self.unsure.add(name)
        try:
            client.remove(name, force=True)
        except NotFound:
            pass
        self.unsure.discard(name)
        self.gone.add(name)


def test_fifty_kills_leave_no_rubbish_and_lose_nothing(leafd: "Leafd") -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    kills = set(dice.sample(range(OPERATIONS), KILLS))
    expected = _Expected()
    client = leafd.client
    for number in range(OPERATIONS):
        killer = None
        if number in kills:
            assert leafd.process is not None
            killer = threading.Timer(dice.uniform(0, LONGEST_DELAY), leafd.process.kill)
            killer.start()
        try:
            if expected.there and dice.random() < 0.5:
                expected.remove(client, dice.choice(sorted(expected.there)))
            else:
                expected.launch(client, f"c{number}")
        except PeerError:
            assert killer is not None, "leafd went away by itself"
        if killer is not None:
            killer.join()
            leafd.kill()
            leafd.start()
            client.close()
            client = leafd.client
    client.recover()
    _check(leafd, client, expected)
    for each in client.list():
        client.remove(each.id, force=True)
    _check(leafd, client, _Expected())
    client.close()


def _check(leafd: "Leafd", client: Client, expected: _Expected) -> None:
    """The invariants: what the table, the directories, the cgroups and the processes say is the same."""
    containers = {each.id: each for each in client.list()}
    assert expected.there <= containers.keys() <= expected.there | expected.unsure
    assert not expected.gone & containers.keys()
    layout = Layout(os.path.dirname(leafd.cgroups_root), os.path.basename(leafd.cgroups_root))
    for each in containers.values():
        assert (each.state, each.problem) == (RUNNING, "")
        assert each.pid in Cgroup(each.leaf).processes()
        assert Path(each.shim_socket).is_socket()
    assert set(layout.containers()) == containers.keys()
    assert set(os.listdir(leafd.root / "containers")) == containers.keys()
    assert set(os.listdir(leafd.root / "trash")) == set()
    assert set(os.listdir(leafd.state / "exits")) == set()
    shims = Cgroup(layout.shims)
    owned = {each.shim_pid for each in containers.values()}
    for pid in set(shims.processes()) - owned - leafd.spare():
        _wait_for_end(pid)  # a shim or a worker that was told to end takes its time, but ends
    assert set(shims.processes()) - leafd.spare() == owned
    assert str(leafd.root) not in Path("/proc/self/mountinfo").read_text()


def _wait_for_end(pid: int) -> None:
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([watched], [], [], 60)[0], f"{pid} does not end"
    os.close(watched)
