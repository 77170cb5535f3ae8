"""How a container ends: by itself, by a limit, or on request; and what is left of it.

Rules:
1. Init has ended only when nothing of the container's own is left: what init leaves behind (without a pid namespace)
   is killed, and the ends of execs are told before init's.
2. What limits have to tell comes before the end that they may explain.
3. The exit record is on disk before anybody is told of the exit.
"""

from leafshim import exits, state
from leafshim import process as processes
from leafshim.api.shim import Exit
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.crashes import crash
from leafshim.errors import KernelError, StateError
from leafshim.freezer import Freezer
from leafshim.limiting import Limiting
from leafshim.process import Process

END_PATIENCE = 10.0  # seconds that what init left behind gets to die, before the exit is told without waiting for it
EXECS_KEPT = 32  # ended and not deleted
REMOVE_PATIENCE = 2.0  # seconds for rmdir of an empty cgroup to stop saying EBUSY


class Ending(Limiting):
    """A container that can end."""

    def watch(self, cgroup: Cgroup, *, paused: bool = False) -> None:
        """Keep an eye on the container's cgroup and its leaf, which exist."""
        self.cgroup = cgroup
        self.freezer = Freezer(self._loop, cgroup, self._leaf(), self._maybe_ended)
        self.freezer.paused = paused

    def watch_anew(self, cgroup: Cgroup) -> None:
        """Begin to keep an eye on a cgroup that was just made. Raises Unsupported, KernelError."""
        self.watch(cgroup)
        self.watch_limits(cgroup)

    def reaped(self, pid: int, wait_status: int) -> None:
        """The status of a child of our parent's: init, an exec, or something that an exec left behind."""
        if self.init is not None and self.init.pid == pid and self.init.stage != processes.ENDED:
            self._init_ended(self.init, wait_status)
            return
        for added in self.execs.values():
            if added.pid == pid and added.stage != processes.ENDED:
                added.reaped(wait_status)
                self.explain(added)
                added.settle()
                self.events.publish("exec-exited", exec_id=added.exec_id, pid=pid, end=added.exit)
                added.tell()
                self._forget_old_execs()
                self._maybe_ended()
                return

    def _forget_old_execs(self) -> None:
        """Whoever started an exec should delete it. For those that did not, the last few are kept."""
        for exec_id in [exec_id for exec_id, added in self.execs.items() if added.told][:-EXECS_KEPT]:
            del self.execs[exec_id]

    def _init_ended(self, init: Process, wait_status: int | None) -> None:
        init.reaped(wait_status)
        if self.init is None:  # it failed before it was ready, and the creation was undone
            return
        self._move(state.DESTROYING)
        crash("end-reaped")
        self._cancel_time_limit()
        if self.freezer is not None and self.freezer.populated():
            self._kill_all()
            self._patience = self._loop.call_later(END_PATIENCE, lambda: self._end(init))
        self._maybe_ended()

    def _maybe_ended(self) -> None:
        """Init's end may be told once nothing of the container runs and every exec's end was told."""
        if self.state != state.DESTROYING or self.init is None or self.freezer is None:
            return
        waiting = any(added.stage not in (processes.ADDED, processes.ENDED) for added in self.execs.values())
        if not waiting and not self.freezer.populated():
            self._end(self.init)

    def _end(self, init: Process) -> None:
        if self.state != state.DESTROYING or self.cgroup is None:
            return
        if self._patience is not None:
            self._patience.cancel()
        self.explain(init)
        end = init.settle(self.limitation)
        exits.figures(self.cgroup, end)
        if self.freezer is not None and self.freezer.populated():
            end.message = f"{end.message}; processes that do not die: {self._leaf().processes()}".lstrip("; ")
        self.unwatch_limits()
        crash("end-emptied")
        self._record(init, end)
        crash("end-recorded")
        self._move(state.STOPPED)
        self.events.publish("exit", pid=init.pid, end=end)
        crash("end-published")
        self._tell_change()
        crash("end-handed-over")
        init.tell()
        crash("end-told")

    def _record(self, init: Process, end: Exit) -> None:
        """Put the exit on disk. A disk that refuses is told of in the exit itself, which stays with us until then."""
        try:
            exits.write(
                self.options.exit_path or self.bundle.exit,
                self.id,
                end,
                pid=init.pid,
                created_at=self.created_at,
                started_at=init.started_at,
                sequence=self.events.last + 1,
            )
        except KernelError as error:
            end.message = f"{end.message}; the exit record could not be written: {error}".lstrip("; ")

    def delete(self, exec_id: str) -> Process:
        """Forget an exec that ended, or the container with its cgroups. The process, for its last figures."""
        if exec_id:
            added = self._exec(exec_id)
            if added.stage not in (processes.ADDED, processes.ENDED):
                raise StateError(f"exec {exec_id} is {added.stage}")
            added.streams.close()
            return self.execs.pop(exec_id)
        init = self._init()
        if self.state != state.STOPPED:
            raise StateError(f"container {self.id} is {self.state}, not {state.STOPPED}")
        crash("delete-begun")
        self._let_go_of_cgroup()
        crash("delete-cgroup-gone")
        self.log.close()
        self.deleted = True
        return init

    def _let_go_of_cgroup(self) -> None:
        if self.freezer is not None:
            self.freezer.close()
            self.freezer = None
        self.unwatch_limits()
        if self.cgroup is not None and self.cgroup.exists():
            self.cgroup.remove_tree(REMOVE_PATIENCE)
