"""The containers, and what may be asked of one.

Rules:
1. What does not fit the state is refused, and nothing has changed.
2. Seeing a container is never a call to its shim: `describe` answers from memory, `probe` asks beforehand.
3. Ending one is signalling it and waiting for its life to be over (`life.py`); a stop ends its restart policy.
"""

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from itertools import groupby

from leafd.launch import Environment, Launch
from leafd.life import Life
from leafd.nesting import Parent
from leafd.recovery import Action
from leafd.removal import emptied
from leafd.shims import SIGKILL, ShimClient, is_stopped, kill_proven
from leafd.store import Record
from leafd.unattended import Unattended
from leafshim.api import containers as api
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.layout import LEAF, check_id
from leafshim.cgroup.removal import name_holders
from leafshim.crashes import crash
from leafshim.errors import (
    AlreadyExists,
    DeadlineExceeded,
    KernelError,
    LeafError,
    NotFound,
    StateError,
    Unavailable,
)
from leafshim.exits import unpack
from leafshim.state import DESTROYING, ISOLATING, PROVISIONING, RUNNING, STOPPED, move

log = logging.getLogger("leafd")

UNKNOWN = "UNKNOWN"
"""Shown in place of the last known state of a container whose shim does not answer. Nobody enters it."""


class Container:
    """One of the table. Everything that is known of it is in `life`."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self.environment = life.environment
        self._launching = asyncio.Lock()
        """Held during a launch, which an end has to wait for."""
        self._to_signal = 0
        """What asks it to end, as soon as those nested in it have."""

    @property
    def record(self) -> Record:
        """What was asked for, and how far it got."""
        return self.life.record

    async def launch(self, document: bytes) -> None:
        """Make it, up to RUNNING or ISOLATING as its record says. On failure all is undone, and it is forgotten."""
        launch = Launch(self.environment, self.record)
        async with self._launching:
            try:
                await launch.run(document, PROVISIONING, RUNNING if self.record.start else ISOLATING)
            except BaseException:
                # The caller may be gone (a cancelled task), what was made must go nevertheless.
                await asyncio.shield(self._undo(launch))
                raise
            self.life.begin(launch.shim)

    async def start(self) -> None:
        """Let init go. Raises StateError when it does not wait for that."""
        if self.record.state != ISOLATING:
            raise StateError(f"{self.record.id}: {self.record.state}: only what is ISOLATING can be started")
        launch = Launch(self.environment, self.record, self._connected())
        try:
            await launch.run(b"", RUNNING, RUNNING)
        except LeafError:
            await self._signal(SIGKILL)
            raise

    async def kill(self, signal: int, *, all_processes: bool) -> None:
        """Send a signal. Raises NotFound when there is no process to get it; but SIGKILL asks for an end, and to what
        has ended that has been done: it may be asked for again."""
        number = signal or SIGKILL
        try:
            await self._control().kill(number, all_processes=all_processes)
        except NotFound:
            if number != SIGKILL:
                raise

    async def pause(self) -> None:
        """Freeze it."""
        await self._control().pause()
        self.life.paused = True

    async def resume(self) -> None:
        """Thaw it."""
        await self._control().resume()
        self.life.paused = False

    async def stop(self, grace: float) -> None:
        """End it for good, first those nested in it: its stop signal, `grace` seconds, SIGKILL; returns when it is
        STOPPED.

        Raises DeadlineExceeded that names what does not die; StateError for nested ones that do not end, and then it is
        not signalled. May be repeated.
        """
        life, entry = self.life, self.record
        if life.settled.is_set():
            return
        if not entry.stopping:
            async with self._launching:
                if not life.settled.is_set():
                    await life.looked.wait()
                self._begin_to_end()
        await life.family.end_nested(entry.id, grace)
        await self._ask_to_end()
        await self._wait_or_kill(grace)

    async def _wait_or_kill(self, grace: float) -> None:
        life, config = self.life, self.environment.config
        if await life.settles(grace):
            return
        await self._signal(SIGKILL, all_processes=True)
        if await life.settles(config.call_deadline):
            return
        await self._end_by_force()

    async def _end_by_force(self) -> None:
        """Its shim did not do it in time. The kernel does, and a shim without processes that still says nothing is
        killed, too. But while a process does not die, its shim is not to blame."""
        life, entry, config = self.life, self.record, self.environment.config
        cgroup = Cgroup(entry.cgroup)
        try:
            if cgroup.exists():
                await asyncio.to_thread(cgroup.kill)
            empty = await emptied(cgroup, config.reap_deadline)
        except LeafError as error:
            log.warning("%s: %s", entry.id, error)
            empty = False
        if empty and not await life.settles(config.call_deadline):
            kill_proven(entry.shim_pid, entry.shim_start_time)
            life.nudge()
            await life.settles(config.delete_deadline)
        if life.settled.is_set():
            return
        held = name_holders(cgroup.holders())
        life.problem = f"does not end: held by {held}"
        raise DeadlineExceeded(f"{entry.id}: {life.problem}")

    def probe(self) -> None:
        """See whether its shim could answer, without waking it."""
        life = self.life
        if life.shim is None:
            return
        if is_stopped(self.record.shim_pid):
            life.action, life.problem = Action.WAIT, "its shim does not answer"
        elif life.silent:
            life.action, life.problem = Action.RECONNECT, ""

    def describe(self) -> api.Container:
        """What a client gets to see."""
        life, entry = self.life, self.record
        bundle = self.environment.store.bundle(entry.id)
        end = unpack(entry.exit)
        return api.Container(
            id=entry.id,
            state=UNKNOWN if life.silent and entry.state != STOPPED else entry.state,
            paused=life.paused,
            pid=entry.pid,
            shim_pid=entry.shim_pid,
            cgroup=entry.cgroup,
            leaf=f"{entry.cgroup}/{LEAF}",
            created_at=entry.created_at,
            started_at=entry.started_at,
            finished_at=end.finished_at if end else 0,
            exit=end,
            restarts=entry.restarts,
            labels=entry.labels,
            bundle=bundle.path,
            shim_socket=bundle.socket,
            log=bundle.log,
            terminal=entry.terminal,
            args=entry.args,
            restart=entry.restart,
            problem=life.problem,
            parent=entry.id.rpartition("/")[0],
            shared_cgroup=entry.shared_cgroup,
            container_class=entry.container_class,
        )

    def _begin_to_end(self) -> None:
        """End the restart policy, for a next supervisor too, and let nobody be nested in it any more."""
        entry = self.record
        if self.life.settled.is_set():  # its launch failed
            return
        entry.stopping = True
        if entry.state in (ISOLATING, RUNNING):
            self._to_signal = SIGKILL if entry.state == ISOLATING else entry.stop_signal
            entry.state = move(entry.state, DESTROYING)
        self.environment.store.write(entry)
        crash("stop-recorded")
        self.life.stopping.set()

    async def _ask_to_end(self) -> None:
        """Send the stop signal, once."""
        signal, self._to_signal = self._to_signal, 0
        if signal:
            await self._signal(signal)
            crash("stop-signalled")
            if self.life.paused:  # the signal waits for it already: it is the first thing that it gets to see
                await self._thaw()

    async def _signal(self, signal: int, *, all_processes: bool = False) -> None:
        """Signal it if that is possible; what ended meanwhile is as good."""
        try:
            await self._control().kill(signal, all_processes=all_processes)
        except LeafError as error:
            log.info("%s: signal %d: %s", self.record.id, signal, error)

    async def _thaw(self) -> None:
        try:
            await self.resume()
        except LeafError as error:
            log.warning("%s: %s", self.record.id, error)

    def _control(self) -> ShimClient | Unattended:
        """Its shim, or what takes its place. Raises NotFound when it has ended, Unavailable when its shim is silent."""
        if self.life.unattended is not None:
            return self.life.unattended
        return self._connected()

    def _connected(self) -> ShimClient:
        if self.life.shim is not None:
            return self.life.shim
        if self.record.state == STOPPED:
            raise NotFound(f"{self.record.id}: it has ended")
        raise Unavailable(f"{self.record.id}: {self.life.problem or 'its shim is not connected'}")

    async def _undo(self, launch: Launch) -> None:
        try:
            await launch.undo()
        except LeafError as error:
            log.warning("%s: undo of its launch: %s", self.record.id, error)
        self.life.settled.set()
        self.life.family.forget(self.record.id)


class Table:
    """All containers by id. Families are by id too: `web/db` is nested in `web`."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.reaping: set[str] = set()
        """Ids of orphans that are being removed."""
        self.late: set[asyncio.Task[None]] = set()
        """Removals of orphans that wait for a process that does not die."""
        self._containers: dict[str, Container] = {}

    def all(self) -> list[Container]:
        """All of them, by id."""
        return [self._containers[each] for each in sorted(self._containers)]

    def find(self, container_id: str) -> Container:
        """The container of that id. Raises NotFound."""
        try:
            return self._containers[container_id]
        except KeyError:
            raise NotFound(f"{container_id}: no such container") from None

    def add(self, entry: Record) -> Container:
        """A new container in the table. Raises AlreadyExists."""
        if entry.id in self._containers or entry.id in self.reaping:
            raise AlreadyExists(f"{entry.id}: a container of that name exists")
        return self.put(entry)

    def parent(self, container_id: str) -> Parent | None:
        """What a new container of that id is to be nested in, None for a top-level one.

        Raises InputError for what is no id, NotFound, and StateError for a parent that does not live.
        """
        above = check_id(container_id).rpartition("/")[0]
        if not above:
            return None
        around = self.find(above)
        if around.record.state not in (ISOLATING, RUNNING) or not around.record.pid:
            raise StateError(f"{container_id}: {above} is {around.record.state}")
        if around.life.paused:
            raise StateError(f"{container_id}: {above} is paused")
        beside = [
            each.record
            for each in self.nested(above)
            if each.record.id.rpartition("/")[0] == above and not each.life.settled.is_set()
        ]
        return Parent(around.record, self.environment.store.bundle(above), beside)

    def put(self, entry: Record) -> Container:
        """A container that was found: no questions asked."""
        container = Container(Life(self.environment, self, entry))
        self._containers[entry.id] = container
        return container

    def nested(self, container_id: str) -> Sequence[Container]:
        """Those below one, the deepest first."""
        below = [each for other, each in self._containers.items() if other.startswith(f"{container_id}/")]
        return sorted(below, key=_by_depth)

    async def end_nested(self, container_id: str, grace: float = 0.0) -> None:
        """End all that are nested in it. Raises StateError that says why of each that does not end; all others have
        ended nevertheless."""
        if failures := await self.end_all(self.nested(container_id), grace):
            raise StateError(f"{container_id}: what is nested in it does not end: {'; '.join(failures)}")

    async def end_all(self, containers: Iterable[Container], grace: float = 0.0) -> list[str]:
        """End these, the deepest first, those of one depth side by side; what does not end, in words."""
        failures: list[str] = []
        for _, level in groupby(sorted(containers, key=_by_depth), key=_by_depth):
            for outcome in await asyncio.gather(*(each.stop(grace) for each in level), return_exceptions=True):
                if isinstance(outcome, LeafError):
                    failures.append(str(outcome))
                elif outcome is not None:
                    raise outcome
        return failures

    async def remove(self, container: Container, *, force: bool) -> None:
        """Forget a container and all that are nested in it. Raises StateError for one that lives, without `force`."""
        entry = container.record
        if not container.life.settled.is_set():
            if not force:
                why = f" ({container.life.problem})" if container.life.problem else ""
                raise StateError(f"{entry.id}: {entry.state}{why}: stop it first, or use force")
            entry.remove = True  # checkpointed with the stop: a next supervisor goes on with the removal
            await container.stop(0)
        await self.end_nested(entry.id)
        self.forget(entry.id)

    def forget(self, container_id: str) -> None:
        """Take a container that has ended out of the table, and those nested in it, with all that they have on disk.

        Twice is as good. Raises KernelError.
        """
        for each in self.nested(container_id):
            if each.life.settled.is_set():
                self._forget(each.record.id)
        self._forget(container_id)

    def _forget(self, container_id: str) -> None:
        if container_id not in self._containers:
            return
        environment = self.environment
        # In this order: a supervisor killed in between finds a STOPPED container, and can be asked again.
        if environment.journal.told(container_id):
            environment.journal.append("removed", container_id)
        crash("remove-journalled")
        try:
            os.unlink(environment.exit_path(container_id))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise KernelError.of(error, "remove exit record") from error
        crash("remove-exit-gone")
        environment.store.discard(container_id)
        del self._containers[container_id]  # a disk that refused one of these leaves it there, to be asked again
        crash("removed")


def _by_depth(container: Container) -> int:
    """The deepest first."""
    return -container.record.id.count("/")
