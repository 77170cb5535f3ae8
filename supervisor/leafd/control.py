"""The service leafd.v1.Containers (containers.proto): what clients ask for, in terms of the other modules.

Rules:
1. A request is checked before anything happens; a LeafError is its status, everything else is a defect.
2. Nothing here waits for a shim without a deadline, and no answer about one container waits for another's shim.
3. Streams are bounded in number, and each by its client: what it does not read is read from the disk later.
"""

import asyncio
import os
from collections.abc import AsyncIterator

from leafd.admission import admit
from leafd.containers import Container, Table
from leafd.inforce import in_force
from leafd.launch import Environment
from leafd.orphans import reap
from leafd.recovery import Action
from leafd.tail import tail
from leafshim import __version__
from leafshim.api import containers as api
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import InputError, NotFound, ResourceExhausted
from leafshim.state import STOPPED
from leafshim.ttrpc.aio import AsyncCall, AsyncHandler
from leafshim.ttrpc.service import Method

_SECOND = 1_000_000_000


class Control:
    """The handlers, over one table."""

    def __init__(self, environment: Environment, table: Table) -> None:
        self.environment = environment
        self.table = table
        self._followers = 0

    def handlers(self) -> dict[Method, AsyncHandler]:  # type: ignore[type-arg]  # a table of methods of any types
        """What the server is made with."""
        return {
            api.VERSION: self.version,
            api.CREATE: self.create,
            api.START: self.start,
            api.LIST: self.list,
            api.INSPECT: self.inspect,
            api.WAIT: self.wait,
            api.KILL: self.kill,
            api.STOP: self.stop,
            api.PAUSE: self.pause,
            api.RESUME: self.resume,
            api.REMOVE: self.remove,
            api.EVENTS: self.events,
            api.LOGS: self.logs,
            api.NOTIFY: self.notify,
            api.RECOVER: self.recover,
            api.UPGRADE: self.upgrade,
            api.RENEW: self.renew,
        }

    async def version(self, request: api.VersionRequest, call: "Call") -> api.VersionResponse:
        """Who serves."""
        layout, config = self.environment.layout, self.environment.config
        nursery = await self.environment.nursery.survey()
        return api.VersionResponse(
            version=__version__,
            pid=os.getpid(),
            nursery_pid=nursery.nursery_pid,
            nursery_version=nursery.version,
            spare_pid=self.environment.spares.pid,
            root=config.root,
            state=config.state,
            cgroups_root=layout.root,
            controllers=sorted(Cgroup(layout.mount).controllers()),
        )

    async def create(self, request: api.CreateRequest, call: "Call") -> api.Container:
        """Make a container, and start it if that was asked for."""
        entry, document = admit(request, self.environment, self.table.parent(request.id))
        container = self.table.add(entry)
        await container.launch(document)
        return container.describe()

    async def start(self, request: api.ContainerRequest, call: "Call") -> api.Container:
        """Let the init of a created container go."""
        container = self.table.find(request.id)
        await container.start()
        return container.describe()

    async def list(self, request: api.ListRequest, call: "Call") -> api.ListResponse:
        """All containers, by id; those whose shim does not answer now are UNKNOWN."""
        containers = self.table.all()
        for each in containers:
            each.probe()
        return api.ListResponse(containers=[self._shown(each) for each in containers])

    async def inspect(self, request: api.ContainerRequest, call: "Call") -> api.Container:
        """One container."""
        container = self.table.find(request.id)
        container.probe()
        shown = self._shown(container)
        shown.limits = in_force(shown.shared_cgroup or shown.cgroup, self.environment.store.bundle(request.id))
        return shown

    def _shown(self, container: Container) -> api.Container:
        shown = container.describe()
        shown.shim_version = self.environment.store.shim_version(shown.id) if shown.shim_pid else ""
        return shown

    async def wait(self, request: api.ContainerRequest, call: "Call") -> api.Container:
        """Answer when it has stopped for good."""
        container = self.table.find(request.id)
        await container.life.settled.wait()
        return container.describe()

    async def kill(self, request: api.KillRequest, call: "Call") -> api.Empty:
        """Send a signal."""
        await self.table.find(request.id).kill(request.signal, all_processes=request.all)
        return api.Empty()

    async def stop(self, request: api.StopRequest, call: "Call") -> api.Container:
        """End it, and answer when it has stopped."""
        container = self.table.find(request.id)
        grace = self.environment.config.stop_grace if request.grace is None else request.grace / _SECOND
        await container.stop(grace)
        return container.describe()

    async def pause(self, request: api.ContainerRequest, call: "Call") -> api.Container:
        """Freeze it."""
        container = self.table.find(request.id)
        await container.pause()
        return container.describe()

    async def resume(self, request: api.ContainerRequest, call: "Call") -> api.Container:
        """Thaw it."""
        container = self.table.find(request.id)
        await container.resume()
        return container.describe()

    async def remove(self, request: api.RemoveRequest, call: "Call") -> api.Empty:
        """Forget it."""
        await self.table.remove(self.table.find(request.id), force=request.force)
        return api.Empty()

    async def events(self, request: api.EventsRequest, call: "Call") -> AsyncIterator[api.Event]:
        """The journal, and what comes into it."""
        journal = self.environment.journal
        if request.since > journal.last:
            raise InputError(f"since: {request.since}: the newest event has number {journal.last}")
        self._begin_following()
        try:
            async for event in journal.follow(request.since, for_ever=request.follow):
                if not request.id or event.id == request.id or event.type == "missed":
                    yield event
        finally:
            self._followers -= 1

    async def logs(self, request: api.LogsRequest, call: "Call") -> AsyncIterator[api.LogChunk]:
        """What a container wrote, and writes."""
        container = self.table.find(request.id)
        path = self.environment.store.bundle(request.id).log
        self._begin_following()
        try:
            async for entry in tail(path, container.life.settled if request.follow else None):
                yield api.LogChunk(timestamp=entry.timestamp, stream=entry.stream, data=entry.data)
        finally:
            self._followers -= 1

    async def notify(self, request: api.ContainerRequest, call: "Call") -> api.Empty:
        """A shim has something to tell. One that we do not know yet, or any more, is looked at when its turn comes."""
        try:
            self.table.find(request.id).life.nudge()
        except NotFound:
            pass
        return api.Empty()

    async def recover(self, request: api.Empty, call: "Call") -> api.RecoverResponse:
        """Look at everything again."""
        return await look_again(self.environment, self.table, self.table.all())

    async def upgrade(self, request: api.UpgradeRequest, call: "Call") -> api.UpgradeResponse:
        """Change the shim of a container that runs."""
        container = self.table.find(request.id)
        version = self.environment.store.shim_version(request.id)
        former = await container.life.upgrade()
        return api.UpgradeResponse(
            id=request.id,
            former_pid=former,
            former_version=version,
            shim_pid=container.record.shim_pid,
            version=self.environment.store.shim_version(request.id),
        )

    async def renew(self, request: api.Empty, call: "Call") -> api.RenewResponse:
        """Have the nursery, and with it the spare, go on with the code that is installed."""
        nursery, config = self.environment.nursery, self.environment.config
        former = await nursery.survey()
        now = await nursery.renew(config.renewal_deadline)
        self.environment.spares.renew()
        self.environment.journal.append("nursery-renewed", message=f"{former.version} → {now.version}")
        return api.RenewResponse(pid=now.nursery_pid, former_version=former.version, version=now.version)

    def _begin_following(self) -> None:
        if self._followers >= self.environment.config.followers:
            raise ResourceExhausted(f"{self._followers} streams are served already")
        self._followers += 1


Call = AsyncCall[api.Empty, api.Empty]
"""What a handler here gets beside the request; none of them uses it."""


async def look_again(environment: Environment, table: Table, containers: list[Container]) -> api.RecoverResponse:
    """Look at containers, side by side, for at most the recovery's budget; then for orphans. What was found."""
    for each in containers:
        each.life.look_again()
    await recovered(environment, containers)
    for each in containers:
        each.probe()
    orphans = await reap(environment, table)
    actions = [
        each.life.action for each in containers if each.record.state != STOPPED or not each.life.settled.is_set()
    ]
    ended = sum(each.life.action is Action.RECORD_EXIT for each in containers)
    return api.RecoverResponse(
        reconnected=sum(action in (None, Action.RECONNECT) for action in actions),
        adopted=actions.count(Action.ADOPT),
        exits_recorded=ended,
        orphans=orphans,
        unknown=actions.count(Action.WAIT),
    )


async def recovered(environment: Environment, containers: list[Container]) -> None:
    """Return when all have been looked at, or the budget is spent; those still silent go on by themselves."""
    waiting = [asyncio.ensure_future(each.life.looked.wait()) for each in containers]
    if waiting:
        _, late = await asyncio.wait(waiting, timeout=environment.config.recovery_budget)
        for each in late:
            each.cancel()
