"""What a shim holds of its container: all that is known of it, and its checkpoint.

Rule: what is about to happen is in the checkpoint before it happens.
"""

import os
from collections.abc import Callable

from leafshim import __version__, policy, state
from leafshim import process as processes
from leafshim.api.shim import CreateOptions, Limitation, Policy
from leafshim.bell import ring
from leafshim.bundle import Bundle
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.cgroup.isolator import Isolator
from leafshim.checkpoint import Checkpoint
from leafshim.description import Description
from leafshim.errors import KernelError, NotFound
from leafshim.events import Events
from leafshim.follower import Follower
from leafshim.freezer import Freezer
from leafshim.keeper import Keeper
from leafshim.logs import DEFAULT_MAX_SIZE, LogWriter
from leafshim.loop import Loop, Timer
from leafshim.process import Process
from leafshim.watch import Watcher


class Holding:
    """One container, from an empty PREPARING to STOPPED and deleted."""

    def __init__(self, loop: Loop, keeper: Keeper) -> None:
        self.id = ""
        self.listener = -1
        """The descriptor of the shim's listening socket; it is not ours."""
        self.description = Description()
        self.bundle = Bundle("")
        self.state = state.PREPARING
        self.init: Process | None = None
        self.execs: dict[str, Process] = {}
        self.events = Events()
        self.cgroup: Cgroup | None = None
        self.created_at = 0
        self.deleted = False
        self.finished = False
        self.leaving = False
        """Another shim takes it over: this one ends, and touches nothing."""
        self.on_change: Callable[[], None] = lambda: None
        self.pack: Callable[[], bytes] = lambda: b""
        """What the checkpoint holds for the next shim; empty while there is no init."""
        self._loop = loop
        self._keeper = keeper
        self.freezer: Freezer | None = None
        self.options = CreateOptions()
        self.policy = Policy()
        self.log = LogWriter("")
        self.follower: Follower | None = None
        """Of an init that is not our child."""
        self.watcher: Watcher | None = None
        self.limitation: Limitation | None = None
        self.suspicion: Limitation | None = None
        self.time_limit = 0.0
        self._timeout: Timer | None = None
        self._patience: Timer | None = None
        self._boot_id = ""
        self._shim = (0, 0)

    def begin(self, container_id: str, bundle: Bundle, listener: int, shim: tuple[int, int], boot_id: str) -> None:
        """This process works for the shim of `container_id`; `shim` is the shim's pid and start time."""
        self.id, self.bundle, self.listener = container_id, bundle, listener
        self._shim, self._boot_id = shim, boot_id
        self.events.persist = self._note_event
        self.events.ring = self._ring

    def configure(self, options: CreateOptions) -> None:
        """Take the options of its creation. Raises InputError."""
        self.policy = options.policy or Policy()
        policy.check(self.policy)
        self.options = options
        self.log = LogWriter(options.log_path or self.bundle.log, options.log_max_size or DEFAULT_MAX_SIZE)

    # What there is.

    @property
    def deadline(self) -> float:
        """When there is something to do, whatever happens (monotonic s); 0: never."""
        due = self.watcher.due if self.watcher is not None else 0.0
        return min(filter(None, (self.time_limit, due)), default=0.0)

    @property
    def paused(self) -> bool:
        """Frozen on request."""
        return self.freezer is not None and self.freezer.paused

    @property
    def shim_pid(self) -> int:
        """The sleeper's, which stays; workers come and go."""
        return self._shim[0]

    @property
    def at_rest(self) -> bool:
        """Nothing is under way: all that can happen next comes from outside, or from the kernel."""
        if self.init is None or self.deleted:
            return True
        if self.init.stage != processes.RUNNING and not self.init.told:
            return False
        if (self.freezer is not None and self.freezer.busy) or (self.follower is not None and self.follower.busy):
            return False
        if self.suspicion is not None:
            return False
        return all(added.told for added in self.execs.values()) and self.init.streams.at_rest

    def process(self, exec_id: str) -> Process:
        """Init for "", else the exec. Raises NotFound."""
        return self._exec(exec_id) if exec_id else self._init()

    def pids(self) -> list[int]:
        """Every process in the leaf and below it."""
        self._init()
        leaf = self._leaf()
        return sorted(pid for cgroup in (leaf, *leaf.descendants()) for pid in cgroup.processes())

    def isolator(self) -> Isolator:
        """For its limits and figures, which may be those of the container around it. Raises NotFound without one."""
        self._init()
        return Isolator(find_mount(), Cgroup(self.options.shared_cgroup or os.path.dirname(self._leaf().path)))

    def _init(self) -> Process:
        if self.init is None or self.deleted:
            raise NotFound(f"container {self.id} does not exist")
        return self.init

    def _exec(self, exec_id: str) -> Process:
        self._init()
        if exec_id not in self.execs:
            raise NotFound(f"exec {exec_id} does not exist")
        return self.execs[exec_id]

    def _leaf(self) -> Cgroup:
        if self.cgroup is None:
            raise NotFound(f"container {self.id} has no cgroup")
        return Cgroup(os.path.join(self.cgroup.path, "leaf"))

    def _kill_all(self) -> None:
        """Everything in the leaf and below it, in one go; forks cannot escape it (cgroup-v2.rst, cgroup.kill)."""
        self._leaf().kill()

    # What is told and noted.

    def _tell_change(self) -> None:
        """There is something new that must survive us: hand it over, before anybody is told of it."""
        if self.state in (state.RUNNING, state.STOPPED):
            self.on_change()

    def _ring(self) -> None:
        if self.options.supervisor:
            ring(self.options.supervisor, self.id)

    def _note_event(self) -> None:
        try:
            self._save()
        except KernelError:  # then it is the sleeper's snapshot that keeps it, and whoever collects it
            self._tell_change()
        if self.events.kept[-1].limitation is not None:  # counted: a next worker must not count it once more
            self._tell_change()

    def _move(self, wanted: str) -> None:
        self.state = state.move(self.state, wanted)
        self._save()

    def _save(self) -> None:
        try:
            self._checkpoint().write(self.bundle.checkpoint)
        except KernelError:
            # A disk that is full, or gone, refuses a creation; an end it cannot refuse. The sleeper has the snapshot,
            # and whoever reads the former checkpoint finds init gone, and asks.
            if self.state not in (state.DESTROYING, state.STOPPED):
                raise

    def _checkpoint(self) -> Checkpoint:
        init = self.init
        return Checkpoint(
            id=self.id,
            boot_id=self._boot_id,
            shim_pid=self._shim[0],
            shim_start_time=self._shim[1],
            state=self.state,
            pid=init.pid if init is not None else 0,
            pid_start_time=init.start_time if init is not None else 0,
            cgroup=self.cgroup.path if self.cgroup is not None else "",
            created_at=self.created_at,
            started_at=init.started_at if init is not None else 0,
            exit_path=self.options.exit_path or self.bundle.exit,
            sequence=self.events.last,
            snapshot=self.pack(),
            shared_cgroup=self.options.shared_cgroup,
            version=__version__,
        )
