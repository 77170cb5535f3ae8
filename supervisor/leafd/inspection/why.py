"""why: in words, what a container waits for, what holds it back, and what ended it.

A sentence is said only of what the kernel says now; a count that only grows is said as one ("so far").
"""

from collections.abc import Iterator, Sequence
from typing import TypedDict

from leafd.inspection import pipes, processes
from leafd.inspection.processes import Process
from leafd.inspection.target import Target
from leafshim import exits, record
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.checkpoint import Checkpoint
from leafshim.errors import KernelError, LeafError

_NEAR = 0.9  # of a limit
_PRESSURE = 10.0  # % of the last 10 s
_NAMED = 10  # processes that are named one by one

# where the kernel waits (the end of wchan's name) → in words
_REASONS = (
    (("pipe_read",), "for data from a pipe"),
    (("pipe_write",), "for room in a full pipe"),
    (("do_wait",), "for a child to end"),
    (("nanosleep", "do_nanosleep"), "for time to pass"),
    (("futex_do_wait", "futex_wait_queue", "futex_wait"), "for a lock or another thread (futex)"),
    (("ep_poll", "do_poll", "do_select", "poll_schedule_timeout", "schedule_hrtimeout_range_clock",
      "do_epoll_wait", "do_sys_poll"), "for events on descriptors"),
    (("inet_csk_accept", "unix_accept"), "for a connection"),
    (("wait_for_packet", "unix_stream_read_generic", "sk_wait_data"), "for data from a socket"),
    (("n_tty_read", "wait_woken"), "for input"),
    (("sigtimedwait", "do_sigtimedwait", "sigsuspend", "sys_pause", "ia32_sys_pause"), "for a signal"),
    (("locks_lock_inode_wait", "flock_lock_inode_wait", "fcntl_setlk", "posix_lock_inode_wait"), "for a file lock"),
    (("wait_for_vfork_done", "kernel_clone"), "for its child to execute a program (vfork)"),
    (("request_wait_answer",), "for a FUSE file system to answer"),
    (("mem_cgroup_handle_over_high",), "because it is over memory.high"),
)  # fmt: skip


class Finding(TypedDict):
    """`kind`: ended, paused, stuck, uninterruptible, stopped, traced, throttled, pressure, limit, shim, waiting,
    running. `pids`: whom it is about, none for the whole container."""

    kind: str
    text: str
    pids: list[int]


def look(target: Target) -> list[Finding]:
    """What there is to say, the gravest first."""
    found = list(_ended(target))
    if target.silence:
        found.append(Finding(kind="shim", text=f"its shim cannot be asked: {target.silence}", pids=[]))
    cgroup = Cgroup(target.cgroup)
    if target.cgroup and cgroup.exists():
        alive = processes.look(target.pids())
        found.extend(_paused(cgroup))
        found.extend(_stuck(alive))
        found.extend(_held_up(alive))
        found.extend(_limits(cgroup))
        found.extend(_waiting(alive))
    return found


def _ended(target: Target) -> Iterator[Finding]:
    end = target.exit
    if end is None and not target.pid:
        try:
            path = Checkpoint.read(target.bundle.checkpoint).exit_path
            end = exits.unpack(record.read(path, exits.KIND).get("exit"))
        except LeafError:
            yield Finding(kind="ended", text="init does not run; no exit record says why", pids=[])
            return
    if end is not None:
        status = "unknown" if end.status is None else str(end.status)
        text = f"ended: {end.cause}, status {status}" + (f" ({end.message})" if end.message else "")
        yield Finding(kind="ended", text=text, pids=[])


def _paused(cgroup: Cgroup) -> Iterator[Finding]:
    try:
        wanted, frozen = cgroup.read("cgroup.freeze").strip() == "1", cgroup.frozen()
    except KernelError:
        return
    if frozen:
        who = "it was paused: `leafctl resume` lets it go on" if wanted else "something above or below it froze it"
        yield Finding(kind="paused", text=f"every process stands still; {who}", pids=[])
    elif wanted:
        yield Finding(kind="paused", text="it is to be paused, but not every process stands still yet", pids=[])


def _stuck(alive: Sequence[Process]) -> Iterator[Finding]:
    if not pipes.stuck(alive, pipes.waits(alive)):
        return
    found = pipes.waits(alive, pipes.everybody())
    pids = sorted(pipes.stuck(alive, found))
    if pids:
        whom = "; ".join(
            f"pid {wait.pid} waits to {'write to' if wait.writes else 'read from'} {_listed(wait.others)}"
            for wait in found if wait.pid in pids
        )  # fmt: skip
        yield Finding(kind="stuck", text=f"deadlock, only a signal can end it: {whom}", pids=pids)


def _held_up(alive: Sequence[Process]) -> Iterator[Finding]:
    for kind, states, text in (
        ("uninterruptible", "D", "in state D, which signals do not end"),
        ("stopped", "T", "stopped by a signal; SIGCONT lets it go on"),
        ("traced", "t", "stopped by its tracer"),
        ("zombie", "Z", "ended, but not waited for by its parent"),
    ):
        held = [(process, thread) for process in alive for thread in process["threads"] if thread["state"] in states]
        for process, thread in held[:_NAMED]:
            extra = f", pid {process['tracer']}" if kind == "traced" else ""
            if kind == "uninterruptible":
                extra = f"; it waits {reason(thread)}"
            yield Finding(kind=kind, text=f"pid {process['pid']} ({process['command'][:60]}): {text}{extra}",
                          pids=[process["pid"]])  # fmt: skip
        if len(held) > _NAMED:
            yield Finding(kind=kind, text=f"and {len(held) - _NAMED} more: {text}",
                          pids=[process["pid"] for process, _ in held[_NAMED:]])  # fmt: skip


def _limits(cgroup: Cgroup) -> Iterator[Finding]:
    cpu = _flat(cgroup, "cpu.stat")
    if cpu.get("nr_throttled"):
        yield Finding(kind="throttled", pids=[], text=f"throttled by cpu.max ({_text(cgroup, 'cpu.max')}) in "
                      f"{cpu['nr_throttled']} of {cpu.get('nr_periods', 0)} periods so far, for "
                      f"{cpu.get('throttled_usec', 0) / 1e6:.1f} s")  # fmt: skip
    for resource in ("cpu", "memory", "io"):
        for line in _text(cgroup, f"{resource}.pressure").splitlines():
            who, *fields = line.split()
            share = float(dict(field.split("=") for field in fields).get("avg10", 0))
            if who == "some" and share >= _PRESSURE:
                yield Finding(kind="pressure", pids=[],
                              text=f"{share:.0f}% of the last 10 s something waited for {resource}")  # fmt: skip
    for name in ("memory.high", "memory.max", "memory.swap.max", "pids.max"):
        limit, used = _text(cgroup, name), _text(cgroup, f"{name.rpartition('.')[0]}.current")
        if limit.isdecimal() and used.isdecimal() and int(used) >= _NEAR * int(limit):
            yield Finding(kind="limit", text=f"near {name}: {used} of {limit} in use", pids=[])
    for name, key, text in (
        ("memory.events", "oom_kill", "the OOM killer has killed {} processes so far"),
        ("pids.events", "max", "fork has failed {} times so far, at pids.max"),
    ):
        if count := _flat(cgroup, name).get(key):
            yield Finding(kind="limit", text=text.format(count), pids=[])


def _waiting(alive: Sequence[Process]) -> Iterator[Finding]:
    others = {wait.tid: wait.others for wait in pipes.waits(alive)}
    groups: dict[str, list[int]] = {}
    for process in alive:
        for thread in process["threads"]:
            if thread["state"] == "S":
                text = f"waits {reason(thread)}"
                if thread["tid"] in others and others[thread["tid"]]:
                    end = "reader" if "write" in (thread["wchan"] or "") else "writer"
                    text += f", whose {end} is {_listed(others[thread['tid']])}"
                groups.setdefault(text, []).append(process["pid"])
            elif thread["state"] == "R":
                groups.setdefault("runs, or wants to", []).append(process["pid"])
    for text, pids in sorted(groups.items(), key=lambda group: -len(group[1])):
        kind = "running" if text.startswith("runs") else "waiting"
        yield Finding(kind=kind, text=f"{_listed(pids)} {text}", pids=sorted(set(pids)))


def reason(thread: processes.Thread) -> str:
    """What a thread waits for, in words; where we know none, the kernel's function."""
    wchan = thread["wchan"]
    if wchan is None:
        return "for what the kernel does not tell"
    return next((text for ends, text in _REASONS if wchan.endswith(ends)), f"in {wchan}")


def _listed(pids: Sequence[int] | frozenset[int]) -> str:
    each = sorted(set(pids))
    if not each:
        return "nobody here"
    more = f" and {len(each) - _NAMED} more" if len(each) > _NAMED else ""
    return f"pid{'s' if len(each) > 1 else ''} {', '.join(map(str, each[:_NAMED]))}{more}"


def _text(cgroup: Cgroup, name: str) -> str:
    """The content of a file, empty where this kernel or container does not have it."""
    try:
        return cgroup.read(name).strip()
    except KernelError:
        return ""


def _flat(cgroup: Cgroup, name: str) -> dict[str, int]:
    try:
        return cgroup.read_flat(name)
    except KernelError:
        return {}
