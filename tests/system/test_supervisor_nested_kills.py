"""kill -9 of leafd at any moment of launches and removals of families: as test_supervisor_kills.py, for nested ones."""

import os
import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from leafd.client import Client
from leafd.describe import describe
from leafd.describe_nested import describe_nested
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.layout import Layout
from leafshim.errors import AlreadyExists, NotFound, PeerError
from leafshim.state import RUNNING

if TYPE_CHECKING:
    from tests.harness.leafd import Leafd

OPERATIONS = 160
KILLS = 30
DEEPEST = 2
LONGEST_DELAY = 0.08  # s; of a kill after the beginning of an operation that takes about half as long
SLEEP = describe(("sleep", "1000"))
NESTED = describe_nested(("sleep", "1000"), share=["pid"])


class _Expected:
    """What the client knows by the answers that it got. Whose answer a kill took may be there or not."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.unsure: set[str] = set()

    def launch(self, client: Client, name: str) -> None:
        nested = "/" in name
        self.unsure.add(name)
        try:
            client.create(name, NESTED if nested else SLEEP, start=True, share=["pid"] if nested else [])
        except AlreadyExists:
            return  # an orphan of an earlier kill that is being removed
        self.unsure.discard(name)
        self.there.add(name)

    def remove(self, client: Client, name: str) -> None:
        family = {each for each in self.there | self.unsure if f"{each}/".startswith(f"{name}/")}
        self.there -= family
        self.unsure |= family
        try:
            client.remove(name, force=True)
        except NotFound:
            pass
        self.unsure -= family


def test_thirty_kills_leave_whole_families(leafd: "Leafd") -> None:
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
        parents = [each for each in sorted(expected.there) if each.count("/") < DEEPEST]
        try:
            if expected.there and dice.random() < 0.3:
                expected.remove(client, dice.choice(sorted(expected.there)))
            elif parents and dice.random() < 0.7:
                expected.launch(client, f"{dice.choice(parents)}/c{number}")
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
        if not each.parent:
            client.remove(each.id, force=True)
    _check(leafd, client, _Expected())
    client.close()


def _check(leafd: "Leafd", client: Client, expected: _Expected) -> None:
    containers = {each.id: each for each in client.list()}
    assert expected.there <= containers.keys() <= expected.there | expected.unsure
    for each in containers.values():
        assert (each.id, each.state, each.problem) == (each.id, RUNNING, "")
        assert each.pid in Cgroup(each.leaf).processes()
        assert not each.parent or each.parent in containers
    layout = Layout(os.path.dirname(leafd.cgroups_root), os.path.basename(leafd.cgroups_root))
    assert set(layout.containers()) == containers.keys()
    assert {each.replace(":", "/") for each in os.listdir(leafd.root / "containers")} == containers.keys()
    assert os.listdir(leafd.root / "trash") == []
    assert os.listdir(leafd.state / "exits") == []
    assert str(leafd.root) not in Path("/proc/self/mountinfo").read_text()
