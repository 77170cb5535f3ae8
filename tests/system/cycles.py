"""Container cycles under kills: `make cycles COUNT=10000 SEED=1`. Fails where a figure is not as it must be.

A cycle: a container is made and started; its program ends as it is told or is killed; what leafd tells of that is
compared; the container is removed.

Rules:
1. Several cycles are under way at a time. After one in ten, in the middle of all others, some of leafd, the nursery and
   a shim get SIGKILL; leafd is started again. How often and who depends on the seed alone. What a kill took the answer
   of is asked for again.
2. `lost` is right only for a container whose shim was killed together with leafd and the nursery, all who hold the
   pidfd of its init. These are counted apart.
3. The journal has the exit of each run exactly once.
4. Processes, descriptors, sockets and dying cgroups are at the end as at the start. Memory is printed: the processes
   at the end are others than those at the start.
"""

import argparse
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from leafd.client import Client
from leafshim.errors import LeafError, NotFound, PeerError
from leafshim.kernel import pidfd
from leafshim.state import RUNNING, STOPPED
from tests.harness.commanded import Commanded
from tests.harness.leafd import Leafd
from tests.harness.leftovers import Leftovers

WIDTH = 6  # cycles at a time
PATIENCE = 60.0  # s; for what should take milliseconds
KILLS = 0.1  # a cycle
LONGEST_DELAY = 0.05  # s; of a kill after the end of a cycle
CONFIG = "call_deadline = 20.0\njournal_size = 1073741824\n"
KILLED = 128 + signal.SIGKILL
_RETRY = 0.02  # s; between looks at what leafd does by itself
T = TypeVar("T")
_EVERYBODY = frozenset({"leafd", "nursery", "shim"})


class Cycles:
    """`figures`: what was done and seen, by name; `wrong`: what must not be, in words."""

    def __init__(self, leafd: Leafd, seed: int) -> None:
        self.leafd = leafd
        self.figures: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._seed = seed
        self._numbers: Iterator[int] = iter(())
        self._lock = threading.Lock()
        self._killing = threading.Lock()
        self._may_be_lost: set[str] = set()
        self._runs: dict[str, int] = {}
        config = leafd.root.parent / "cycles.toml"
        config.write_text(CONFIG)
        self._flags = ("--config", str(config))
        leafd.start(*self._flags)
        with leafd.client as client:  # what the first launch makes for good is there at the start
            client.create("first", _document(leafd, "first").document, start=True)
            client.remove("first", force=True)
        self._leftovers = Leftovers(leafd)
        self.memory = [self._memory()]

    def run(self, count: int) -> None:
        """`count` cycles under kills, then a look at what is left."""
        self._numbers = iter(range(count))
        workers = [threading.Thread(target=self._work) for _ in range(WIDTH)]
        for thread in workers:
            thread.start()
        for thread in workers:
            thread.join()
        self._check_journal()
        self.figures["dying cgroups"] = self._leftovers.check()
        self.memory.append(self._memory())

    def _memory(self) -> int:
        """kB of leafd and the nursery, RSS."""
        with self.leafd.client as client:
            version = client.version()
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (version.pid, version.nursery_pid)]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") // 1024

    # Kills.

    def _kill_after(self, number: int) -> None:
        dice = random.Random(f"{self._seed} kill {number}")
        if dice.random() < KILLS:
            time.sleep(dice.uniform(0, LONGEST_DELAY))
            size = dice.choice((1, 1, 1, 2, 2, 3))
            with self._killing:
                self._kill(frozenset(dice.sample(sorted(_EVERYBODY), size)), dice.random())

    def _kill(self, chosen: frozenset[str], which: float) -> None:
        with self.leafd.client as client:
            version = client.version()
            pids = {"leafd": version.pid, "nursery": version.nursery_pid}
            running = [each for each in client.list() if each.state == RUNNING and each.shim_pid]
        victim = running[int(which * len(running))] if running else None
        if victim is not None:
            pids["shim"] = victim.shim_pid
        opened = []
        for name in sorted(chosen & pids.keys()):
            try:
                opened.append((name, pidfd.pidfd_open(pids[name])))
            except LeafError:
                continue  # it has ended meanwhile
        if victim is not None and chosen == _EVERYBODY:
            self._may_be_lost.add(victim.id)
        for name, fd in opened:
            try:
                pidfd.send_signal(fd, signal.SIGKILL)
                self.figures[f"kills of {name}"] += 1
            except LeafError:
                pass
            os.close(fd)
        if "leafd" in chosen and self.leafd.process is not None:
            self.leafd.kill()
            self.leafd.start(*self._flags)

    # Cycles.

    def _work(self) -> None:
        while True:
            with self._lock:
                number = next(self._numbers, None)
            if number is None:
                return
            try:
                self._cycle(number)
                self._kill_after(number)
            except Exception as error:
                self.wrong.append(f"c{number}: {type(error).__name__}: {error}")
            self.figures["cycles"] += 1

    def _cycle(self, number: int) -> None:
        dice = random.Random(f"{self._seed} {number}")
        name, workload = self._launch(number)
        status = dice.randrange(256)
        if dice.random() < 0.3:
            status = KILLED
            self._kill_init(name)
        else:
            workload.end(status)
        end = self._insist(lambda client: client.wait(name, PATIENCE)).exit
        workload.close()
        if end is None or end.cause == "lost":
            self.figures["lost, all holders killed" if name in self._may_be_lost else "lost"] += 1
            if name not in self._may_be_lost:
                self.wrong.append(f"{name}: lost, was {status}")
        elif end.status != status:
            self.figures["wrong"] += 1
            self.wrong.append(f"{name}: told {end.status} ({end.cause}), was {status}")
        else:
            self.figures["true"] += 1
        self._runs[name] = status
        self._insist(partial(_remove, name))

    def _kill_init(self, name: str) -> None:
        """By leafd, or past it, as the kernel does when memory is short."""
        pid = self._insist(lambda client: client.inspect(name)).pid
        if pid % 2:
            self._insist(lambda client: client.kill(name))
        else:
            os.kill(pid, signal.SIGKILL)

    def _launch(self, number: int) -> tuple[str, Commanded]:
        for attempt in range(20):
            name = f"c{number}-{attempt}"
            workload = _document(self.leafd, name)
            try:
                with self._client() as client:
                    client.create(name, workload.document, start=True)
                workload.up(PATIENCE)
                return name, workload
            except LeafError:
                self.figures["launches not answered"] += 1
            if self._insist(partial(_survived, name)):
                workload.up(PATIENCE)
                return name, workload
            workload.close()
        raise AssertionError("twenty attempts to launch it failed")

    def _client(self) -> Client:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.leafd.client
            except LeafError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY)

    def _insist(self, command: Callable[[Client], T]) -> T:
        """Its result, once a leafd lives long enough to answer."""
        deadline = time.monotonic() + 2 * PATIENCE
        while True:
            try:
                with self._client() as client:
                    return command(client)
            except PeerError:
                if time.monotonic() > deadline:
                    raise
                self.figures["answers lost"] += 1
                time.sleep(_RETRY)

    def _check_journal(self) -> None:
        told: Counter[str] = Counter()
        with self.leafd.client as client, client.events() as events:
            for event in events:
                told[event.id] += event.type == "exit"
        for name in self._runs:
            if told[name] != 1:
                self.wrong.append(f"{name}: its exit is {told[name]} times in the journal")


def _document(leafd: Leafd, name: str) -> Commanded:
    return Commanded(leafd.root.parent / name)


def _survived(name: str, client: Client) -> bool:
    """Whether a container whose creation was not answered runs; what is under way ends first."""
    while True:
        client.recover()
        try:
            state = client.inspect(name).state
        except NotFound:
            return False
        if state == RUNNING:
            return True
        if state == STOPPED:
            client.remove(name)
            return False
        time.sleep(_RETRY)


def _remove(name: str, client: Client) -> None:
    try:
        client.remove(name)
    except NotFound:
        pass  # done, and the answer was lost


def main() -> int:
    """A run in a temporary directory; 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="cycles", description="Container cycles under kills.")
    parser.add_argument("--count", type=int, default=10000, help="cycles (default 10000)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="leafd-cycles-") as directory:
        leafd = Leafd(Path(directory))
        began = time.monotonic()
        try:
            cycles = Cycles(leafd, options.seed)
            cycles.run(options.count)
        finally:
            if leafd.output.exists():
                print(leafd.output.read_text()[-3000:])
            leafd.close()
    for name in ("cycles", "true", "wrong", "lost", "lost, all holders killed"):
        print(f"{name:26} {cycles.figures.pop(name, 0)}")
    for name, figure in sorted(cycles.figures.items()):
        print(f"{name:26} {figure}")
    print(f"{'leafd and nursery, kB':26} {cycles.memory[0]}, then {cycles.memory[1]}")
    print(f"{'seconds':26} {time.monotonic() - began:.0f}")
    print("\n".join(cycles.wrong) or "nothing is wrong")
    return 1 if cycles.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
