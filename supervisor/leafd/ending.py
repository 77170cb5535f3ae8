"""How one container's life ends: what is recorded, what is taken away, and what an earlier leafd had begun of it.

Rules:
1. The end is handled in one place and one order: journal, synced; nested containers, and none of them may be left;
   Acknowledge, Delete, Forget, Shutdown; STOPPED. Each step may be repeated, so a recovery goes through all of them
   again, and so does a step that failed.
2. What the shim or the kernel says of an exit wins over the record.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable
from time import time_ns
from typing import Protocol

from leafd import recovery
from leafd.launch import Environment, Launch
from leafd.removal import remove_cgroup
from leafd.shims import SIGKILL, ShimClient, kill_proven
from leafd.store import Record
from leafd.unattended import Unattended
from leafshim import exits
from leafshim.api import shim as api
from leafshim.crashes import crash
from leafshim.errors import LeafError
from leafshim.exits import unpack
from leafshim.state import DESTROYING, STOPPED, move

log = logging.getLogger("leafd")


class Family(Protocol):
    """What a container's life needs of the other containers."""

    async def end_nested(self, container_id: str, grace: float = 0.0) -> None:
        """End all that are nested in it. Raises StateError for those that do not end."""

    def forget(self, container_id: str) -> None:
        """Take it out of the table, with everything that it has on disk."""


class Ending:
    """What is known of one container now, and how it comes to its end."""

    def __init__(self, environment: Environment, family: Family, entry: Record) -> None:
        self.environment = environment
        self.family = family
        self.record = entry
        self.problem = ""
        """In words, when something is not as it should be."""
        self.paused = False
        self.settled = asyncio.Event()
        """STOPPED and not to be restarted, or forgotten."""
        self.shim: ShimClient | None = None
        self.unattended: Unattended | None = None
        self._info: api.InfoResponse | None = None
        self._init = -1
        """A pidfd of init, held for the exit status."""

    async def _finish(self, end: api.Exit) -> None:
        """Its exit is in the journal: make that safe, take away what is left, and be STOPPED."""
        environment, entry = self.environment, self.record
        if entry.state != DESTROYING:
            entry.state = move(entry.state, DESTROYING)
        entry.exit = exits.pack(end)
        environment.store.write(entry)
        crash("exit-recorded")
        await environment.journal.sync()
        crash("exit-synced")
        await self.family.end_nested(entry.id)
        crash("nested-ended")
        await self._take_away()
        entry.state = move(entry.state, STOPPED)
        environment.store.write(entry)
        crash("stopped")

    async def _take_away(self) -> None:
        """Whatever is left of its processes, cgroups and shim; what is gone already is as good.

        Raises what keeps the cgroups from going, once all else is gone: it is tried again.
        """
        environment, entry = self.environment, self.record
        if self.shim is not None:
            await quietly(entry.id, self.shim.collect(entry.sequence))
            await quietly(entry.id, self.shim.delete())
            crash("take-away-told")
        failure: LeafError | None = None
        try:
            await remove_cgroup(entry.cgroup, environment.config.reap_deadline)
        except LeafError as error:
            failure = error
        crash("take-away-removed")
        self._let_go_of_init()  # or the next nursery, should this one die now, would be given it to keep
        await quietly(entry.id, environment.nursery.forget(entry.id))
        if self.shim is not None:
            await quietly(entry.id, self.shim.shutdown())
        self._disconnect()
        kill_proven(entry.shim_pid, entry.shim_start_time)
        crash("take-away-ended")
        entry.shim_pid = entry.shim_start_time = entry.pid = 0
        self.paused = False
        if failure is not None:
            raise failure
        self.problem = ""

    async def _finish_destroy(self) -> None:
        """Go on with an ending that an earlier supervisor began."""
        end = unpack(self.record.exit)
        if self.record.state == STOPPED:
            await self._take_away()
        elif end is not None:
            await self._finish(end)
        elif self.shim is None:
            self.unattended = await self._take_over()
            await self._record_exit()
        else:  # it was asked to stop, and had its signal: who asked is gone, so nobody waits for its grace any more
            await self.family.end_nested(self.record.id)
            await quietly(self.record.id, self.shim.kill(SIGKILL, all_processes=True))

    async def _undo_launch(self) -> None:
        """Take back what an earlier supervisor was making."""
        launch = Launch(self.environment, self.record, self.shim)
        if self.record.restarts:
            await self._failed_restart(launch, "leafd was killed while it started it again")
            return
        self.problem = await quietly(self.record.id, launch.undo())
        self.shim = None
        self.family.forget(self.record.id)
        self.settled.set()

    async def _record_exit(self) -> None:
        """It has ended, and no shim tells how: take the exit from whoever knows it."""
        end, sequence = await recovery.find_exit(self.record, self.environment, self.unattended)
        self.environment.journal.append(
            "exit", self.record.id, pid=self.record.pid, end=end, timestamp=end.finished_at, shim_sequence=sequence
        )
        crash("recovery-exit-found")
        self.record.sequence = max(self.record.sequence, sequence)
        await self._finish(end)

    async def _take_over(self) -> Unattended:
        init, self._init = self._init, -1
        return await recovery.take_over(self.record, self.environment, init)

    async def _failed_restart(self, launch: Launch, why: str) -> None:
        """A restart that did not get to RUNNING counts as a run that ended at once."""
        entry = self.record
        await quietly(entry.id, launch.undo(keep_directory=True))
        self.shim = None
        end = api.Exit(cause="lost", finished_at=time_ns(), message=f"it could not be started again: {why}")
        self.environment.journal.append("exit", entry.id, end=end)
        await self._finish(end)

    def _disconnect(self) -> None:
        self._info = None  # what that shim said: nothing of it is true of the next, which a restart may bring
        if self.shim is not None:
            self.shim.close()
            self.shim = None
        if self.unattended is not None:
            self.unattended.close()
            self.unattended = None
        if self.record.state in (DESTROYING, STOPPED):
            self._let_go_of_init()

    def _hold_init(self) -> None:
        if self._init < 0:
            self._init = recovery.open_init(self.record, self.environment)

    def _let_go_of_init(self) -> None:
        if self._init >= 0:
            os.close(self._init)
            self._init = -1


async def quietly(container_id: str, attempt: Awaitable[object]) -> str:
    """Try, and log what went wrong; that in words, empty when all went well."""
    try:
        await attempt
    except LeafError as error:
        log.warning("%s: %s", container_id, error)
        return f"{error}"
    return ""
