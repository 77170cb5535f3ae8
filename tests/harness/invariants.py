"""What is true of an installation whenever nothing is under way, whoever was killed before.

Table, directories, checkpoints, cgroups, processes, sockets, mounts, exit records and what the nursery keeps say the
same: each container that runs has one living shim in charge, and whatever is ours belongs to a container.
"""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from leafd.client import Client
from leafd.session import connect
from leafshim.api import shim
from leafshim.api.containers import Container
from leafshim.api.nursery import Packet, Request, Survey
from leafshim.bundle import directory_name
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.layout import Layout
from leafshim.checkpoint import Checkpoint
from leafshim.errors import LeafError
from leafshim.kernel import fdpass
from leafshim.state import ISOLATING, RUNNING, STOPPED
from tests.harness.leafd import Leafd
from tests.harness.procfs import children

_PACKET = 64 << 10


def broken(leafd: Leafd, client: Client) -> list[str]:
    """Every invariant that does not hold, in words; what is still on its way to hold is among them."""
    containers = list(client.list())
    found = [each for container in containers for each in _of_one(leafd, container)]
    return [*found, *_nobodys(leafd, client, containers)]


def _of_one(leafd: Leafd, container: Container) -> Iterator[str]:
    name = container.id
    if container.problem or container.state not in (ISOLATING, RUNNING, STOPPED):
        yield f"{name} is {container.state}: {container.problem}"
    if container.state == STOPPED:
        if container.exit is None:
            yield f"{name} is STOPPED without an exit"
        return
    try:
        inside = {pid for each in Cgroup(container.cgroup).descendants() for pid in each.processes()}
        leaf = set(Cgroup(container.leaf).processes())
    except LeafError as error:
        yield f"{name}: {error}"
        return
    if container.pid not in leaf or inside != leaf:
        yield f"{name}: init {container.pid}, in its leaf {leaf}, in all below it {inside}"
    try:
        noted = Checkpoint.read(container.bundle + "/checkpoint")
        shim_client = connect(container.shim_socket)
        try:
            info = shim_client.call(shim.INFO, shim.InfoRequest())
        finally:
            shim_client.close()
    except LeafError as error:
        yield f"{name}: its shim: {error}"
        return
    said = (info.shim_pid, info.pid, info.state)
    if said != (container.shim_pid, container.pid, container.state):
        yield f"{name}: leafd says {(container.shim_pid, container.pid, container.state)}, its shim {said}"
    if (noted.shim_pid, noted.pid, noted.state) != said:
        yield f"{name}: its checkpoint says {(noted.shim_pid, noted.pid, noted.state)}, its shim {said}"


def _nobodys(leafd: Leafd, client: Client, containers: list[Container]) -> Iterator[str]:
    layout = Layout(os.path.dirname(leafd.cgroups_root), os.path.basename(leafd.cgroups_root))
    alive = {each.id for each in containers if each.state != STOPPED}
    names = {directory_name(each.id) for each in containers}
    ended = {directory_name(each.id) for each in containers if each.state == STOPPED}
    version = client.version()
    owned = {each.shim_pid for each in containers if each.shim_pid} | ({version.spare_pid} - {0})
    owned |= {child for pid in owned for child in _children(pid)}
    agents = {version.pid, version.nursery_pid, *_children(version.nursery_pid)}
    for what, there, allowed in (
        ("cgroups", set(layout.containers()), alive),
        ("directories", set(os.listdir(leafd.root / "containers")), names),
        ("trash", set(os.listdir(leafd.root / "trash")), set[str]()),
        ("exit records", set(os.listdir(leafd.state / "exits")), ended),
        ("shims", set(Cgroup(layout.shims).processes()), owned),
        ("agents", set(Cgroup(layout.agent_leaf).processes()), agents),
        ("kept by the nursery", _kept(leafd), alive),
    ):
        if strays := there - allowed:
            yield f"{what} that nobody owns: {strays}"
    if missing := (names - set(os.listdir(leafd.root / "containers"))) | (alive - set(layout.containers())):
        yield f"without directory or cgroup: {missing}"
    if f"{leafd.root}/" in Path("/proc/self/mountinfo").read_text():
        yield "a mount that nobody owns"


def _children(pid: int) -> set[int]:
    try:
        return children(pid)
    except OSError:
        return set()


def _kept(leafd: Leafd) -> set[str]:
    """The ids that the nursery keeps descriptors for."""
    line = fdpass.connect(str(leafd.root / "nursery.sock"), kind=socket.SOCK_SEQPACKET, timeout=60)
    with line:
        fdpass.send(line, Request(survey=Survey()).encode(), [])
        while True:
            packet = Packet.decode(fdpass.receive(line, _PACKET)[0])
            if packet.reply is not None:
                return {each.id for each in packet.reply.held}
