"""`make oom`: containers that run out of memory by the hundred, and what leafd tells of each.

    python -m tests.bench.oom [--containers 100] [--rounds 20]

In each round all containers are started, one after the other, and each eats memory until it is killed: two of three by
a limit of their own, the others, nested, by their parent's, half of them sharing its cgroups. Each must be told as
`oom`, once, with the cgroup whose limit it was, before its exit; and no parent may be marked or ended. A miss makes the
exit status 1.

It needs a host with the memory controller, as tests/vm/run.py boots it.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from leafd.client import Client, CreateOptions
from leafd.describe import Document, describe
from leafshim.api.containers import Event
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import LeafError
from tests.harness.leafd import Leafd

OWN_LIMIT = 8 << 20
PARENTS_LIMIT = 24 << 20
CHILDREN = 3  # of each parent
EATER = ["tail", "/dev/zero"]  # which looks for the last line, and keeps all that may belong to it


class Report(NamedTuple):
    """`misses`: in words. `scopes`: how often each was told. `seconds`: in all."""

    kills: int
    misses: list[str]
    scopes: Counter[str]
    seconds: float


def run(leafd: Leafd, containers: int, rounds: int) -> Report:
    """Make them run out of memory, `rounds` times each."""
    began = time.monotonic()
    parents = [f"parent{number}" for number in range(-(-containers // (3 * CHILDREN)))]
    ids = [
        f"{parents[number // (3 * CHILDREN)]}/eater{number}" if number % 3 == 2 else f"eater{number}"
        for number in range(containers)
    ]
    misses: list[str] = []
    scopes: Counter[str] = Counter()
    with leafd.client as client:
        for parent in parents:
            client.create(parent, described(["sleep", "100000"], PARENTS_LIMIT), start=True)
        for number in range(rounds):
            since = last_event(client)
            started = [container_id for container_id in ids if _start(client, container_id, misses)]
            for container_id in started:
                client.wait(container_id, timeout=600)
            told = list(client.events(since))
            for container_id in started:
                owner = leafd.cgroup_of(container_id.rpartition("/")[0] or container_id)
                of_it = [event for event in told if event.id == container_id]
                scopes.update(event.limitation.scope for event in of_it if event.limitation is not None)
                misses += [f"round {number}: {container_id}: {miss}" for miss in judge(of_it, owner)]
                client.remove(container_id)
        for parent in parents:
            shown = client.inspect(parent)
            if shown.state != "RUNNING":
                misses.append(f"{parent} is {shown.state}: {shown.exit}")
            if any(event.type == "oom" for event in client.events(container_id=parent)):
                misses.append(f"{parent} was told to be out of memory")
    return Report(containers * rounds, misses, scopes, time.monotonic() - began)


def judge(told: list[Event], owner: Cgroup) -> list[str]:
    """What is wrong with the events of one container that was killed by the limit of `owner`."""
    kinds = [event.type for event in told]
    if kinds != ["create", "start", "oom", "exit"]:
        return [f"told {kinds}"]
    limitation, end = told[2].limitation, told[3].exit
    if limitation is None or end is None:
        return ["told without figures"]
    misses = []
    if limitation.cgroup != owner.path:
        misses.append(f"by the limit of {limitation.scope} {limitation.cgroup}, not {owner.path}")
    if end.cause != "oom" or end.limitation != limitation:
        misses.append(f"ended by {end.cause}: {end.message}")
    return misses


def described(command: list[str], limit: int | None) -> Document:
    """A container that is killed before anything else of the host, should it come to that."""
    resources: Document = {"memory": {"limit": limit}} if limit is not None else {}
    document = describe(command, resources=resources)
    process = document["process"]
    assert isinstance(process, dict)
    process["oomScoreAdj"] = 500 if command is EATER else 0
    return document


def last_event(client: Client) -> int:
    """The number of the journal's newest event."""
    return max((event.sequence for event in client.events()), default=0)


def _start(client: Client, container_id: str, misses: list[str]) -> bool:
    parent = container_id.rpartition("/")[0]
    options: CreateOptions = {"start": True}
    if parent:  # who is nested side by side shares or does not, all alike
        options["share_cgroups"] = parent[-1] in "02468"
    try:
        client.create(container_id, described(EATER, None if parent else OWN_LIMIT), **options)
    except LeafError as error:
        misses.append(f"{container_id} was not started: {error}")
        return False
    return True


def main() -> int:
    """Run it with a leafd of its own, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--containers", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        leafd = Leafd(Path(directory))
        try:
            leafd.start(*leafd.patient())
            report = run(leafd, options.containers, options.rounds)
        finally:
            leafd.close()
    print(f"{report.kills} OOM kills in {report.seconds:.0f} s: {len(report.misses)} missed or misreported")
    print(f"whose limit: {dict(report.scopes)}")
    for miss in report.misses:
        print(f"  {miss}")
    return 1 if report.misses else 0


if __name__ == "__main__":
    sys.exit(main())
