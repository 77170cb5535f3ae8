"""SIGKILL at every crash point (leafshim/crashes.py), of whoever passes it, alone and together with others.

A case: arm the point, do what passes it, start leafd again if it died, one recovery. Then the invariants hold
(tests/harness/invariants.py), no exit was lost, and all can be removed.
"""

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic

import pytest

from leafd.client import Client
from leafd.describe import describe
from leafd.session import attach, connect, execute
from leafshim.api import task
from leafshim.api.wellknown import Any
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.crashes import LEAFD, NURSERY, POINTS, SHIM, VARIABLE, ZYGOTE
from leafshim.errors import LeafError, NotFound
from leafshim.state import STOPPED
from leafshim.update import URL
from tests.harness.invariants import broken
from tests.harness.leafd import DEADLINE, Leafd

NAME = "web"
SLEEP = describe(("sleep", "1000"))
SEVEN = describe(("sh", "-c", "read line; exit 7"))
NOTHING = describe(("/there/is/no/such/program",))
_AGAIN = 0.01  # s; between looks at what is on its way

LEFT_OUT = {
    **{
        point: "a worker's: most of these cases hold, some show defects that are open"
        for point in POINTS
        if POINTS[point] == SHIM
    },
    "undo-RUNNING": "nothing is undone there, and no launch fails in that step: with a start at once it is no call",
}
"""point → why no case of it is."""

VICTIMS = {
    LEAFD: ((), ("nursery",)),
    NURSERY: ((), ("leafd",)),
    ZYGOTE: ((), ("nursery",)),
    SHIM: ((), ("shim",), ("shim", "leafd"), ("shim", "nursery", "leafd")),
}
"""process → who dies before it; a shim's is its worker."""


class World:
    """An installation, and in it the container of one case."""

    def __init__(self, directory: Path) -> None:
        self.leafd = Leafd(directory)
        self.file = directory / "crash"
        self.leafd.environment[VARIABLE] = str(self.file)
        config = directory / "leafd.toml"
        config.write_text("restart_first = 0.01\n")
        self._flags = ("--config", str(config))
        self.start()
        self.name = ""
        self.point = ""
        self.victims: tuple[str, ...] = ()
        self.canary: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start leafd. Raises AssertionError when it ends before it serves."""
        self.leafd.start(*self._flags)

    def begin(self, name: str, point: str, victims: tuple[str, ...]) -> None:
        """The next case."""
        self.name, self.point, self.victims = name, point, victims
        self.client = self.leafd.client

    def arm(self) -> None:
        """Whoever passes the point from now on dies there, as does a process that tells us."""
        version = self.client.version()
        pids = {"leafd": str(version.pid), "nursery": str(version.nursery_pid), "shim": "shim"}
        self.canary = subprocess.Popen(["sleep", "1000"])
        fresh = self.file.with_suffix(".new")
        fresh.write_text(" ".join((self.point, str(self.canary.pid), *(pids[each] for each in self.victims))))
        fresh.rename(self.file)

    def crashed(self) -> None:
        """Return when it has crashed, with leafd running."""
        assert self.canary is not None
        assert self.canary.wait(DEADLINE) == -signal.SIGKILL
        if self.leafd.process is not None and ("leafd" in self.victims or POINTS[self.point] == LEAFD):
            self.leafd.process.wait(DEADLINE)
            self.leafd.process = None
        if self.leafd.process is None:
            self.start()
        self.client.close()
        self.client = self.leafd.client

    def end(self) -> None:
        """Whatever became of the case."""
        self.file.unlink(missing_ok=True)
        if self.canary is not None:
            self.canary.kill()
            self.canary.wait()
            self.canary = None
        self.client.close()

    def outcome(self) -> tuple[str, int | None]:
        """The container's state, "" when there is none, and its exit status."""
        try:
            seen = self.client.inspect(self.name)
        except NotFound:
            return "", None
        return seen.state, seen.exit.status if seen.exit is not None else None

    def pid(self) -> int:
        """Init's."""
        return self.client.inspect(self.name).pid


Outcomes = set[tuple[str, int | None]]
RUNS: tuple[str, int | None] = ("RUNNING", None)
GONE: tuple[str, int | None] = ("", None)


def launch(world: World) -> Outcomes:
    world.arm()
    with suppress(LeafError):
        world.client.create(world.name, SLEEP, start=True)
        return {RUNS}
    return {RUNS, GONE}  # nobody was told


def failed_launch(world: World) -> Outcomes:
    world.arm()
    with suppress(LeafError):
        world.client.create(world.name, NOTHING, start=True)
    return {GONE}


def start(world: World) -> Outcomes:
    world.client.create(world.name, SLEEP)
    world.arm()
    with suppress(LeafError):
        world.client.start(world.name)
        return {RUNS}
    # Where nobody was told, it may have been killed for it, but not be gone.
    return {RUNS, ("ISOLATING", None), (STOPPED, 137)}


def end(world: World) -> Outcomes:
    world.client.create(world.name, SEVEN, start=True, stdin=True)
    with attach(str(world.leafd.socket), world.name, stdin=True) as session:
        world.arm()
        session.send(b"\n")
        with suppress(LeafError):
            for _ in session:
                pass
    return {(STOPPED, 7)}


def stop(world: World) -> Outcomes:
    world.client.create(world.name, SLEEP, start=True)
    world.arm()
    with suppress(LeafError):
        world.client.stop(world.name, grace=0)
    return {(STOPPED, 137)}


def remove(world: World) -> Outcomes:
    world.client.create(world.name, SLEEP, start=True)
    world.arm()
    with suppress(LeafError):
        world.client.remove(world.name, force=True)
        return {GONE}
    return {GONE, (STOPPED, 137)}


def exec_(world: World) -> Outcomes:
    world.client.create(world.name, SLEEP, start=True)
    world.arm()
    with suppress(LeafError), execute(str(world.leafd.socket), world.name, ["true"]) as session:
        for _ in session:
            pass
    return {RUNS}


def update(world: World) -> Outcomes:
    def limited(size: int) -> dict[str, object]:
        return {"hugepageLimits": [{"pageSize": "2MB", "limit": size}]}

    made = world.client.create(world.name, describe(("sleep", "1000"), resources=limited(8 << 20)), start=True)
    request = task.UpdateTaskRequest(
        id=world.name, resources=Any(type_url=URL, value=json.dumps(limited(6 << 20)).encode())
    )
    world.arm()
    shim = connect(made.shim_socket)
    with suppress(LeafError):
        shim.call(task.V3.update, request)
    shim.close()
    return {RUNS}


def adopt(world: World) -> Outcomes:
    made = world.client.create(world.name, SLEEP, start=True)
    world.arm()
    os.kill(made.shim_pid, signal.SIGKILL)
    return {RUNS}


def restart(world: World) -> Outcomes:
    world.client.create(world.name, SLEEP, start=True, restart="always")
    world.arm()
    world.client.kill(world.name)
    return {RUNS}


def recover(world: World) -> Outcomes:
    world.client.create(world.name, SLEEP, start=True)
    world.arm()
    world.leafd.kill()
    with suppress(AssertionError):  # it dies before it serves
        world.start()
    return {RUNS}


def recover_ended(world: World) -> Outcomes:
    made = world.client.create(world.name, SLEEP, start=True)
    world.arm()
    world.leafd.kill()
    for pid in (made.shim_pid, made.pid):
        os.kill(pid, signal.SIGKILL)
    with suppress(AssertionError):
        world.start()
    return {(STOPPED, 137)}


def recover_orphan(world: World) -> Outcomes:
    Cgroup(world.leafd.cgroup_of(world.name).path).create()
    world.arm()
    with suppress(LeafError):
        world.client.recover()
    return {GONE}


def new_nursery(world: World) -> Outcomes:
    world.arm()
    os.kill(world.client.version().nursery_pid, signal.SIGKILL)
    with suppress(LeafError):
        world.client.create(world.name, SLEEP, start=True)
        return {RUNS}
    return {RUNS, GONE}


Scenario = Callable[[World], Outcomes]

SCENARIOS: dict[str, tuple[Scenario, ...]] = {
    "launch": (launch,),
    "launched": (launch,),
    "launch-RUNNING": (launch, start),
    "launched-RUNNING": (launch, start),
    "undo": (failed_launch,),
    "undone": (failed_launch,),
    "event": (end,),
    "exit": (end, remove),
    "nested": (end,),
    "take": (end, remove),
    "stopped": (stop, remove),
    "stop": (stop, remove),
    "remove": (remove,),
    "removed": (remove, failed_launch),
    "restart": (restart,),
    "recovery-looked": (recover, adopt),
    "recovery-exit-found": (recover_ended,),
    "recovery-orphan-removed": (recover_orphan,),
    "adopt": (adopt,),
    "adopted": (adopt,),
    "adopting": (adopt,),
    "nursery": (launch,),
    "nursery-ready": (new_nursery,),
    "nursery-forgot": (stop,),
    "zygote": (launch,),
    "order": (launch, restart),
    "create": (launch, restart),
    "start": (start,),
    "exec": (exec_,),
    "update": (update,),
    "updated": (update,),
    "end": (end,),
    "delete": (end,),
    "shutdown": (end,),
}
"""point, or what its name begins with → what passes it."""

CASES = [
    pytest.param(point, victims, scenario, id="+".join((f"{scenario.__name__}-{point}", *victims)))
    for point, process in POINTS.items()
    if point not in LEFT_OUT
    for scenario in SCENARIOS.get(point) or SCENARIOS[point.partition("-")[0]]
    for victims in VICTIMS[process]
]


class Worlds:
    """One installation for many cases; after a case that failed, another."""

    def __init__(self, directories: Callable[[str], Path]) -> None:
        self._directories = directories
        self.world: World | None = None
        self.cases = 0

    def enter(self, point: str, victims: tuple[str, ...]) -> World:
        self.cases += 1
        if self.world is None:
            self.world = World(self._directories("leafd"))
        self.world.begin(f"c{self.cases}", point, victims)
        return self.world

    def leave(self) -> None:
        world, self.world = self.world, None
        if world is not None:
            world.leafd.close()


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    made = Worlds(tmp_path_factory.mktemp)
    yield made
    made.leave()
    print(f"{made.cases} cases at {len(POINTS) - len(LEFT_OUT)} points; left out: {sorted(LEFT_OUT)}")


def until(holds: Callable[[], list[str]]) -> None:
    """Wait until there is nothing left that does not hold."""
    deadline = monotonic() + DEADLINE
    while wrong := holds():
        assert monotonic() < deadline, wrong
        select.select([], [], [], _AGAIN)


@pytest.mark.parametrize(("point", "victims", "scenario"), CASES)
def test_crash(worlds: Worlds, point: str, victims: tuple[str, ...], scenario: Scenario) -> None:
    world = worlds.enter(point, victims)
    try:
        wanted = scenario(world)
        world.crashed()
        world.client.recover()

        def wrong() -> list[str]:
            seen = world.outcome()
            return [*broken(world.leafd, world.client), *([] if seen in wanted else [f"{seen} is none of {wanted}"])]

        until(wrong)
        seen = world.outcome()
        exits = [each for each in events(world.client, world.name) if each == "exit"]
        if seen[0] == STOPPED:
            assert len(exits) == 1, "told once, and not lost"
        if seen != GONE:
            world.client.remove(world.name, force=True)
        until(lambda: broken(world.leafd, world.client))
        assert world.outcome() == GONE
    except BaseException:
        world.end()
        worlds.leave()
        raise
    world.end()


def events(client: Client, name: str) -> list[str]:
    """What the journal has of a container."""
    with client.events(container_id=name) as stream:
        return [each.type for each in stream]
