"""Every failure that leafd reports, told apart by whose fault it was.

    LeafError
    ├── InputError           the caller's: a value, a path in a document, a name   (INVALID_ARGUMENT)
    ├── NotFound             the caller's: no such container, exec, file           (NOT_FOUND)
    ├── AlreadyExists        the caller's: the name is taken                       (ALREADY_EXISTS)
    ├── StateError           the caller's: not in the container's present state    (FAILED_PRECONDITION)
    ├── Unsupported          ours: this build or host cannot do it, by name        (UNIMPLEMENTED)
    ├── InternalError        ours: a defect                                        (INTERNAL)
    ├── DamagedRecord        the disk's: a torn, foreign or unreadable file        (DATA_LOSS)
    ├── KernelError          the kernel's: syscall, errno, path                    (code by errno)
    └── PeerError            the peer's
        ├── ProtocolError    it broke the protocol                                 (INTERNAL)
        ├── Unavailable      it is not there, or went away                         (UNAVAILABLE)
        ├── DeadlineExceeded it did not answer in time; that does not mean dead    (DEADLINE_EXCEEDED)
        └── ResourceExhausted  it, or we, would have to buffer too much            (RESOURCE_EXHAUSTED)

`code` is a google.rpc.Code, so that an error crosses a ttrpc connection and comes out as the same class
(`from_status`). `str(error)` is one clear line for a person; it never contains a newline.
"""

import errno as _errno
import os


class Code:
    """google.rpc.Code values (google/rpc/code.proto)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15


class LeafError(Exception):
    """Root of the tree. `code`: a google.rpc.Code."""

    code: int = Code.UNKNOWN

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split("\n")))


class InputError(LeafError):
    """A bad value from the caller, refused before anything happened. The message names the value or its path."""

    code = Code.INVALID_ARGUMENT


class NotFound(LeafError):
    """The container, exec or file that the caller named does not exist."""

    code = Code.NOT_FOUND


class AlreadyExists(LeafError):
    """The name is taken."""

    code = Code.ALREADY_EXISTS


class StateError(LeafError):
    """The operation does not fit the container's present state; nothing was changed."""

    code = Code.FAILED_PRECONDITION


class Unsupported(LeafError):
    """This build or this host cannot do it; the message names what is missing."""

    code = Code.UNIMPLEMENTED


class InternalError(LeafError):
    """A defect of ours."""

    code = Code.INTERNAL


class DamagedRecord(LeafError):
    """A file on disk that cannot be trusted; `path` and `cause` say which and why."""

    code = Code.DATA_LOSS

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(f"{path}: {cause}")
        self.path = path
        self.cause = cause


_CODE_OF_ERRNO = {
    _errno.ENOENT: Code.NOT_FOUND,
    _errno.ESRCH: Code.NOT_FOUND,
    _errno.EEXIST: Code.ALREADY_EXISTS,
    _errno.EPERM: Code.PERMISSION_DENIED,
    _errno.EACCES: Code.PERMISSION_DENIED,
    _errno.ENOSPC: Code.RESOURCE_EXHAUSTED,
    _errno.ENOMEM: Code.RESOURCE_EXHAUSTED,
    _errno.EMFILE: Code.RESOURCE_EXHAUSTED,
    _errno.ENOSYS: Code.UNIMPLEMENTED,
}


class KernelError(LeafError):
    """The kernel refused. `syscall` (or the step's name), `errno`, `path` (may be empty)."""

    def __init__(self, syscall: str, errno: int, path: str = "") -> None:
        super().__init__(f"{syscall}{' ' + path if path else ''}: {os.strerror(errno)}")
        self.syscall = syscall
        self.errno = errno
        self.path = path
        self.code = _CODE_OF_ERRNO.get(errno, Code.UNKNOWN)

    @classmethod
    def of(cls, error: OSError, step: str = "") -> "KernelError":
        """The same failure, from an OSError that Python raised; `step` says what was tried ("read", "mkdir")."""
        return cls(step or "system call", error.errno or 0, str(error.filename) if error.filename is not None else "")


class PeerError(LeafError):
    """The other end of a connection failed us. A status with an unknown code also arrives as this."""


class ProtocolError(PeerError):
    """The peer sent what the protocol does not allow."""

    code = Code.INTERNAL


class Unavailable(PeerError):
    """The peer is not there, refuses connections, or closed the connection before it answered."""

    code = Code.UNAVAILABLE


class DeadlineExceeded(PeerError):
    """The peer did not answer in time. Not answering is not dead."""

    code = Code.DEADLINE_EXCEEDED


class ResourceExhausted(PeerError):
    """A message or a queue is over its limit."""

    code = Code.RESOURCE_EXHAUSTED


_CLASS_OF_CODE: dict[int, type[LeafError]] = {
    Code.INVALID_ARGUMENT: InputError,
    Code.NOT_FOUND: NotFound,
    Code.ALREADY_EXISTS: AlreadyExists,
    Code.FAILED_PRECONDITION: StateError,
    Code.UNIMPLEMENTED: Unsupported,
    Code.INTERNAL: InternalError,
    Code.RESOURCE_EXHAUSTED: ResourceExhausted,
    Code.UNAVAILABLE: Unavailable,
    Code.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def from_status(code: int, message: str) -> LeafError:
    """The error that a peer reported in a google.rpc.Status; its `code` is the status's."""
    error = _CLASS_OF_CODE.get(code, PeerError)(message)
    error.code = code
    return error
