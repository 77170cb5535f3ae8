"""Random commands and random kills, against a model that knows the truth: `make chaos SECONDS=60 SEED=1`.

Rules:
1. One step is one command to one container. During some, at a random moment, some of leafd, the nursery, shims and
   their workers get SIGKILL. A command whose answer was killed is asked for again, until it is done.
2. The model knows which containers there are, in what state, and with which status each run of each has ended: the
   workloads end as they are told. Every exit is in the journal exactly once; its numbers grow by one.
3. `lost` is right only for what ended in a step in which leafd, the nursery and its shim were all killed; counted
   apart.
   A restart that a kill interrupted is told as one that failed; counted apart, too.
4. What is decided depends on the seed and on the model, not on time: the same seed, the same decisions.
5. At the end all is removed, and nothing is left.
"""

import argparse
import os
import random
import select
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from leafd.session import execute
from leafshim.api.containers import Container, Event
from leafshim.errors import LeafError, NotFound, PeerError, StateError
from leafshim.kernel import pidfd
from leafshim.state import RUNNING, STOPPED
from tests.harness.commanded import POLITE_STATUS, Commanded
from tests.harness.leafd import Leafd
from tests.harness.leftovers import Leftovers

LONGEST_DELAY = 0.06  # s; of a kill after the beginning of a command
MOST = 8  # containers at a time
PATIENCE = 60.0  # s; for what should take milliseconds
KILLED = 128 + signal.SIGKILL
VICTIMS = ("leafd", "nursery", "shim", "worker", "spare")
CONFIG = "restart_first = 0.02\nrestart_max = 0.1\ncall_deadline = 20.0\njournal_size = 1073741824\n"
_RETRY = 0.01  # s; between looks at what leafd does by itself
_FAILED_RESTART = "it could not be started again"


@dataclass
class Run:
    """The end of one run as it must be: one of `statuses`, or, where that is right, lost."""

    statuses: frozenset[int]
    may_be_lost: bool


@dataclass
class Model:
    """One container as it must be."""

    number: int
    parent: "Model | None" = None
    restart: str = "no"
    polite: bool = False
    id: str = ""
    workload: Commanded | None = None
    paused: bool = False
    ended: bool = False
    ends: list[Run] = field(default_factory=list)

    @property
    def last(self) -> Run:
        return self.ends[-1]

    def told_to_end(self) -> Commanded:
        assert self.workload is not None
        return self.workload


class Chaos:
    """One run. `figures`: what was done and seen, by name. Raises AssertionError for what is wrong."""

    def __init__(self, leafd: Leafd, seed: int, report: Callable[[str], None]) -> None:
        self.leafd = leafd
        self.figures: Counter[str] = Counter()
        self.decisions: list[str] = []
        self._dice = random.Random(seed)
        self._report = report
        self._models: list[Model] = []
        self._gone: list[Model] = []
        self._made = 0
        self._pids: dict[int, int] = {}
        self._killed: frozenset[str] = frozenset()
        self._killed_shims: frozenset[int] = frozenset()
        self._events: list[Event] = []
        config = leafd.root.parent / "chaos.toml"
        config.write_text(CONFIG)
        self._flags = ("--config", str(config))
        leafd.start(*self._flags)
        self._client = leafd.client
        self._leftovers = Leftovers(leafd)

    def run(self, seconds: float) -> None:
        """Steps for that long, then the end. At least one step is made."""
        began = time.monotonic()
        while True:
            with _alarm(4 * PATIENCE, lambda: f"step {len(self.decisions)} hangs: {self.decisions[-1:]}"):
                self._step()
            if time.monotonic() - began >= seconds:
                break
        with _alarm(4 * PATIENCE, lambda: "the end hangs"):
            self._finish()

    # One step.

    def _step(self) -> None:
        command, model = self._choose()
        argument = self._dice.randrange(1, 120) if self._dice.random() < 0.8 else 0
        victims = self._choose_victims()
        target = model if self._dice.random() < 0.7 or not self._models else self._dice.choice(self._models)
        delay = self._dice.uniform(0, LONGEST_DELAY)
        killed = ", ".join(sorted(victims)) or "nobody"
        self.decisions.append(f"{command} {model.number} {argument}; kill {killed} of {target.number} {delay:.4f}")
        self._report(f"{time.monotonic():.2f} {self.decisions[-1]}")
        self.figures["steps"] += 1
        self.figures[command] += 1
        self._killed = victims
        killer = self._killer(victims, target, delay)
        try:
            getattr(self, f"_{command}")(model, argument, killer)
        finally:
            if killer is not None:
                killer.join()
        if killer is not None:
            self._repair(killer)
        self._check()

    def _choose(self) -> tuple[str, Model]:
        dice = self._dice
        live = [each for each in self._models if not each.ended]
        parents = [each for each in live if not each.paused and each.parent is None]
        if not self._models or (len(self._models) < MOST and dice.random() < 0.3):
            parent = dice.choice(parents) if parents and dice.random() < 0.4 else None
            self._made += 1
            restart = "no" if parent else dice.choice(("no", "no", "on-failure", "always"))
            return "create", Model(self._made, parent, restart, polite=dice.random() < 0.5)
        model = dice.choice(self._models)
        if model.ended:
            return dice.choice(("look", "remove", "remove")), model
        if model.paused:
            return dice.choice(("resume", "resume", "kill", "stop", "remove")), model
        commands = ["exec"] * 4 + ["end"] * 4 + ["kill", "kill", "stop", "remove", "look"]
        if not self._below(model):
            commands.append("pause")
        return dice.choice(commands), model

    def _choose_victims(self) -> frozenset[str]:
        dice = self._dice
        chosen = dice.random()
        if chosen < 0.6:
            return frozenset()
        if chosen < 0.9:
            return frozenset({dice.choice(VICTIMS)})
        return frozenset(dice.sample(VICTIMS[:3], dice.choice((2, 2, 3))))

    def _killer(self, victims: frozenset[str], target: Model, delay: float) -> threading.Timer | None:
        """A timer that kills them all at once, by descriptors that are opened now."""
        self._killed_shims = frozenset()
        if not victims:
            return None
        version = self._client.version()
        pids = {"leafd": version.pid, "nursery": version.nursery_pid, "spare": version.spare_pid}
        if target.id and not target.ended and target in self._models:
            pids["shim"] = self._client.inspect(target.id).shim_pid
            pids["worker"] = _worker_of(pids["shim"])
        descriptors = [pidfd.pidfd_open(pids[each]) for each in sorted(victims) if pids.get(each)]
        if "shim" in victims and pids.get("shim"):
            self._killed_shims = frozenset({target.number})
        self.figures["kills"] += len(descriptors)
        for each in victims:
            self.figures[f"kill {each}"] += 1 if pids.get(each) else 0

        def kill() -> None:
            for fd in descriptors:
                try:
                    pidfd.send_signal(fd, signal.SIGKILL)
                except LeafError:
                    pass  # it has ended meanwhile
            for fd in descriptors:
                select.select([fd], [], [], PATIENCE)
                os.close(fd)

        killer = threading.Timer(delay, kill)
        killer.start()
        return killer

    def _repair(self, killer: threading.Timer) -> None:
        """Wait until what was killed is there again."""
        killer.join()
        if "leafd" in self._killed and self.leafd.process is not None and self.leafd.process.poll() is not None:
            self.leafd.kill()
            self.leafd.start(*self._flags)
            self._client.close()
            self._client = self.leafd.client

    def _insist(self, killer: threading.Timer | None, command: Callable[[], object]) -> bool:
        """Do it, again when a kill took the answer; whether that was so."""
        disturbed = False
        while True:
            try:
                command()
                return disturbed
            except PeerError as error:
                if killer is None:
                    raise AssertionError("nobody was killed") from error
                disturbed = True
                self.figures["answers lost"] += 1
                self._repair(killer)
                time.sleep(_RETRY)

    def _until(self, wanted: Callable[[], bool]) -> None:
        while not wanted():
            time.sleep(_RETRY)

    # Commands.

    def _create(self, model: Model, _: int, killer: threading.Timer | None) -> None:
        parent = model.parent
        for attempt in range(10):
            name = f"c{model.number}-{attempt}"
            model.id = f"{parent.id}/{name}" if parent else name
            directory = self.leafd.root.parent / name
            model.workload = Commanded(directory, polite=model.polite, nested=parent is not None)
            try:
                self._client.create(model.id, model.workload.document, start=True, restart=model.restart)
                break
            except LeafError as error:
                if killer is None:
                    raise AssertionError("nobody was killed") from error
                self.figures["answers lost"] += 1
                self._repair(killer)
                if self._survived(model.id):
                    break
                model.workload.close()
        else:
            raise AssertionError(f"{model.id}: ten attempts to make it failed")
        model.workload.up(PATIENCE)
        self._models.append(model)

    def _survived(self, container_id: str) -> bool:
        """Whether a container whose creation was not answered is there; what is under way ends first."""
        while True:
            self._client.recover()
            try:
                found = self._client.inspect(container_id)
            except NotFound:
                return False
            if found.state == RUNNING:
                return True
            if found.state == STOPPED:
                self._client.remove(container_id)
                return False
            time.sleep(_RETRY)

    def _end(self, model: Model, status: int, killer: threading.Timer | None) -> None:
        model.told_to_end().end(status)
        self._expect(model, {status})
        self._after_end(
            model, killer, again=model.restart == "always" or (model.restart == "on-failure" and status > 0)
        )

    def _kill(self, model: Model, _: int, killer: threading.Timer | None) -> None:
        init = pidfd.pidfd_open(self._pids[model.number])

        def kill() -> None:
            if not select.select([init], [], [], 0)[0]:
                self._client.kill(model.id)

        self._insist(killer, kill)
        os.close(init)
        self._expect(model, {KILLED})
        model.paused = False
        self._after_end(model, killer, again=model.restart != "no")

    def _stop(self, model: Model, argument: int, killer: threading.Timer | None) -> None:
        grace = PATIENCE if model.polite else 0.0
        disturbed = self._insist(killer, lambda: self._client.stop(model.id, grace))
        self._expect(model, {POLITE_STATUS, KILLED} if model.polite and disturbed else self._stopped(model))
        model.paused = False
        self._after_end(model, killer, again=False)

    def _stopped(self, model: Model) -> set[int]:
        return {POLITE_STATUS} if model.polite else {KILLED}

    def _remove(self, model: Model, _: int, killer: threading.Timer | None) -> None:
        force = not model.ended

        def remove() -> None:
            try:
                self._client.remove(model.id, force=force)
            except NotFound:
                assert killer is not None

        for each in [model, *self._below(model)]:
            if not each.ended:
                self._expect(each, {KILLED, *self._stopped(each)})
        self._insist(killer, remove)
        for each in [model, *self._below(model)]:
            self._models.remove(each)
            self._gone.append(each)
            each.told_to_end().close()

    def _pause(self, model: Model, _: int, killer: threading.Timer | None) -> None:
        self._insist(killer, lambda: self._client.pause(model.id))
        model.paused = True

    def _resume(self, model: Model, _: int, killer: threading.Timer | None) -> None:
        self._insist(killer, lambda: self._again(killer, lambda: self._client.resume(model.id)))
        model.paused = False

    def _again(self, killer: threading.Timer | None, command: Callable[[], object]) -> None:
        """What was done already is refused."""
        try:
            command()
        except StateError:
            assert killer is not None

    def _exec(self, model: Model, status: int, killer: threading.Timer | None) -> None:
        try:
            with execute(str(self.leafd.socket), model.id, ["sh", "-c", f"exit {status}"]) as session:
                session.communicate()
                end = session.exited
        except LeafError as error:
            if killer is None:
                raise AssertionError("nobody was killed") from error
            self.figures["execs lost"] += 1
            return
        assert end is not None
        if end.cause == "lost":
            assert killer is not None, f"{model.id}: the status of an exec was lost"
            self.figures["execs lost"] += 1
        else:
            assert (end.cause, end.status) == ("exited", status), f"{model.id}: exec {status}: {end}"

    def _look(self, model: Model, _: int, killer: threading.Timer | None) -> None:
        """Its log, and how it ended."""
        with_log: list[bytes] = []

        def read() -> None:
            with self._client.logs(model.id) as chunks:
                with_log[:] = [chunk.data for chunk in chunks]

        self._insist(killer, read)
        assert with_log, f"{model.id}: its log is empty"
        if model.ended:
            self._insist(killer, lambda: self._judge(model, self._client.wait(model.id, PATIENCE)))

    # What must be.

    def _below(self, model: Model) -> list[Model]:
        return [each for each in self._models if each.parent is model]

    def _expect(self, model: Model, statuses: set[int]) -> None:
        holders = {"leafd", "nursery", "shim"} <= self._killed and model.number in self._killed_shims
        model.ends.append(Run(frozenset(statuses), holders))

    def _after_end(self, model: Model, killer: threading.Timer | None, *, again: bool) -> None:
        for each in self._below(model):
            if not each.ended:
                self._expect(each, {KILLED, *self._stopped(each)})
                each.ended, each.paused = True, False
        if again:
            if killer is not None:
                self._repair(killer)
            former = self._pids[model.number]
            self._until(lambda: self._runs_again(model, former))
        else:
            model.ended = True
            self._insist(killer, lambda: self._judge(model, self._client.wait(model.id, PATIENCE)))

    def _runs_again(self, model: Model, former: int) -> bool:
        now = self._client.inspect(model.id)
        exits = [each for each in self._read() if each.id == model.id and each.type == "exit"]
        real = [each for each in exits if not _failed_restart(each)]
        if now.state != RUNNING or now.pid == former or len(real) < len(model.ends):
            return False
        if self._client.inspect(model.id).pid != now.pid:
            return False
        model.told_to_end().up(PATIENCE)
        return True

    def _judge(self, model: Model, found: Container) -> None:
        end = found.exit
        assert found.state == STOPPED, f"{model.id}: {found.state}"
        assert end is not None, f"{model.id}: {found}"
        if end.cause != "lost":
            assert end.status in model.last.statuses, f"{model.id}: {end}, must be {model.last}"
        else:
            assert model.last.may_be_lost, f"{model.id}: lost, must be {model.last}"

    def _read(self) -> list[Event]:
        """The journal, as far as it goes now; its numbers must grow by one."""
        last = self._events[-1].sequence if self._events else 0
        with self._client.events(since=last) as events:
            for event in events:
                assert event.sequence == last + 1, f"event {event.sequence} comes after {last}"
                last = event.sequence
                self._events.append(event)
        return self._events

    def _check(self) -> None:
        """The table is as the model has it, once what is under way has come to rest."""
        self._until(self._at_rest)
        found = {each.id: each for each in self._client.list()}
        assert found.keys() == {each.id for each in self._models}
        for model in self._models:
            now = found[model.id]
            if not model.ended:
                assert now.paused == model.paused, f"{model.id}: paused {now.paused}"
                assert Path(f"/proc/{now.pid}").exists(), f"{model.id}: its init is gone"
                self._pids[model.number] = now.pid
            else:
                self._judge(model, now)

    def _at_rest(self) -> bool:
        version = self._client.version()
        return all(
            (each.state == RUNNING and not each.problem and _lives(each.shim_pid)) or each.state == STOPPED
            for each in self._client.list()
        ) and _lives(version.nursery_pid)

    def _check_journal(self) -> None:
        """Every run has one exit, with its true status; every exec at most one."""
        exits: dict[str, list[Event]] = {}
        execs: Counter[tuple[str, str]] = Counter()
        for event in self._read():
            if event.type == "exit":
                exits.setdefault(event.id, []).append(event)
            if event.type == "exec-exited":
                execs[event.id, event.exec_id] += 1
        assert all(count == 1 for count in execs.values()), f"told twice: {execs.most_common(3)}"
        for model in [*self._models, *self._gone]:
            told = exits.get(model.id, [])
            self.figures["failed restarts"] += sum(map(_failed_restart, told))
            real = [each for each in told if not _failed_restart(each)]
            ends = [(each.exit.status, each.exit.cause) for each in real if each.exit]
            assert len(ends) == len(model.ends), f"{model.id}: told {ends}, must be {model.ends}"
            for (status, cause), run in zip(ends, model.ends, strict=True):
                if cause == "lost":
                    assert run.may_be_lost, f"{model.id}: told {ends}, must be {model.ends}"
                    self.figures["lost with all who knew"] += 1
                else:
                    assert status in run.statuses, f"{model.id}: told {ends}, must be {model.ends}"
                self.figures["exits"] += 1

    def _finish(self) -> None:
        for model in [each for each in self._models if each.parent is None]:
            self._killed = frozenset()
            self._remove(model, 0, None)
        self._check_journal()
        self.figures["dying cgroups"] = self._leftovers.check()
        self._client.close()


def _failed_restart(event: Event) -> bool:
    return event.exit is not None and event.exit.message.startswith(_FAILED_RESTART)


def _worker_of(shim: int) -> int:
    """The pid of its worker, 0 while it has none: the child that is in its own cgroup."""
    try:
        children = Path(f"/proc/{shim}/task/{shim}/children").read_text().split()
        ours = Path(f"/proc/{shim}/cgroup").read_text()
        return next((int(each) for each in children if Path(f"/proc/{each}/cgroup").read_text() == ours), 0)
    except OSError:
        return 0


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextmanager
def _alarm(seconds: float, why: Callable[[], str]) -> Iterator[None]:
    """What takes longer fails, wherever it waits."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(why())

    former = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def main() -> None:
    """A run in a temporary directory; exits with status 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="chaos", description="Random commands and kills, against a model.")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long (default 60)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("-v", "--verbose", action="store_true", help="print each step")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    report: Callable[[str], None] = (lambda line: print(line, flush=True)) if options.verbose else lambda _line: None
    with tempfile.TemporaryDirectory(prefix="leafd-chaos-") as directory:
        leafd = Leafd(Path(directory))
        chaos = None
        try:
            chaos = Chaos(leafd, options.seed, report)
            chaos.run(options.seconds)
        except BaseException:
            if chaos is not None:
                print("\n".join(["the last steps:", *chaos.decisions[-8:], leafd.output.read_text()[-4000:]]))
            raise
        finally:
            if chaos is not None:
                print(", ".join(f"{name} {count}" for name, count in chaos.figures.items()), flush=True)
            leafd.close()


if __name__ == "__main__":
    main()
