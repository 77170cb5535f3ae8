"""The daemon: claim, recover, serve. It may be killed at any instant; no container notices.

Rules:
1. The socket listens as soon as the claim stands, so that clients wait instead of failing; it is served when recovery
   has looked at every container, or its budget is spent.
2. SIGTERM and SIGINT end leafd and nothing else. There is nothing to flush: what matters is on disk already.
3. Only root and the user that leafd runs as may connect.
4. SIGHUP reads the log level again (`reload.py`), and looks at everything again, as `leafctl recover` does.
5. With `recover = "cleanup"` only shims are listened to: everything is ended, and leafd with it.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Coroutine

from leafd.claim import Claim
from leafd.config import CLEANUP, Config, from_arguments
from leafd.containers import Container, Table
from leafd.control import Control, look_again, recovered
from leafd.family import end_everything, end_left_behind
from leafd.journal import Journal
from leafd.launch import Environment
from leafd.listening import Listener
from leafd.nursery import Nursery
from leafd.orphans import reap
from leafd.recovery import check_place, rebuild
from leafd.reload import reload_log_level, set_log_level
from leafd.service_manager import ServiceManager, beat
from leafd.spares import Spares
from leafd.store import Store
from leafshim.api import containers as api
from leafshim.api.nursery import Notice
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import DamagedRecord, KernelError, LeafError, NotFound
from leafshim.kernel import pidfd
from leafshim.ttrpc.aio import AsyncServer

log = logging.getLogger("leafd")

_BACKLOG = 1024


def main() -> None:
    """Run until a signal; exit status 0, or 1 with one line on standard error."""
    try:
        config = from_arguments()
        logging.basicConfig(format="leafd: %(message)s")
        set_log_level(config)
        asyncio.run(serve(config))
    except LeafError as error:
        print(f"leafd: {error}", file=sys.stderr)
        status = 1
    else:
        status = 0
    # Not sys.exit: it would wait for threads, which wait for processes to die that are killed already.
    sys.stderr.flush()
    os._exit(status)


async def serve(config: Config) -> None:
    """Claim, recover, and serve until a signal. Raises LeafError for what cannot be claimed."""
    claim = Claim(config)
    store = Store(config.root)
    store.prepare()
    journal = Journal.open(os.path.join(config.state, "events"), config.journal_size)
    for damage in journal.damage:
        log.warning("%s", damage)
    listener = Listener(config.listen, _BACKLOG, os.environ)
    stop = _signals()
    manager = ServiceManager(os.environ)
    heart = asyncio.create_task(beat(manager, config.watchdog))
    nursery = Nursery(os.path.join(config.root, "nursery.sock"), claim.layout.agent_leaf, config.call_deadline)
    spares = Spares(nursery, claim.layout.shims)
    environment = Environment(config, pidfd.boot_id(), claim.layout, store, journal, nursery, spares)
    table = Table(environment)
    tasks = set[asyncio.Task[None]]()
    nursery.on_notice = lambda notice: _shim_ended(table, notice)
    nursery.on_lost = lambda: tasks.add(asyncio.create_task(_keep_again(table)))
    nursery.connect()
    found = await _recover(environment, table)
    control = Control(environment, table)
    cleanup = config.recover == CLEANUP
    server = AsyncServer(
        {api.NOTIFY: control.notify} if cleanup else control.handlers(),
        authorize=lambda _pid, uid, _gid: uid in (0, os.geteuid()),
        on_defect=lambda error: log.error("defect", exc_info=error),
    )
    await server.listen(listener.socket)
    try:
        if cleanup:
            await _unless(stop, end_everything(environment, table))
        else:
            spares.prepare()
            _on_reload(tasks, environment, table, manager)
            manager.ready()
            gc.freeze()  # what is there now stays: no collection has to look at it again
            tidying = _tidy(environment, table, found)
            background = asyncio.gather(asyncio.to_thread(_join, claim.layout.agent_leaf), tidying)
            await stop.wait()
            background.cancel()
    finally:
        manager.stopping()
        for container in table.all():
            container.life.leave()
        listener.remove()
        await server.close()
        spares.close()
        nursery.close()
        journal.close()
        heart.cancel()


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Do the work, to its end or until a signal. Raises what it raises."""
    task, signalled = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait((task, signalled), return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if task.done():
        task.result()
    task.cancel()


async def _tidy(environment: Environment, table: Table, found: list[Container]) -> None:
    """End and remove what must not be there any more. A cgroup becomes an orphan when those nested in it are gone."""
    _, ended = await asyncio.gather(reap(environment, table), end_left_behind(table, found))
    if ended:
        await reap(environment, table)


async def _recover(environment: Environment, table: Table) -> list[Container]:
    """Find every container again, side by side, within the budget."""
    found = []
    for container_id in environment.store.ids():
        try:
            entry = environment.store.read(container_id)
            check_place(entry, environment)
        except (NotFound, DamagedRecord) as error:
            entry = rebuild(container_id, environment)
            log.warning("%s", error)
        found.append(table.put(entry))
    for container in found:
        container.life.begin()
    await recovered(environment, found)
    try:
        environment.journal.append("recovered", message=f"{len(found)} containers")
    except KernelError as error:  # a full disk: all the more there must be somebody to ask
        log.warning("%s", error)
    return found


def _shim_ended(table: Table, notice: Notice) -> None:
    for container in table.all():
        if container.record.shim_pid == notice.pid:
            container.life.nudge()


async def _keep_again(table: Table) -> None:
    """The nursery died: the first to need one starts the next, which is to keep what we hold of what was lost."""
    for container in table.all():
        await container.life.keep()


def _signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload_log_level)  # until `_on_reload`
    return stop


def _on_reload(tasks: set[asyncio.Task[None]], environment: Environment, table: Table, manager: ServiceManager) -> None:
    async def reload() -> None:
        manager.reloading()
        reload_log_level()
        try:
            await look_again(environment, table, table.all())
        finally:
            manager.ready()

    def begin() -> None:
        task = asyncio.create_task(reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, begin)


def _join(leaf: str) -> None:
    """Go where leafd belongs. In a thread, as the kernel waits for a grace period of its own before it moves a process
    (cgroup_threadgroup_rwsem)."""
    if "INVOCATION_ID" in os.environ:  # systemd placed us (systemd.exec(5))
        return
    try:
        Cgroup(leaf).write("cgroup.procs", "0")
    except LeafError as error:
        log.warning("%s", error)
