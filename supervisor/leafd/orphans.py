"""What is ours and belongs to no container: cgroups, shims, exit records. It is removed, and said so in the journal.

Rules:
1. Ours is what lies below the cgroup that this supervisor has marked as its own (`claim.py`), or in its directories;
   a process is ours by its membership there, proven with its pidfd in hand.
2. What might belong to a container that is not known well enough is left alone: while one is being launched, or a
   silent one's shim is not known, no shim is an orphan.
3. An exit that nobody was told of is told before its record goes.
4. While an orphan is removed its name is taken. What does not die is named (processes, their state and wchan), and the
   removal goes on when it has died: the kernel tells.
"""

import asyncio
import logging
import os
from time import time_ns

from leafd.containers import Table
from leafd.launch import Environment
from leafd.removal import emptied, remove_cgroup
from leafd.shims import parent_of
from leafd.unattended import signal_member
from leafshim import exits, record
from leafshim.bundle import id_of
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.removal import Busy
from leafshim.crashes import crash
from leafshim.errors import DamagedRecord, LeafError
from leafshim.exits import unpack
from leafshim.state import PREPARING, PROVISIONING

log = logging.getLogger("leafd")

_SIGKILL = 9


async def reap(environment: Environment, table: Table) -> int:
    """Remove all orphans there are now; how many there were. What cannot be removed is logged."""
    _reap_exits(environment, table)
    found = orphan_cgroups(environment, table)
    table.reaping.update(found)
    await asyncio.gather(*(_reap_cgroup(environment, table, each) for each in found))
    return len(found) + _reap_shims(environment, table, environment.spares.pid)


def orphan_cgroups(environment: Environment, table: Table) -> list[str]:
    """The ids of cgroups of ours that no container has. Of nested ones the outermost: its removal takes all."""
    known = {each.record.id for each in table.all()}
    found: list[str] = []
    for each in environment.layout.containers():
        nested = any(each.startswith(f"{other}/") for other in found)
        if not (nested or each in known or each in table.reaping or any(one.startswith(f"{each}/") for one in known)):
            found.append(each)
    return found


async def _reap_cgroup(environment: Environment, table: Table, container_id: str) -> None:
    """Remove it, or have it removed once what does not die has died; until then its name is taken."""
    try:
        await _remove(environment, container_id)
    except Busy as busy:
        log.warning("orphan %s: %s", container_id, busy)
        environment.journal.append("orphan-stuck", message=f"{busy}")
        late = asyncio.create_task(_reap_late(environment, table, container_id))
        table.late.add(late)
        late.add_done_callback(table.late.discard)
        return
    except LeafError as error:
        log.warning("orphan %s: %s", container_id, error)
    table.reaping.discard(container_id)


async def _reap_late(environment: Environment, table: Table, container_id: str) -> None:
    try:
        while True:
            await emptied(Cgroup(environment.layout.container(container_id)))
            try:
                return await _remove(environment, container_id)
            except Busy as busy:  # somebody came since
                log.warning("orphan %s: %s", container_id, busy)
    except LeafError as error:
        log.warning("orphan %s: %s", container_id, error)
    finally:
        table.reaping.discard(container_id)


async def _remove(environment: Environment, container_id: str) -> None:
    path = environment.layout.container(container_id)
    holders = "; ".join(str(each) for each in Cgroup(path).holders())
    await remove_cgroup(path, environment.config.reap_deadline)
    crash("recovery-orphan-removed")
    environment.journal.append("orphan-reaped", message=f"cgroup {path}{f': {holders}' if holders else ''}")


def _reap_shims(environment: Environment, table: Table, spare: int) -> int:
    containers = [each.record for each in table.all()]
    silent = [each.record for each in table.all() if each.life.silent]
    if any(each.state in (PROVISIONING, PREPARING) for each in containers) or any(not each.shim_pid for each in silent):
        return 0
    cgroup = Cgroup(environment.layout.shims)
    reaped = 0
    shims = {each.shim_pid for each in containers} | {spare}
    for pid in set(cgroup.processes()) - shims:
        # A shim's worker is its child. One whose shim is dead ends by itself.
        if parent_of(pid) not in shims and signal_member(cgroup, pid, _SIGKILL):
            environment.journal.append("orphan-reaped", pid=pid, message=f"shim {pid}")
            reaped += 1
    return reaped


def _reap_exits(environment: Environment, table: Table) -> None:
    """Exit records of containers that are gone: a boot took them, or a supervisor was killed in a Remove."""
    known = {each.record.id for each in table.all()}
    directory = os.path.dirname(environment.exit_path("x"))
    for name in os.listdir(directory):
        container_id, path = id_of(name), os.path.join(directory, name)
        if container_id in known or name.endswith((".damaged", ".new")):
            continue
        try:
            _tell(environment, container_id, record.read(path, exits.KIND))
            os.unlink(path)
        except DamagedRecord as error:
            log.warning("%s", error)
            record.quarantine(path)
        except (LeafError, OSError) as error:
            log.warning("exit record %s: %s", name, error)


def _tell(environment: Environment, container_id: str, value: dict[str, record.Value]) -> None:
    end, sequence = unpack(value.get("exit")), value.get("sequence")
    if end is None or not isinstance(sequence, int) or value.get("id") != container_id:
        raise DamagedRecord(environment.exit_path(container_id), "not the exit of that container")
    environment.journal.append(
        "exit", container_id, end=end, timestamp=end.finished_at or time_ns(), shim_sequence=sequence
    )
