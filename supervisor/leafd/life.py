"""One container's life after its launch, in one task: what its shim tells, another shim, its restarts.

Rules:
1. Its end is handled in ending.py alone.
2. Whoever wants an end signals, and waits for `settled`; all who wait share it.
3. A connection that breaks is looked into as after a restart of leafd: `recovery.decide` says what follows.
4. What the shim says of a process wins over the record.
"""

import asyncio
import logging

from leafd import recovery, restarts
from leafd.adoption import adopt
from leafd.ending import Ending, Family, quietly
from leafd.launch import Environment, Launch
from leafd.recovery import Action, Shim
from leafd.shims import SIGKILL, ShimClient
from leafd.store import Record
from leafd.upgrade import upgrade
from leafshim import exits
from leafshim.api import shim as api
from leafshim.crashes import crash
from leafshim.errors import DeadlineExceeded, LeafError, PeerError, StateError, Unavailable
from leafshim.exits import unpack
from leafshim.state import ISOLATING, PREPARING, RUNNING, STOPPED

log = logging.getLogger("leafd")

_SECOND = 1_000_000_000
_FIRST_LOOK = 0.05
_LAST_LOOK = 5.0


class Life(Ending):
    """What is known of one container now, and the task that keeps it so."""

    def __init__(self, environment: Environment, family: Family, entry: Record) -> None:
        super().__init__(environment, family, entry)
        self.action: Action | None = None
        """What the last look at it led to; None: none was needed."""
        self.looked = asyncio.Event()
        """Recovery has looked at it, whatever it saw."""
        self.stopping = asyncio.Event()
        """Somebody asked for its end."""
        self._nudge = asyncio.Event()
        self._behind = True
        """Its shim may have events that the journal lacks."""
        self._upgrade: asyncio.Future[int] | None = None
        """Somebody wants another shim, and waits for the pid of the one before."""
        self._task: asyncio.Task[None] | None = None

    @property
    def silent(self) -> bool:
        """Its shim does not answer: nothing that is known of it is sure."""
        return self.action is Action.WAIT

    def begin(self, shim: ShimClient | None = None) -> None:
        """Start the task: with the shim of a launch, or with a look at what is there."""
        self.shim = shim
        if shim is not None:
            self.looked.set()
        if self.record.stopping:
            self.stopping.set()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def leave(self) -> None:
        """End the task and nothing else: leafd goes, the container stays."""
        if self._task is not None:
            self._task.cancel()
        self._disconnect()

    def nudge(self) -> None:
        """Look at it again now, if its shim is not connected."""
        self._nudge.set()

    def look_again(self) -> None:
        """Have `looked` say when a silent shim has been given another chance."""
        if self.silent and self.shim is None:
            self.looked.clear()
            self.nudge()

    async def keep(self) -> None:
        """Give a new nursery what the old one kept and we hold too: the pidfd of init."""
        if self._init >= 0:
            await quietly(self.record.id, self.environment.nursery.keep(self.record.id, {"init": self._init}))

    async def upgrade(self) -> int:
        """Have another shim, of the nursery's code, in charge; the pid of the one before. Done by the task, which alone
        changes shims. Raises StateError, and what `upgrade.upgrade` raises: then the former one is in charge."""
        if self.record.state != RUNNING or self.shim is None or self._upgrade is not None:
            why = self.problem or (
                "it is upgraded already" if self._upgrade is not None else "it has no shim to change"
            )
            raise StateError(f"{self.record.id}: {self.record.state}: {why}")
        wanted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._upgrade = wanted
        self.nudge()
        patience = 4 * self.environment.config.call_deadline
        settled = asyncio.ensure_future(self.settled.wait())
        try:
            await asyncio.wait((wanted, settled), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not wanted.done():
                raise DeadlineExceeded(f"{self.record.id}: it did not come to an upgrade; {self.record.state}")
            return wanted.result()
        finally:
            settled.cancel()
            wanted.cancel()
            self._upgrade = None

    async def settles(self, seconds: float) -> bool:
        """Whether it is over for good within that time."""
        try:
            await asyncio.wait_for(self.settled.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _run(self) -> None:
        pause = _FIRST_LOOK
        while True:
            try:
                while await self._attend() and await self._restart():
                    pause = _FIRST_LOOK
                break
            except LeafError as error:  # a full disk, a nursery that cannot be started: it may be better later
                self.problem = str(error)
                log.warning("%s: %s", self.record.id, error)
            except Exception as error:
                self.problem = f"a defect of leafd: {error}"
                log.exception("%s", self.record.id)
            self._disconnect()
            self.looked.set()
            await _first(self._nudge, pause)
            pause = min(2 * pause, _LAST_LOOK)
        forgotten = self.settled.is_set()
        self.settled.set()
        self.looked.set()
        if self.record.remove and not forgotten:
            self.family.forget(self.record.id)

    async def _attend(self) -> bool:
        """Until it is STOPPED; False: its launch was undone, and it is forgotten."""
        pause = _FIRST_LOOK
        while not self.settled.is_set():
            if self.shim is not None:
                await self._follow(self.shim)
                pause = _FIRST_LOOK
            elif self.unattended is not None:
                await self.unattended.ended()
                await self._record_exit()
            else:
                self._nudge.clear()
                await self._look()
                self.looked.set()
                if self.silent:
                    await _first(self._nudge, pause)
                    pause = min(2 * pause, _LAST_LOOK)
            if self.record.state == STOPPED and self.shim is None:
                return True
        return False

    async def _follow(self, shim: ShimClient) -> None:
        """Take its events whenever there are some, until it has ended, or its shim has."""
        journal, entry = self.environment.journal, self.record
        try:
            shim.watch(entry.shim_pid, entry.shim_start_time, self.nudge)
            self._hold_init()  # first of all: should shim and nursery die now, only this tells how init ended
            info, self._info = self._info, None
            if info is not None:
                self._absorb(info)
            while True:
                self._nudge.clear()
                if shim.gone:
                    raise Unavailable(f"{entry.id}: its shim is gone")
                if self._behind:
                    await shim.hold()
                    while events := await shim.collect(journal.told(entry.id)):
                        for event in events:
                            await self._take(event)
                            if entry.state == STOPPED:
                                return None
                    if info is not None and info.exit is not None:  # all of it is in the journal already
                        return await self._finish(info.exit)
                    shim.rest()
                self._behind = True  # whatever wakes us: it has something to tell
                await self._nudge.wait()
                if self._upgrade is not None and not self._upgrade.done():
                    return await self._change_shim(shim, self._upgrade)
        except PeerError as error:
            log.info("%s: %s", entry.id, error)
            self._disconnect()

    async def _change_shim(self, former: ShimClient, wanted: "asyncio.Future[int]") -> None:
        """Carry out an upgrade, for whoever waits for it."""
        pid = self.record.shim_pid
        try:
            self.shim = await upgrade(self.record, self.environment, former, self._init)
        except LeafError as error:
            if not wanted.done():
                wanted.set_exception(error)
            return
        former.close()
        self._behind = True
        self.environment.journal.append("upgraded", self.record.id, pid=self.record.shim_pid)
        self.environment.spares.prepare()
        if not wanted.done():
            wanted.set_result(pid)

    async def _take(self, event: api.Event) -> None:
        """One event of its shim: into the journal first; the next Collect says that the shim may forget it."""
        self.environment.journal.append(
            event.type,
            self.record.id,
            exec_id=event.exec_id,
            pid=event.pid,
            end=event.exit,
            timestamp=event.timestamp,
            shim_sequence=event.sequence,
            message=event.message,
            limitation=event.limitation,
        )
        crash("event-journalled")
        self.record.sequence = event.sequence
        match event.type:
            case "exit":
                await self._finish(event.exit or exits.describe(None))
            case "paused" | "resumed":
                self.paused = event.type == "paused"
            case "start":
                self.record.started_at = self.record.started_at or event.timestamp

    async def _look(self) -> None:
        """Gather the facts, decide, and carry it out."""
        entry = self.record
        sight = await recovery.look(entry, self.environment, self.environment.config.recovery_budget)
        self.action = recovery.decide(sight.facts)
        crash("recovery-looked")
        self.shim, self._info, self._behind = sight.shim, sight.info, sight.behind
        if sight.facts.shim is Shim.GONE and sight.facts.same_boot and entry.state in (ISOLATING, RUNNING):
            self.environment.journal.append("shim-lost", entry.id, pid=entry.shim_pid)
        match self.action:
            case Action.WAIT:
                self.problem = "its shim does not answer"
            case Action.RECONNECT:
                self.problem = ""
                self.paused = recovery.is_frozen(entry)
                if self.environment.nursery.started:  # with us: of what was there before it has nothing
                    self._hold_init()
                    await self.keep()
                if entry.state == RUNNING and sight.facts.init == ISOLATING and self.shim is not None:
                    await quietly(entry.id, self.shim.start())
            case Action.ADOPT:
                await self._adopt()
            case Action.RECORD_EXIT:
                if not sight.facts.same_boot:  # no pid of an earlier boot means anything
                    entry.shim_pid = entry.pid = 0
                self.unattended = await self._take_over()
                await self._record_exit()
            case Action.FINISH_DESTROY:
                await self._finish_destroy()
            case Action.UNDO_LAUNCH | Action.KILL_ORPHAN:
                await self._undo_launch()
            case Action.LEAVE_ALONE:
                pass

    async def _adopt(self) -> None:
        """Have another shim; where none can be had, watch it without one."""
        self.paused = recovery.is_frozen(self.record)
        try:
            self.shim, self._behind = await adopt(self.record, self.environment, self._init), True
        except LeafError as error:
            self.problem = f"its shim died, and no other can be had: {error}"
            log.warning("%s: %s", self.record.id, self.problem)
            self.unattended = await self._take_over()
        else:
            self.problem = ""
            self.environment.journal.append("adopted", self.record.id, pid=self.record.shim_pid)
            crash("adopted")
            self.environment.spares.prepare()

    def _next(self) -> restarts.Restart | None:
        entry, end = self.record, unpack(self.record.exit)
        return restarts.decide(
            entry.restart,
            status=end.status if end else None,
            stopped=entry.stopping,
            row=entry.row,
            ran_for=end.duration / _SECOND if end else 0.0,
            back_off=self.environment.config.back_off,
        )

    async def _restart(self) -> bool:
        """Launch it again, as its policy says; False: it stays STOPPED."""
        entry = self.record
        while (restart := self._next()) is not None:
            if await _first(self.stopping, restart.delay):
                break
            entry.restarts, entry.row, entry.boot_id = entry.restarts + 1, restart.row, self.environment.boot_id
            entry.exit, entry.started_at = None, 0
            launch = Launch(self.environment, entry)
            crash("restart-begun")
            try:
                await launch.run(b"", PREPARING, RUNNING)
            except LeafError as error:
                await self._failed_restart(launch, str(error))
                continue
            crash("restart-launched")
            self.shim, self._behind = launch.shim, True
            self.environment.journal.append("restarted", entry.id, pid=entry.pid)
            if self.stopping.is_set() and self.shim is not None:  # it had not been there to get the signal
                await quietly(entry.id, self.shim.kill(SIGKILL, all_processes=True))
            return True
        return False

    def _absorb(self, info: api.InfoResponse) -> None:
        """What the shim says is so."""
        entry = self.record
        entry.shim_pid, entry.pid, self.paused = info.shim_pid, info.pid, info.paused
        entry.started_at = entry.started_at or info.started_at
        if entry.state == PREPARING or (entry.state == ISOLATING and info.state == RUNNING):
            entry.state = ISOLATING if info.state == ISOLATING else RUNNING


async def _first(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event comes within that time."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
