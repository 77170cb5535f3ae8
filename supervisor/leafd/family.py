"""Who of the containers that were found again must not live on, and the end of all of them.

Rules:
1. A debug container does not outlive the supervisor that made it (Mesos's DestroyDebugContainerOnRecover). How it ended
   stays readable.
2. Nested containers do not outlive their parent. One whose parent has ended is ended; one whose parent nobody knows any
   more is removed too, as nobody else would.
3. `recover = "cleanup"` ends everything, the nursery and the spare shim too, and leaves what is to be read: exits and
   events.
"""

import logging
import os

from leafd.containers import Container, Table
from leafd.describe_nested import DEBUG
from leafd.launch import Environment
from leafd.orphans import reap
from leafd.removal import remove_cgroup
from leafd.unattended import signal_member
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import NotFound, StateError
from leafshim.state import STOPPED

log = logging.getLogger("leafd")

_SIGKILL = 9


async def end_left_behind(table: Table, found: list[Container]) -> bool:
    """End those of `found` that must not live on; whether there were any. What does not end is logged."""
    ending = [each for each in found if not each.life.settled.is_set() and _is_left_behind(table, each)]
    for failure in await table.end_all(ending):
        log.warning("%s", failure)
    return bool(ending)


def _is_left_behind(table: Table, container: Container) -> bool:
    entry = container.record
    above = entry.id.rpartition("/")[0]
    if not above:
        return False
    try:
        parent_ended = table.find(above).record.state == STOPPED
    except NotFound:
        entry.remove = parent_ended = True
    return parent_ended or entry.container_class == DEBUG


async def end_everything(environment: Environment, table: Table) -> None:
    """Leave nothing that runs. Raises StateError that names what does not end; all else has ended nevertheless."""
    failures = await table.end_all(table.all())
    await reap(environment, table)
    environment.spares.close()
    environment.nursery.close()
    layout = environment.layout
    for cgroup in (Cgroup(layout.agent_leaf), Cgroup(layout.shims)):
        for pid in cgroup.processes():
            if pid != os.getpid():
                signal_member(cgroup, pid, _SIGKILL)
    if os.getpid() not in Cgroup(layout.agent_leaf).processes():
        await remove_cgroup(os.path.dirname(layout.agent_leaf), environment.config.reap_deadline)
    failures += [f"{each}: its cgroup stays" for each in layout.containers()]
    if failures:
        raise StateError(f"not everything has ended: {'; '.join(failures)}")
