"""What the supervisor serves: the messages and methods of containers.proto."""

from typing import ClassVar

from leafshim.api import shim
from leafshim.ttrpc import protobuf as pb
from leafshim.ttrpc.service import Method

SERVICE = "leafd.v1.Containers"


class _Message(pb.Message):
    package: ClassVar[str] = "leafd.v1"


class Empty(_Message):
    pass


class VersionRequest(_Message):
    pass


class VersionResponse(_Message):
    version: str = pb.string(1)
    pid: int = pb.uint32(2)
    nursery_pid: int = pb.uint32(3)
    root: str = pb.string(4)
    state: str = pb.string(5)
    cgroups_root: str = pb.string(6)  # absolute path
    controllers: list[str] = pb.repeated(pb.string(7))  # those the host offers below cgroups_root
    spare_pid: int = pb.uint32(8)  # a shim that waits for its container; 0: none
    nursery_version: str = pb.string(9)


class CreateRequest(_Message):
    id: str = pb.string(1)
    spec: bytes = pb.bytes_(2)  # OCI config.json; root may be absent: the host's own files through an overlay
    labels: dict[str, str] = pb.string_map(3)
    restart: str = pb.string(4)  # no (default), on-failure, always
    start: bool = pb.boolean(5)
    stdin: bool = pb.boolean(6)  # keep standard input open for Attach; otherwise /dev/null
    remove: bool = pb.boolean(7)  # remove it when it has ended
    timeout: int = pb.uint64(8)  # nanoseconds; 0 = none. Ended with cause "limitation" after it
    overlay_size: int = pb.uint64(9)  # bytes for changes of a container on the host's files; 0 = the default
    rootfs: str = pb.string(10)  # an absolute directory that replaces root.path; empty = as the spec says
    policy: shim.Policy | None = pb.message(shim.Policy, 11)  # what to do when a limit is hit
    # Of a nested container, whose id is PARENT/NAME (docs/nested.md):
    share_cgroups: bool | None = pb.optional(pb.boolean(14))  # its limits and figures are its parent's; absent = yes
    container_class: str = pb.string(15)  # "" (default), debug
    share: list[str] = pb.repeated(pb.string(16))  # namespaces of its parent's: net, ipc, uts, pid, mnt


class ContainerRequest(_Message):
    id: str = pb.string(1)


class ListRequest(_Message):
    pass


class Container(_Message):
    id: str = pb.string(1)
    state: str = pb.string(2)  # PROVISIONING, PREPARING, ISOLATING, RUNNING, DESTROYING, STOPPED, UNKNOWN
    paused: bool = pb.boolean(3)
    pid: int = pb.uint32(4)
    shim_pid: int = pb.uint32(5)
    cgroup: str = pb.string(6)  # absolute path of the non-leaf
    leaf: str = pb.string(7)
    created_at: int = pb.int64(8)  # nanoseconds since the epoch; 0 = not yet
    started_at: int = pb.int64(9)
    finished_at: int = pb.int64(10)
    exit: shim.Exit | None = pb.message(shim.Exit, 11)
    restarts: int = pb.uint32(12)
    labels: dict[str, str] = pb.string_map(13)
    bundle: str = pb.string(14)  # the container's directory
    shim_socket: str = pb.string(15)
    log: str = pb.string(16)
    terminal: bool = pb.boolean(17)
    args: list[str] = pb.repeated(pb.string(18))
    restart: str = pb.string(19)
    problem: str = pb.string(20)  # in words, when something is not as it should be (a shim that does not answer)
    limits: dict[str, str] = pb.string_map(21)  # Inspect alone: file → value; those that a new cgroup does not have
    parent: str = pb.string(24)  # the container that it is nested in; empty = none
    shared_cgroup: str = pb.string(
        25
    )  # absolute path of the cgroup whose limits and figures are its own; empty = cgroup
    container_class: str = pb.string(26)  # "" (default), debug
    shim_version: str = pb.string(27)  # Inspect alone: of the shim in charge; empty = not known


class ListResponse(_Message):
    containers: list[Container] = pb.repeated(pb.message(Container, 1))


class KillRequest(_Message):
    id: str = pb.string(1)
    signal: int = pb.uint32(2)  # 0 = SIGKILL
    all: bool = pb.boolean(3)  # every process of the container, not only init


class StopRequest(_Message):
    id: str = pb.string(1)
    grace: int | None = pb.optional(pb.uint64(2))  # nanoseconds; absent = the configured default


class RemoveRequest(_Message):
    id: str = pb.string(1)
    force: bool = pb.boolean(2)


class EventsRequest(_Message):
    since: int = pb.uint64(1)
    follow: bool = pb.boolean(2)
    id: str = pb.string(3)  # only of this container; empty = all


class Event(_Message):
    sequence: int = pb.uint64(1)  # the journal's number
    timestamp: int = pb.int64(2)  # nanoseconds since the epoch
    id: str = pb.string(3)  # container; empty for leafd's own (recovered, orphan)
    # the shim's types; and removed, restarted, orphan-reaped, orphan-stuck, recovered, shim-lost, adopted, upgraded,
    # missed
    type: str = pb.string(4)
    exec_id: str = pb.string(5)
    pid: int = pb.uint32(6)
    exit: shim.Exit | None = pb.message(shim.Exit, 7)
    shim_sequence: int = pb.uint64(8)  # the number it had at the shim; 0 when leafd's own
    message: str = pb.string(9)
    limitation: shim.Limitation | None = pb.message(shim.Limitation, 10)


class LogsRequest(_Message):
    id: str = pb.string(1)
    follow: bool = pb.boolean(2)


class LogChunk(_Message):
    timestamp: int = pb.int64(1)
    stream: str = pb.string(2)  # stdout, stderr, console
    data: bytes = pb.bytes_(3)


class RecoverResponse(_Message):
    reconnected: int = pb.uint32(1)
    adopted: int = pb.uint32(2)
    exits_recorded: int = pb.uint32(3)
    orphans: int = pb.uint32(4)
    unknown: int = pb.uint32(5)


class UpgradeRequest(_Message):
    id: str = pb.string(1)


class UpgradeResponse(_Message):
    id: str = pb.string(1)
    former_pid: int = pb.uint32(2)  # of the shim before
    former_version: str = pb.string(3)  # empty: not known
    shim_pid: int = pb.uint32(4)
    version: str = pb.string(5)


class RenewResponse(_Message):
    pid: int = pb.uint32(1)  # of the nursery, before and after
    former_version: str = pb.string(2)
    version: str = pb.string(3)


VERSION = Method(SERVICE, "Version", VersionRequest, VersionResponse)
# Make a container, up to init waiting for Start (state ISOLATING); with `start`, up to RUNNING.
CREATE = Method(SERVICE, "Create", CreateRequest, Container)
START = Method(SERVICE, "Start", ContainerRequest, Container)
LIST = Method(SERVICE, "List", ListRequest, ListResponse)
INSPECT = Method(SERVICE, "Inspect", ContainerRequest, Container)
# Answers when the container is STOPPED (for a restart policy: stopped for good).
WAIT = Method(SERVICE, "Wait", ContainerRequest, Container)
KILL = Method(SERVICE, "Kill", KillRequest, Empty)
# SIGTERM (or the spec's stop signal), then SIGKILL after the grace; answers when STOPPED. Ends a restart policy.
STOP = Method(SERVICE, "Stop", StopRequest, Container)
PAUSE = Method(SERVICE, "Pause", ContainerRequest, Container)
RESUME = Method(SERVICE, "Resume", ContainerRequest, Container)
# Forget a STOPPED container and delete its directory; with `force`, kill it first. Removing what is gone: NotFound.
REMOVE = Method(SERVICE, "Remove", RemoveRequest, Empty)
# The journal after `since`, and with `follow` on from there.
EVENTS = Method(SERVICE, "Events", EventsRequest, Event, server_streaming=True)
LOGS = Method(SERVICE, "Logs", LogsRequest, LogChunk, server_streaming=True)
# Look at everything again, as after a restart.
# What a shim says when it has events to collect.
NOTIFY = Method(SERVICE, "Notify", ContainerRequest, Empty)
RECOVER = Method(SERVICE, "Recover", Empty, RecoverResponse)
# Put another shim, of the nursery's code, in charge of a container that runs; a failure leaves the one before.
UPGRADE = Method(SERVICE, "Upgrade", UpgradeRequest, UpgradeResponse)
# Have the nursery go on with the code that is installed; a failure leaves it as it is.
RENEW = Method(SERVICE, "Renew", Empty, RenewResponse)
