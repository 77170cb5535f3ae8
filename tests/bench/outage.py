"""`make outage` and `make recovery`: a thousand containers, and no supervisor.

    python -m tests.bench.outage outage [--count 1000] [--seconds 600]
    python -m tests.bench.outage recovery [--count 1000]

outage: the containers end, one after the other, while no leafd runs for all that time. The next one must know of each
how it ended and when, and tell it once. Every tenth is killed, the others exit with a status of their own.

recovery: leafd is killed, the shim of one container stopped, and another leafd started. Within a second of its start it
must show all others RUNNING, with the pids that they had, and that one as UNKNOWN.

A miss makes the exit status 1.
"""

import argparse
import os
import select
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from leafd.client import Client
from leafd.describe import Document, describe
from leafshim.api.containers import Container
from tests.harness.leafd import Leafd

ROUNDS = 5
TOLERANCE = 1.0  # s; between an end, as we see it, and the time in its exit record
RECOVERY = 1.0  # s


def start(client: Client, count: int, orders: Path) -> dict[str, Container]:
    """Containers of one process each, which exits with the status that it reads from the fifo of its name."""
    mount: Document = {"destination": "/told", "type": "bind", "source": str(orders), "options": ["bind", "rw"]}
    made = {}
    began = time.monotonic()
    for number in range(count):
        name = f"c{number}"
        os.mkfifo(orders / name)
        document = describe(("sh", "-c", f"read status < /told/{name}; exit $status"), mounts=[mount])
        made[name] = client.create(name, document, start=True, overlay_size=1 << 20)
    print(f"{count} containers started in {time.monotonic() - began:.1f} s")
    return made


def end(made: dict[str, Container], orders: Path, seconds: float) -> dict[str, tuple[int, int, int]]:
    """End them, spread over that time: id → the status, and the times in ns between which it ended."""
    truth = {}
    began = time.monotonic()
    for number, (name, container) in enumerate(made.items()):
        time.sleep(max(0.0, began + number * seconds / len(made) - time.monotonic()))
        fd = os.pidfd_open(container.pid)
        before = time.time_ns()
        if number % 10 == 9:
            os.kill(container.pid, signal.SIGKILL)
            status = 128 + signal.SIGKILL
        else:
            status = number % 200
            (orders / name).write_text(f"{status}\n")
        assert select.select([fd], [], [], 60)[0], f"{name} does not end"
        os.close(fd)
        truth[name] = status, before, time.time_ns()
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    return truth


def outage(leafd: Leafd, count: int, seconds: float, orders: Path) -> list[str]:
    """What is wrong after it, in words."""
    with leafd.client as client:
        made = start(client, count, orders)
    leafd.kill()
    truth = end(made, orders, seconds)
    began = time.monotonic()
    leafd.start()
    misses: list[str] = []
    late = []
    with leafd.client as client:
        for name in made:
            client.wait(name, timeout=600)
        print(f"all {count} known {time.monotonic() - began:.2f} s after the start of leafd")
        told: dict[str, list[int | None]] = {}
        for event in client.events():
            if event.type == "exit":
                told.setdefault(event.id, []).append(event.exit.status if event.exit is not None else None)
        for container in client.list():
            status, before, after = truth[container.id]
            exit_ = container.exit
            if container.state != "STOPPED" or exit_ is None or exit_.status != status:
                misses.append(f"{container.id}: {container.state} {exit_}, not {status}")
                continue
            late.append((exit_.finished_at - before) / 1e9)
            if not before <= exit_.finished_at <= after + TOLERANCE * 1e9:
                misses.append(f"{container.id}: its time is {late[-1]:.3f} s off")
            if told.get(container.id) != [status]:
                misses.append(f"{container.id}: told {told.get(container.id)}")
    if late:
        print(f"recorded times: median {statistics.median(late) * 1e3:.1f} ms after the end, {max(late):.3f} s at most")
    if len(late) != count:
        misses.append(f"{count - len(late)} of {count} are missing")
    return misses


def recovery(leafd: Leafd, count: int, orders: Path) -> list[str]:
    """What is wrong after it, in words."""
    with leafd.client as client:
        made = start(client, count, orders)
    stopped = made["c0"]
    os.kill(stopped.shim_pid, signal.SIGSTOP)
    misses: list[str] = []
    times = []
    for _ in range(ROUNDS):
        leafd.kill()
        began = time.monotonic()
        leafd.start()
        with leafd.client as client:
            served = time.monotonic() - began
            found = {each.id: each for each in client.list()}
        times.append(time.monotonic() - began)
        print(f"served after {served:.2f} s, listed after {times[-1]:.2f} s")
        for name, was in made.items():
            wanted = ("UNKNOWN" if name == stopped.id else "RUNNING", was.pid, was.shim_pid)
            now = found[name]
            if (now.state, now.pid, now.shim_pid) != wanted:
                misses.append(f"{name}: {now.state} {now.pid} {now.shim_pid}, not {wanted}")
    os.kill(stopped.shim_pid, signal.SIGCONT)
    if statistics.median(times) > RECOVERY:
        misses.append(f"recovery took {statistics.median(times):.2f} s, and should take {RECOVERY:.2f} s at most")
    return misses


def main() -> int:
    """Run one of them with a leafd of its own, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("outage", "recovery"))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="leafd-bench-") as directory:
        home, orders = Path(directory) / "leafd", Path(directory) / "orders"
        home.mkdir()
        orders.mkdir()
        leafd = Leafd(home)
        try:
            leafd.start()
            if options.what == "outage":
                misses = outage(leafd, options.count, options.seconds, orders)
            else:
                misses = recovery(leafd, options.count, orders)
        finally:
            leafd.close()
    for miss in misses:
        print(f"  {miss}")
    print(f"{len(misses)} misses")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
