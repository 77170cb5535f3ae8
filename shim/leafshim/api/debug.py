"""What a shim tells of itself: the messages and the method of debug.proto."""

from typing import ClassVar

from leafshim.ttrpc import protobuf as pb
from leafshim.ttrpc.service import Method

SERVICE = "leafd.debug.v1.Debug"


class _Message(pb.Message):
    package: ClassVar[str] = "leafd.debug.v1"


class LookRequest(_Message):
    pass


class Descriptor(_Message):
    fd: int = pb.uint32(1)
    target: str = pb.string(2)  # as /proc/PID/fd has it
    watched: bool = pb.boolean(3)  # the loop waits for it


class LoopEvent(_Message):
    """A callback that the loop called."""

    timestamp: int = pb.int64(1)  # nanoseconds since the epoch
    timer: bool = pb.boolean(2)  # a deadline; then there is no fd
    fd: int = pb.uint32(3)
    mask: int = pb.uint32(4)  # as epoll_ctl(2) has it
    callback: str = pb.string(5)


class LookResponse(_Message):
    worker_pid: int = pb.uint32(1)
    at_rest: bool = pb.boolean(2)  # nothing is under way but what the clients want
    descriptors: list[Descriptor] = pb.repeated(pb.message(Descriptor, 3))
    history: list[LoopEvent] = pb.repeated(pb.message(LoopEvent, 4))  # oldest first, since this worker was forked
    stack: list[str] = pb.repeated(pb.string(5))  # Python's, innermost first: file:line function


# The worker that answers: its descriptors, what its loop did last, where it is.
LOOK = Method(SERVICE, "Look", LookRequest, LookResponse)
