"""The launch of one container: steps as data, each with its undo.

    state           effect                              undo
    PROVISIONING    its directory and config.json       the directory goes
    PREPARING       a shim gets its order               the shim ends, by order or by force; Forget
    ISOLATING       cgroups and init, by Task.Create    everything in its cgroups killed, the cgroups removed
    RUNNING         init let go, by Task.Start          (that of ISOLATING)

Rules:
1. A state is checkpointed before its effect. So a record that says ISOLATING promises that nothing was started, and
   tells a recovery to look for cgroups, whether they were made or not.
2. Undo goes backwards from the state of the record, takes what may or may not be there, and may be repeated.
3. The directory is its own checkpoint: without a record in it there may be a shim that has its order, at the socket in
   the directory, and no other effect. A shim does nothing before it is called.
4. Nothing is waited for that the next step does not need; nothing in ROOT is synced.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from time import time_ns
from types import MappingProxyType
from typing import NamedTuple

from leafd.config import Config
from leafd.journal import Journal
from leafd.nursery import Nursery
from leafd.removal import remove_cgroup
from leafd.shims import ShimClient, is_gone, kill_proven
from leafd.spares import Spares
from leafd.store import Record, Store
from leafshim.api import shim, task
from leafshim.bundle import directory_name
from leafshim.cgroup.layout import Layout
from leafshim.crashes import crash
from leafshim.errors import AlreadyExists, KernelError, LeafError
from leafshim.kernel import fdpass
from leafshim.state import DESTROYING, ISOLATING, PREPARING, PROVISIONING, RUNNING, move

log = logging.getLogger("leafd")


class Environment(NamedTuple):
    """What every container's life needs of its supervisor."""

    config: Config
    boot_id: str
    layout: Layout
    store: Store
    journal: Journal
    nursery: Nursery
    spares: Spares

    def exit_path(self, container_id: str) -> str:
        """Where the shim puts the exit record."""
        return os.path.join(self.config.state, "exits", directory_name(container_id))


class Launch:
    """One container on its way up, or back down. `shim` is there once the shim was reached."""

    def __init__(self, environment: Environment, record: Record, shim_client: ShimClient | None = None) -> None:
        self.environment = environment
        self.record = record
        self.shim = shim_client
        self.bundle = environment.store.bundle(record.id)
        self.at_once = False
        """Create goes on to Start by itself: one call instead of two."""

    async def run(self, document: bytes, first: str, last: str) -> None:
        """Go through the steps from the state `first` to the state `last`; `document` becomes config.json.

        Raises what a step raises; what was made until then is for `undo`.
        """
        self.at_once = first in (PROVISIONING, PREPARING) and last == RUNNING
        try:
            for step in STEPS[_ORDER[first] : _ORDER[last] + 1]:
                if step.state != PROVISIONING:
                    self.record.state = move(self.record.state, step.state)
                crash(f"launch-{step.state}")
                await step.effect(self, document)
                crash(f"launched-{step.state}")
        finally:
            self.environment.spares.prepare()

    async def undo(self, *, keep_directory: bool = False) -> None:
        """Take back what may have been made. Raises what keeps a cgroup from going; the rest is undone nevertheless.

        The record on disk still says what to undo: a recovery goes on with an undo that was cut short.
        """
        reached = _ORDER.get(self.record.state, _ORDER[RUNNING])
        self.record.state = DESTROYING
        failure: LeafError | None = None
        for step in reversed(STEPS[1 if keep_directory else 0 : reached + 1]):
            crash(f"undo-{step.state}")
            try:
                await step.undo(self)
            except LeafError as error:
                failure = failure or error
        crash("undone")
        if failure is not None:
            raise failure

    def checkpoint(self) -> None:
        """Write the record."""
        self.environment.store.write(self.record)


async def _make_directory(launch: Launch, document: bytes) -> None:
    try:
        os.mkdir(launch.bundle.path, 0o700)
    except FileExistsError:
        raise AlreadyExists(f"{launch.record.id}: its directory exists already") from None
    except OSError as error:
        raise KernelError.of(error, "mkdir") from error


async def _remove_directory(launch: Launch) -> None:
    launch.environment.store.discard(launch.record.id)


async def _order_shim(launch: Launch, document: bytes) -> None:
    """Let a shim read and judge the description while we write the record. It is called on a connection that it gets
    with its order: that ends when the shim does."""
    environment, record, bundle = launch.environment, launch.record, launch.bundle
    try:
        if document:
            _write(bundle.config, document)
            os.mkdir(bundle.rootfs, 0o700)
        _unlink(environment.exit_path(record.id))  # an earlier run's, which the record and the journal have
    except OSError as error:
        raise KernelError.of(error, "write bundle") from error
    crash("launch-described")
    ours, theirs = socket.socketpair()
    with theirs, fdpass.listen(bundle.socket) as listener:
        try:
            given = [listener.fileno(), theirs.fileno()]
            record.shim_pid, record.shim_start_time = await give_order(record, environment, given)
        except BaseException:
            ours.close()
            raise
    crash("launch-ordered")
    launch.shim = ShimClient(record.id, bundle.socket, environment.config)
    await launch.shim.use(ours)


async def give_order(
    record: Record, environment: Environment, descriptors: list[int], kept: Mapping[str, int] = MappingProxyType({})
) -> tuple[int, int]:
    """(pid, start time) of the shim that took the container over; see `Spawned.order`. A spare that died meanwhile is
    replaced, once. Raises what a Spawn raises, KernelError."""
    for last_try in (False, True):
        spare = await environment.spares.take()
        try:
            spare.order(record.id, environment.store.bundle(record.id).path, descriptors, kept)
            return spare.pid, spare.start_time
        except KernelError:
            if last_try:
                raise
        finally:
            spare.close()
    raise AssertionError


async def _end_shim(launch: Launch) -> None:
    record = launch.record
    if launch.shim is not None:
        try:
            if _there(launch):
                await launch.shim.shutdown()
        except LeafError:
            pass  # then it is killed
        launch.shim.close()
        launch.shim = None
    kill_proven(record.shim_pid, record.shim_start_time)
    record.shim_pid = record.shim_start_time = 0
    await launch.environment.nursery.forget(record.id)


async def _create_task(launch: Launch, document: bytes) -> None:
    assert launch.shim is not None
    environment, record = launch.environment, launch.record
    launch.checkpoint()
    crash("launch-recorded")
    record.pid = await launch.shim.create(
        launch.bundle.path,
        _rootfs(record),
        terminal=record.terminal,
        stdin=record.stdin,
        options=shim.CreateOptions(
            exit_path=environment.exit_path(record.id),
            log_path=launch.bundle.log,
            timeout=record.timeout,
            first_sequence=record.sequence + 1,
            log_max_size=environment.config.log_size,
            start=launch.at_once,
            supervisor=environment.config.listen,
            isolation=shim.Isolation(controllers=list(environment.config.controllers)),
            shared_cgroup=record.shared_cgroup,
            parent_start_time=record.parent_start_time,
            policy=shim.Policy.decode(record.policy),
        ),
    )


def _there(launch: Launch) -> bool:
    """Whether it has a shim that could answer. The socket of one that died is listened on nevertheless: the nursery
    keeps it for the next."""
    return launch.shim is not None and not is_gone(launch.record.shim_pid, launch.record.shim_start_time)


async def _delete_task(launch: Launch) -> None:
    if launch.shim is not None and _there(launch):
        for attempt in (launch.shim.kill(9, all_processes=True), launch.shim.delete()):
            try:
                await attempt
            except LeafError:
                pass  # the cgroup decides
    await remove_cgroup(launch.record.cgroup, launch.environment.config.reap_deadline)


async def _start_task(launch: Launch, document: bytes) -> None:
    assert launch.shim is not None
    launch.record.started_at = time_ns()
    if launch.at_once:  # it has started: the shim's checkpoint says so, and until ours does, that counts
        asyncio.get_running_loop().call_soon(_note_running, launch)
        return
    launch.checkpoint()
    await launch.shim.start()


def _note_running(launch: Launch) -> None:
    try:
        launch.checkpoint()
    except LeafError as error:
        log.warning("%s: %s", launch.record.id, error)
    crash("launch-noted")


async def _nothing(launch: Launch) -> None:
    """Killing is part of what takes the cgroups away."""


class Step(NamedTuple):
    """`effect` gets the launch and config.json; `undo` takes back what `effect` made, all, some or nothing of it."""

    state: str
    effect: Callable[[Launch, bytes], Awaitable[None]]
    undo: Callable[[Launch], Awaitable[None]]


STEPS = (
    Step(PROVISIONING, _make_directory, _remove_directory),
    Step(PREPARING, _order_shim, _end_shim),
    Step(ISOLATING, _create_task, _delete_task),
    Step(RUNNING, _start_task, _nothing),
)

_ORDER = {step.state: number for number, step in enumerate(STEPS)}


def _rootfs(record: Record) -> list[task.Mount]:
    """What the shim is to mount as the root; empty: root.path of the description."""
    if not record.overlay_size:
        return []
    return [task.Mount(type="host-overlay", source="/", options=[f"size={record.overlay_size}"])]


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        while content:
            content = content[os.write(fd, content) :]
    finally:
        os.close(fd)
