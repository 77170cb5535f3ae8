"""`make bench`: the figures that we promise, beside Debian's crun and runc, in one run.

Rules: one warm-up that does not count; the rivals take turns, so that a machine whose speed drifts drifts for all; what
is printed are medians, and ratios of medians. A bar that is missed makes the exit status 1.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from leafd.client import Client
from leafd.describe import describe
from leafd.session import execute
from leafshim.cgroup.hierarchy import find_mount
from tests.bench.peers import Peers
from tests.harness.leafd import Leafd

ROUNDS = 40
FLEET = 100
IDLE_SECONDS = 10

failures: list[str] = []


def row(name: str, value: str, note: str = "") -> None:
    """One line of the report."""
    print(f"  {name:<44} {value:>12}  {note}", flush=True)


def bar(name: str, met: bool, text: str) -> str:
    """The words for a bar, and a mark against us where it is missed."""
    if not met:
        failures.append(name)
    return f"bar: {text}{'' if met else '  MISSED'}"


def milliseconds(samples: list[int]) -> float:
    """The median of nanoseconds."""
    return statistics.median(samples) / 1e6


def in_turns(rounds: int, rivals: dict[str, Callable[[], int]]) -> dict[str, list[int]]:
    """One warm-up each, then `rounds` samples each, one rival after the other in every round."""
    samples: dict[str, list[int]] = {name: [] for name in rivals}
    for number in range(rounds + 1):
        for name, measure in rivals.items():
            elapsed = measure()
            if number:
                samples[name].append(elapsed)
    return samples


def compare(title: str, samples: dict[str, list[int]], promised: bool) -> None:
    """Our median, then each rival's with the ratio."""
    ours = milliseconds(samples["leafd"])
    row(title, f"{ours:.1f} ms", f"p90 {statistics.quantiles(samples['leafd'], n=10)[-1] / 1e6:.1f} ms")
    for name in ("crun", "runc"):
        theirs = milliseconds(samples[name])
        note = f"leafd / {name} = {ours / theirs:.2f}"
        if name == "crun" and promised:
            note = f"{note}   {bar(title, ours <= theirs, 'at most 1.00')}"
        row(f"  {name}", f"{theirs:.1f} ms", note)


def launches(client: Client, document: dict[str, object], peers: Peers) -> None:
    """A container on the host's own files, up to init executing `sleep`."""
    numbers = iter(range(10_000))

    def ours() -> int:
        name = f"launch-{next(numbers)}"
        began = time.perf_counter_ns()
        client.create(name, document, start=True)
        elapsed = time.perf_counter_ns() - began
        client.remove(name, force=True)
        return elapsed

    rivals = {"leafd": ours, "crun": lambda: peers.measure("launch", "crun")}
    rivals["runc"] = lambda: peers.measure("launch", "runc")
    compare("launch to running init", in_turns(ROUNDS, rivals), promised=True)


def execs(client: Client, socket: str, document: dict[str, object], peers: Peers) -> None:
    """`true` in a running container, from the call to its exit status."""
    client.create("execs", document, start=True)

    def ours() -> int:
        began = time.perf_counter_ns()
        with execute(socket, "execs", ["true"]) as session:
            for _ in session:
                pass
        return time.perf_counter_ns() - began

    rivals = {"leafd": ours, "crun": lambda: peers.measure("exec", "crun")}
    rivals["runc"] = lambda: peers.measure("exec", "runc")
    compare("exec of true", in_turns(ROUNDS // 2, rivals), promised=False)
    client.remove("execs", force=True)


def memory(pid: int) -> tuple[int, int]:
    """(PSS, private) of a process in bytes, from smaps_rollup (proc_pid_smaps(5))."""
    figures: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value, *_ = line.split()
        figures[key] = int(value) * 1024
    return figures["Pss:"], figures["Private_Clean:"] + figures["Private_Dirty:"]


def switches(pid: int) -> int:
    """Context switches of a process since it began."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)


def fleet(leafd: Leafd, document: dict[str, object]) -> None:
    """A hundred idle containers: what their shims cost, and how fast a new supervisor has them again."""
    with leafd.client as client:
        began = time.perf_counter()
        for number in range(FLEET):
            client.create(f"fleet-{number}", document, start=True)
        row(f"launch of {FLEET}, one after the other", f"{time.perf_counter() - began:.2f} s")
        before = {container.id: container for container in client.list()}
    shims = [container.shim_pid for container in before.values()]
    figures = [memory(pid) for pid in shims]
    pss = statistics.median(figure[0] for figure in figures) / 2**20
    row(f"PSS of a shim, {FLEET} idle", f"{pss:.2f} MiB", bar("PSS", pss <= 1.5, "at most 1.50"))
    row("  private", f"{statistics.median(figure[1] for figure in figures) / 2**20:.2f} MiB")

    counts = [switches(pid) for pid in shims]
    time.sleep(IDLE_SECONDS)
    woken = sum(after - count for after, count in zip((switches(pid) for pid in shims), counts, strict=True))
    row(f"wake-ups of {FLEET} shims in {IDLE_SECONDS} idle s", str(woken), bar("wake-ups", woken == 0, "none"))

    recoveries = []
    for _ in range(5):
        leafd.kill()
        began_ns = time.perf_counter_ns()
        leafd.start()
        with leafd.client as client:
            after = {container.id: container for container in client.list()}
        recoveries.append(time.perf_counter_ns() - began_ns)
        same = all(
            after[name].state == "RUNNING" and after[name].pid == was.pid and after[name].shim_pid == was.shim_pid
            for name, was in before.items()
        )
        if not same:
            failures.append("recovery lost a container")
    recovery = milliseconds(recoveries) / 1000
    row(f"recovery of {FLEET}, from exec of leafd", f"{recovery:.2f} s", bar("recovery", recovery < 1, "below 1.00"))
    with leafd.client as client:
        for name in before:
            client.remove(name, force=True)


def portable(document: dict[str, object]) -> dict[str, object]:
    """The same container for the others; a device that we open to it is no difference worth its words."""
    return {**document, "linux": {**document["linux"], "resources": {}}}  # type: ignore[dict-item]


@contextmanager
def installation() -> Iterator[tuple[Leafd, Path]]:
    """A leafd of our own, and a directory that goes with it."""
    with tempfile.TemporaryDirectory(prefix="leafd-bench-") as directory:
        home = Path(directory) / "leafd"
        home.mkdir()
        leafd = Leafd(home)
        try:
            leafd.start()
            yield leafd, Path(directory)
        finally:
            leafd.close()


def main() -> int:
    """Run all; the number of missed bars decides the exit status."""
    release = os.uname().release
    print(f"leafd beside crun and runc: Linux {release}, {os.cpu_count()} CPUs, medians of {ROUNDS} rounds\n")
    document = describe(["sleep", "1000"])
    with installation() as (leafd, directory):
        peers = Peers(directory / "peers", portable(document), find_mount())
        try:
            with leafd.client as client:
                launches(client, document, peers)
                execs(client, str(leafd.socket), document, peers)
        finally:
            peers.close()
        fleet(leafd, document)
    print(f"\n{'every bar is met' if not failures else 'missed: ' + ', '.join(failures)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
