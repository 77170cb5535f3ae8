"""What to do with a container, from what can be seen of it: a pure decision, and the gathering of its facts.

The same decision serves a supervisor that has just started, a shim whose connection broke, and `leafctl recover`.

Rules:
1. Not answering in time is not dead: SILENT, and nothing is done to it.
2. GONE is proven: the process of its pid, start time and boot is no more, or, where its pid was never learnt, nobody
   listens on its socket. (That somebody listens proves nothing: the nursery keeps a copy of the listening socket.)
3. An interrupted launch is undone: nobody was told that it succeeded. It is finished if the effect that it was stopped
   before is the last one, Start.
4. A container whose shim died lives on, if there is life in its cgroup.
5. A cgroup of ours that no directory belongs to is an orphan.
"""

import logging
import os
from enum import Enum, auto
from time import time_ns
from typing import NamedTuple

from leafd.launch import Environment
from leafd.shims import ShimClient, is_gone, is_stopped
from leafd.store import Record
from leafd.unattended import Unattended, choose_init, open_proven
from leafshim import exits, record, state
from leafshim.api.shim import Exit, InfoResponse
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.layout import owner_of
from leafshim.errors import DamagedRecord, KernelError, LeafError, NotFound, Unavailable
from leafshim.exits import unpack
from leafshim.kernel import pidfd

log = logging.getLogger("leafd")


class Shim(Enum):
    """What became of a shim."""

    ANSWERS = auto()
    SILENT = auto()
    GONE = auto()


class Facts(NamedTuple):
    """What was seen of one container. The last three are looked at only when the shim does not answer."""

    state: str | None
    """The record's; None: there is no record and no directory."""
    shim: Shim
    init: str = ""
    """The state that an answering shim tells."""
    start: bool = False
    """Its launch goes on to RUNNING, and was not answered before."""
    same_boot: bool = True
    exit: bool = False
    """There is an exit record."""
    cgroup: bool = False
    """Its cgroup exists."""
    populated: bool = False
    """There are processes in it."""


class Action(Enum):
    """What follows from the facts."""

    RECONNECT = auto()
    """Take its events up again; where the record says RUNNING and init still waits, Start it."""
    ADOPT = auto()
    """It runs without a shim: watch its init, and end it through its cgroup."""
    RECORD_EXIT = auto()
    """It ended unseen: take the exit from whoever knows it, and remove what is left."""
    FINISH_DESTROY = auto()
    """Its ending was under way: go on with it."""
    UNDO_LAUNCH = auto()
    """Its launch was under way: take back what was made."""
    KILL_ORPHAN = auto()
    """Nobody owns it: kill, wait, remove."""
    WAIT = auto()
    """Its shim is silent: show it as UNKNOWN and look again later."""
    LEAVE_ALONE = auto()
    """Nothing is to be done."""


def decide(facts: Facts) -> Action:
    """The one thing to do. Pure: its test is a truth table."""
    if facts.state is not None and not facts.same_boot:
        return Action.LEAVE_ALONE if facts.state == state.STOPPED else Action.RECORD_EXIT
    if facts.shim is Shim.SILENT:
        return Action.WAIT
    if facts.shim is Shim.ANSWERS:
        return _with_shim(facts)
    return _without_shim(facts)


def _with_shim(facts: Facts) -> Action:
    if facts.state in (state.DESTROYING, state.STOPPED):
        return Action.FINISH_DESTROY
    if facts.init in (state.PROVISIONING, state.PREPARING):
        return Action.UNDO_LAUNCH
    if facts.init == state.ISOLATING and facts.start and facts.state in (state.PREPARING, state.ISOLATING):
        return Action.UNDO_LAUNCH
    return Action.RECONNECT


def _without_shim(facts: Facts) -> Action:
    match facts.state:
        case None:
            return Action.KILL_ORPHAN
        case state.STOPPED:
            return Action.FINISH_DESTROY if facts.cgroup else Action.LEAVE_ALONE
        case state.DESTROYING:
            return Action.FINISH_DESTROY
        case state.RUNNING if facts.populated and not facts.exit:
            return Action.ADOPT
        case state.RUNNING:
            return Action.RECORD_EXIT
        case state.ISOLATING if not facts.start or facts.exit:
            return Action.RECORD_EXIT
        case _:
            return Action.UNDO_LAUNCH


class Sight(NamedTuple):
    """What was seen, and through what: a client, and its first answer where the shim was asked."""

    facts: Facts
    shim: ShimClient | None = None
    info: InfoResponse | None = None
    behind: bool = True
    """There may be events that the journal lacks."""


async def look(entry: Record, environment: Environment, deadline: float) -> Sight:
    """The facts of one container. Takes `deadline` seconds at most. The client belongs to the caller."""
    _find_successor(entry, environment)
    facts = Facts(entry.state, Shim.GONE, start=entry.start, same_boot=entry.boot_id == environment.boot_id)
    if not facts.same_boot:
        return Sight(facts)
    if is_stopped(entry.shim_pid) and not is_gone(entry.shim_pid, entry.shim_start_time):
        return Sight(facts._replace(shim=Shim.SILENT))
    if not is_gone(entry.shim_pid, entry.shim_start_time):
        client = ShimClient(entry.id, environment.store.bundle(entry.id).socket, environment.config)
        sight = _asleep(entry, environment, facts, client)
        if sight is not None:
            return sight
        try:
            await client.hold()
            info = await client.info(deadline)
            if not entry.shim_pid:  # neither record nor checkpoint knew; who answers at its socket is its shim
                entry.shim_pid, entry.shim_start_time = info.shim_pid, pidfd.start_time(info.shim_pid)
            return Sight(facts._replace(shim=Shim.ANSWERS, init=info.state), client, info)
        except LeafError as error:
            client.close()
            if not isinstance(error, Unavailable) or (
                entry.shim_pid and not is_gone(entry.shim_pid, entry.shim_start_time)
            ):
                return Sight(facts._replace(shim=Shim.SILENT))
    if entry.state == state.ISOLATING:
        _catch_up(entry, environment)
        facts = facts._replace(state=entry.state)
    cgroup = Cgroup(entry.cgroup)
    exists = cgroup.exists()
    ended = os.path.exists(environment.exit_path(entry.id))
    return Sight(facts._replace(exit=ended, cgroup=exists, populated=exists and cgroup.populated()))


def _asleep(entry: Record, environment: Environment, facts: Facts, client: ShimClient) -> Sight | None:
    """What is seen of a shim that runs its container and has nothing to tell, without waking it.

    Its checkpoint says all that it would say: that it is in charge, that init runs, and the number of its last event.
    """
    known = _checkpoint(entry, environment)
    in_charge = (known.get("shim_pid"), known.get("shim_start_time")) == (entry.shim_pid, entry.shim_start_time)
    pid, start_time = known.get("pid"), known.get("pid_start_time")
    if entry.state != state.RUNNING or known.get("state") != state.RUNNING or not in_charge:
        return None
    if not isinstance(pid, int) or not isinstance(start_time, int) or pid != entry.pid or is_gone(pid, start_time):
        return None
    behind = known.get("sequence") != environment.journal.told(entry.id)
    facts = facts._replace(shim=Shim.ANSWERS, init=state.RUNNING)
    return Sight(facts, client, behind=behind)


def _find_successor(entry: Record, environment: Environment) -> None:
    """The shim that took over, where a supervisor was killed before it could note that: the checkpoint is its own."""
    known = _checkpoint(entry, environment)
    pid, start_time = known.get("shim_pid"), known.get("shim_start_time")
    if known.get("boot_id") != environment.boot_id or not isinstance(pid, int) or not isinstance(start_time, int):
        return
    former_is_gone = entry.shim_pid != 0 and is_gone(entry.shim_pid, entry.shim_start_time)
    if former_is_gone and pid != entry.shim_pid and not is_gone(pid, start_time):
        entry.shim_pid, entry.shim_start_time = pid, start_time


def _catch_up(entry: Record, environment: Environment) -> None:
    """Take from the shim's checkpoint that it has started: a launch in one call is answered before the record says
    so."""
    known = _checkpoint(entry, environment)
    in_charge = (known.get("shim_pid"), known.get("shim_start_time")) == (entry.shim_pid, entry.shim_start_time)
    pid, started_at = known.get("pid"), known.get("started_at")
    if in_charge and known.get("state") in (state.RUNNING, state.DESTROYING, state.STOPPED):
        entry.state = state.RUNNING
        entry.pid = pid if isinstance(pid, int) else 0
        entry.started_at = started_at if isinstance(started_at, int) else 0


def check_place(entry: Record, environment: Environment) -> None:
    """That a record found on disk names a cgroup of ours: one below a cgroup that this ROOT has marked. What is there
    will be killed one day, so another installation's record is DamagedRecord, and moved aside."""
    path = entry.cgroup
    while path.startswith(f"{environment.layout.mount}/"):
        if owner_of(path) == environment.config.root:
            return
        path = os.path.dirname(path)
    if os.path.exists(entry.cgroup):
        record.quarantine(environment.store.bundle(entry.id).record)
        raise DamagedRecord(environment.store.bundle(entry.id).record, f"{entry.cgroup} is no cgroup of this leafd's")


def rebuild(container_id: str, environment: Environment) -> Record:
    """A record in place of one that is damaged or missing: by the shim's checkpoint, as far as that goes.

    Without a checkpoint it is that of a launch in its beginning, so that nothing but an answering shim keeps it alive.
    """
    entry = Record(container_id, environment.boot_id, environment.layout.container(container_id), state.PREPARING)
    known = _checkpoint(entry, environment)
    for name in (
        "boot_id",
        "state",
        "created_at",
        "started_at",
        "shim_pid",
        "shim_start_time",
        "pid",
        "sequence",
        "shared_cgroup",
    ):
        if type(known.get(name)) is type(getattr(entry, name)):
            setattr(entry, name, known[name])
    return entry


async def take_over(entry: Record, environment: Environment, init: int) -> Unattended:
    """The means to watch and to end a container without a shim.

    `init`: a pidfd that the caller held, which goes with it; -1: then the one that the nursery kept, else one by proof.
    """
    if init < 0 and entry.pid:
        try:
            init = choose_init(await environment.nursery.take(entry.id))
        except LeafError as error:
            log.warning("%s: %s", entry.id, error)
    return Unattended(entry.id, entry.cgroup, init if init >= 0 else open_init(entry, environment))


def open_init(entry: Record, environment: Environment) -> int:
    """A pidfd of init, proven by what its shim noted of it; -1 where that cannot be."""
    known = _checkpoint(entry, environment)
    started = known.get("pid_start_time")
    if known.get("boot_id") == environment.boot_id and known.get("pid") == entry.pid and isinstance(started, int):
        return open_proven(entry.pid, started)
    return -1


def is_frozen(entry: Record) -> bool:
    """Whether it is paused in its own right: a shim that sleeps is not asked, and the journal has the event already."""
    try:
        return Cgroup(entry.cgroup).read("cgroup.freeze").strip() == "1"
    except LeafError:  # it ends just now
        return False


async def find_exit(entry: Record, environment: Environment, unattended: Unattended | None) -> tuple[Exit, int]:
    """How a container ended that no shim tells of, and the number of that event at its shim, 0 if none.

    By the exit record, else by the kernel, else unknown: it is never invented.
    """
    path = environment.exit_path(entry.id)
    try:
        value = record.read(path, exits.KIND)
        end, sequence = unpack(value.get("exit")), value.get("sequence")
        if end is not None:
            return end, sequence if isinstance(sequence, int) else 0
    except DamagedRecord as error:
        log.warning("%s", error)
        record.quarantine(path)
    except NotFound:
        pass
    status, requested = None, 0
    if unattended is not None:
        status = await unattended.wait_status(environment.config.call_deadline)
        requested = unattended.requested
    end = exits.describe(status, requested=requested)
    end.finished_at = time_ns()
    end.duration = end.finished_at - entry.started_at if entry.started_at else 0
    # Nobody may be able to tell it once more: from here on it is told as if its shim had recorded it, and once only.
    sequence = max(entry.sequence, environment.journal.told(entry.id)) + 1
    try:
        exits.write(
            path,
            entry.id,
            end,
            pid=entry.pid,
            created_at=entry.created_at,
            started_at=entry.started_at,
            sequence=sequence,
        )
    except KernelError as error:
        log.warning("%s: %s", entry.id, error)
        return end, 0
    return end, sequence


def _checkpoint(entry: Record, environment: Environment) -> dict[str, record.Value]:
    """The shim's own record; empty when there is none to be trusted. Another container's names processes that are none
    of ours to signal."""
    try:
        known = record.read(environment.store.bundle(entry.id).checkpoint, "checkpoint")
    except LeafError:
        return {}
    return known if known.get("id") == entry.id else {}
