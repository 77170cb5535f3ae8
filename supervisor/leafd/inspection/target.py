"""Which container to look at: its shim says it, or where that does not answer, its checkpoint."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from leafshim.api import debug, shim
from leafshim.bundle import Bundle
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.layout import LEAF
from leafshim.checkpoint import Checkpoint
from leafshim.errors import DeadlineExceeded, KernelError, LeafError, NotFound, Unavailable
from leafshim.kernel import pidfd
from leafshim.ttrpc.client import Client

PATIENCE = 2.0  # s, for the shim to answer


class Target(NamedTuple):
    """One container. `cgroup`: its non-leaf, "" for none; `pid`: of init, 0 once it has ended; `shim_pid`: 0 when that
    process is gone; `look`: what the shim told of itself, None with `silence`, the reason, where it did not."""

    id: str
    bundle: Bundle
    state: str
    pid: int
    cgroup: str
    shim_pid: int
    version: str
    exit: shim.Exit | None
    look: debug.LookResponse | None
    silence: str

    @property
    def leaf(self) -> Cgroup:
        """Where its processes are."""
        return Cgroup(os.path.join(self.cgroup, LEAF))

    def pids(self) -> list[int]:
        """Every process in the leaf and below it; none once it is gone."""
        found: list[int] = []
        if self.cgroup and self.leaf.exists():
            for cgroup in (self.leaf, *self.leaf.descendants()):
                try:
                    found.extend(cgroup.processes())
                except KernelError:  # gone meanwhile
                    continue
        return sorted(found)


@contextmanager
def find(root: str, container_id: str) -> Iterator[Target]:
    """The container of the leafd that has its `root` there, alive or not. The connection
    stays open for as long as it is used, or the shim's worker would be gone before anybody has looked at it.

    Raises NotFound; KernelError and what the shim answers to who may not ask.
    """
    bundle = Bundle.of(root, container_id)
    if not os.path.isdir(bundle.path):
        os.stat(root)
        raise NotFound(f"{container_id}: no such container")
    try:
        client = Client(bundle.socket, PATIENCE)
    except (Unavailable, DeadlineExceeded) as error:
        yield _noted(container_id, bundle, str(error))
        return
    with client:
        yield _ask(client, container_id, bundle)


def _ask(client: Client, container_id: str, bundle: Bundle) -> Target:
    try:
        info = client.call(shim.INFO, shim.InfoRequest(), timeout=PATIENCE)
        look, silence = _look(client)
    except DeadlineExceeded:
        return _noted(container_id, bundle, f"the shim does not answer within {PATIENCE:g} s")
    except Unavailable as error:
        return _noted(container_id, bundle, str(error))
    pid = 0 if info.exit is not None else info.pid
    return Target(info.id, bundle, info.state, pid, info.cgroup, info.shim_pid, info.version, info.exit, look, silence)


def _look(client: Client) -> tuple[debug.LookResponse | None, str]:
    try:
        return client.call(debug.LOOK, debug.LookRequest(), timeout=PATIENCE), ""
    except (DeadlineExceeded, Unavailable):
        raise
    except LeafError as error:  # a shim of an earlier release
        return None, str(error)


def _noted(container_id: str, bundle: Bundle, silence: str) -> Target:
    noted = Checkpoint.read(bundle.checkpoint)
    same_boot = noted.boot_id == pidfd.boot_id()
    pid = noted.pid if same_boot and _is(noted.pid, noted.pid_start_time) else 0
    shim_pid = noted.shim_pid if same_boot and _is(noted.shim_pid, noted.shim_start_time) else 0
    return Target(container_id, bundle, noted.state, pid, noted.cgroup, shim_pid, noted.version, None, None, silence)


def _is(pid: int, started: int) -> bool:
    """Whether that pid still is the process that began then."""
    try:
        return pid != 0 and pidfd.start_time(pid) == started
    except LeafError:
        return False
