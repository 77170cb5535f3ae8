"""What a leafd shim serves beside containerd's Task service: the messages and methods of shim.proto."""

from typing import ClassVar

from leafshim.ttrpc import protobuf as pb
from leafshim.ttrpc.service import Method

SERVICE = "leafd.shim.v1.Shim"


class _Message(pb.Message):
    package: ClassVar[str] = "leafd.shim.v1"


class InfoRequest(_Message):
    pass


class Figure(_Message):
    name: str = pb.string(1)
    value: int = pb.uint64(2)


class Limitation(_Message):
    """A limit that was hit."""

    kind: str = pb.string(1)  # oom, pids, hugetlb, pressure, timeout
    resource: str = pb.string(2)  # memory, pids, hugetlb.2MB, cpu, io, time
    scope: str = pb.string(3)  # whose: own, inside (a cgroup that the workload made), ancestor, host
    cgroup: str = pb.string(4)  # absolute path of the one whose limit it is; empty for the host
    message: str = pb.string(5)  # in words, for a person
    # oom: anon, file, kernel, current, peak, limit in bytes, and kills; pids: current, limit, failed; hugetlb: limit,
    # refused; pressure: stall, window, total in microseconds, full as 0 or 1; timeout: limit in nanoseconds.
    figures: list[Figure] = pb.repeated(pb.message(Figure, 6))


class Pressure(_Message):
    """What to do when processes stall for `stall` within `window`, both in microseconds."""

    resource: str = pb.string(1)  # cpu, io, memory
    full: bool = pb.boolean(2)  # all that are not idle, instead of some
    stall: int = pb.uint64(3)
    window: int = pb.uint64(4)
    action: str = pb.string(5)  # event (default), kill


class Policy(_Message):
    """What to do when a limit is hit: event (default) tells it, kill also ends the container."""

    oom: str = pb.string(1)
    pids: str = pb.string(2)
    hugetlb: str = pb.string(3)
    pressure: list[Pressure] = pb.repeated(pb.message(Pressure, 4))


class Exit(_Message):
    """Why and how a process ended."""

    status: int | None = pb.optional(pb.uint32(1))  # the code, or 128 + signal; absent when unknown
    signal: int = pb.uint32(2)  # 0 when it exited
    cause: str = pb.string(3)  # exited, signalled, oom, killed (on request), limitation, lost
    finished_at: int = pb.int64(4)  # nanoseconds since the epoch
    duration: int = pb.uint64(5)  # nanoseconds, from Start
    cpu_usage: int = pb.uint64(6)  # microseconds, cpu.stat usage_usec; 0 when the cgroup does not say
    memory_peak: int = pb.uint64(7)  # bytes, memory.peak; 0 when the cgroup does not say
    message: str = pb.string(8)  # in words, for a person; may be empty
    limitation: Limitation | None = pb.message(Limitation, 9)  # what ended it, for the causes oom and limitation
    oom_kills: int = pb.uint64(10)  # of init: processes of the container that the OOM killer killed in all its life


class Process(_Message):
    exec_id: str = pb.string(1)
    pid: int = pb.uint32(2)
    args: list[str] = pb.repeated(pb.string(3))
    terminal: bool = pb.boolean(4)
    exit: Exit | None = pb.message(Exit, 5)


class InfoResponse(_Message):
    version: str = pb.string(1)  # of leafshim
    shim_pid: int = pb.uint32(2)
    id: str = pb.string(3)
    state: str = pb.string(4)  # a launch state: ISOLATING, RUNNING, DESTROYING, STOPPED; PREPARING before Create
    paused: bool = pb.boolean(5)
    pid: int = pb.uint32(6)  # of init, in the shim's pid namespace; 0 before Create
    pid_start_time: int = pb.uint64(7)  # clock ticks after boot, /proc/PID/stat field 22
    cgroup: str = pb.string(8)  # absolute path of the non-leaf
    created_at: int = pb.int64(9)  # nanoseconds since the epoch; 0 means not yet
    started_at: int = pb.int64(10)
    finished_at: int = pb.int64(11)
    exit: Exit | None = pb.message(Exit, 12)  # set once init has ended
    last_sequence: int = pb.uint64(13)
    processes: list[Process] = pb.repeated(pb.message(Process, 14))  # execs


class Isolation(_Message):
    """The controllers that a container has enabled, limits or not, where the host has them."""

    controllers: list[str] = pb.repeated(pb.string(1))


class CreateOptions(_Message):
    """containerd's CreateTaskRequest.options when the supervisor asks: where things go, and what containerd has no
    field for."""

    exit_path: str = pb.string(1)  # file for the exit record; empty: BUNDLE/exit
    log_path: str = pb.string(2)  # file for the "log:" streams; empty: BUNDLE/log
    timeout: int = pb.uint64(3)  # nanoseconds after Start; then ended with cause "limitation"; 0 = none
    first_sequence: int = pb.uint64(4)  # number of the first event; 0 means 1
    log_max_size: int = pb.uint64(5)  # bytes; at this size the log moves to log.1, replacing it; 0 = the default
    supervisor: str = pb.string(7)  # socket to ring at when there are events and nobody listens; empty: nowhere
    start: bool = pb.boolean(6)  # go on to RUNNING in one step; no Start follows, and a failure leaves nothing
    policy: Policy | None = pb.message(Policy, 8)  # what to do when a limit is hit
    isolation: Isolation | None = pb.message(Isolation, 9)  # absent: those that have figures
    # Of a nested container:
    shared_cgroup: str = pb.string(16)  # absolute path of the cgroup whose limits and figures are its own; empty: it
    # has its own
    parent_start_time: int = pb.uint64(17)  # clock ticks after boot: the process of every /proc/PID/ns path began then


class EventsRequest(_Message):
    after: int = pb.uint64(1)


class Event(_Message):
    sequence: int = pb.uint64(1)
    timestamp: int = pb.int64(2)  # nanoseconds since the epoch
    # create, start, exit, paused, resumed, exec-added, exec-started, exec-exited; a limit that was hit: oom, pids,
    # hugetlb, pressure, timeout; and watch-broken, watch-restored.
    type: str = pb.string(3)
    exec_id: str = pb.string(4)
    pid: int = pb.uint32(5)
    exit: Exit | None = pb.message(Exit, 6)
    limitation: Limitation | None = pb.message(Limitation, 7)
    message: str = pb.string(8)  # in words, where there is more to say than the type does


class CollectResponse(_Message):
    events: list[Event] = pb.repeated(pb.message(Event, 1))


class AcknowledgeRequest(_Message):
    sequence: int = pb.uint64(1)


class AcknowledgeResponse(_Message):
    pass


class StepDownRequest(_Message):
    pass


class StepDownResponse(_Message):
    names: list[str] = pb.repeated(pb.string(1))  # of the descriptors that the next shim needs


class AttachInput(_Message):
    exec_id: str = pb.string(1)  # first message only; empty means init
    stdin: bool = pb.boolean(2)  # first message only: this client will send input
    data: bytes = pb.bytes_(3)
    close_stdin: bool = pb.boolean(4)
    width: int = pb.uint32(5)  # with height: resize the terminal
    height: int = pb.uint32(6)
    lossless: bool = pb.boolean(7)  # first message only: the process waits for this client, as in a pipeline of a shell


class AttachOutput(_Message):
    stdout: bytes = pb.bytes_(1)
    stderr: bytes = pb.bytes_(2)
    exited: Exit | None = pb.message(Exit, 3)
    # Bytes of input that have reached the process; keep less than 1 MiB beyond it under way.
    consumed: int = pb.uint64(4)
    missed: int = pb.uint64(5)  # bytes of output that this client was too slow for (never when lossless)


# Who the shim is, and all that it knows of its container.
INFO = Method(SERVICE, "Info", InfoRequest, InfoResponse)
# Every event after `after`, then the new ones as they happen. Ends only with the connection.
EVENTS = Method(SERVICE, "Events", EventsRequest, Event, server_streaming=True)
# Events up to and including `sequence` are safe elsewhere; the shim may forget them.
# Acknowledge up to `after`, and take what there is beyond.
COLLECT = Method(SERVICE, "Collect", EventsRequest, CollectResponse)
ACKNOWLEDGE = Method(SERVICE, "Acknowledge", AcknowledgeRequest, AcknowledgeResponse)
# Have the checkpoint say all that is known, and end without touching the container: another shim is about to take it
# over. Refused, with nothing changed, while something is under way that only this one can finish.
STEP_DOWN = Method(SERVICE, "StepDown", StepDownRequest, StepDownResponse)
# The terminal or pipes of init or of an exec. The first message selects the process and gets an AttachOutput
# without data as soon as the client is attached, also before Start; the rest is input. The stream ends with an
# AttachOutput that carries `exited`.
ATTACH = Method(SERVICE, "Attach", AttachInput, AttachOutput, client_streaming=True, server_streaming=True)
