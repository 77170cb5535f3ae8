"""What the nursery understands, one message a packet: the messages of nursery.proto."""

from typing import ClassVar

from leafshim.ttrpc import protobuf as pb


class _Message(pb.Message):
    package: ClassVar[str] = "leafd.nursery.v1"


class Spawn(_Message):
    """Fork a shim that has no container yet."""

    cgroup: str = pb.string(1)  # absolute path of the cgroup for shims


class Keep(_Message):
    """Hold the attached descriptors under these names (one name a descriptor, same order) for container `id`."""

    id: str = pb.string(1)
    names: list[str] = pb.repeated(pb.string(2))


class Take(_Message):
    """Give copies of all descriptors of `id`."""

    id: str = pb.string(1)


class Forget(_Message):
    """Close the descriptors of `id` that have these names; without any, all."""

    id: str = pb.string(1)
    names: list[str] = pb.repeated(pb.string(2))


class Survey(_Message):
    pass


class Ended(_Message):
    """How a process ended that the nursery has reaped: an init whose shim died."""

    pid: int = pb.uint32(1)
    start_time: int = pb.uint64(2)  # clock ticks after boot


class Renew(_Message):
    """Go on, as the same process, with the code that is installed, once a trial has shown that it can."""

    interpreter: str = pb.string(1)  # absolute path of the Python that has it; empty: the one that runs
    patience: int = pb.uint64(2)  # nanoseconds for the trial; 0: the default


class Request(_Message):
    spawn: Spawn | None = pb.message(Spawn, 1)
    keep: Keep | None = pb.message(Keep, 2)  # descriptors attached
    take: Take | None = pb.message(Take, 3)
    forget: Forget | None = pb.message(Forget, 4)
    survey: Survey | None = pb.message(Survey, 5)
    ended: Ended | None = pb.message(Ended, 6)
    renew: Renew | None = pb.message(Renew, 7)


class Held(_Message):
    id: str = pb.string(1)
    names: list[str] = pb.repeated(pb.string(2))


class Reply(_Message):
    code: int = pb.int32(1)  # google.rpc.Code; 0 is success
    message: str = pb.string(2)
    pid: int = pb.uint32(3)  # Spawn: the shim; its pidfd and the line for its order (shim.py) are attached
    start_time: int = pb.uint64(4)  # Spawn: clock ticks after boot
    names: list[str] = pb.repeated(pb.string(5))  # Take: of the attached descriptors
    held: list[Held] = pb.repeated(pb.message(Held, 6))  # Survey
    version: str = pb.string(7)  # Survey: of leafshim
    nursery_pid: int = pb.uint32(8)  # Survey
    wait_status: int = pb.int32(9)  # Ended, of the process `pid`; wait(2)


class Notice(_Message):
    """A shim ended, however it did."""

    pid: int = pb.uint32(1)
    wait_status: int = pb.int32(2)


class Packet(_Message):
    reply: Reply | None = pb.message(Reply, 1)
    notice: Notice | None = pb.message(Notice, 2)
