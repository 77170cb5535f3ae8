"""Unix sockets: descriptors over them, who is at the other end, and pathnames of any length.

Rules:
1. A received descriptor is close-on-exec from its first moment (MSG_CMSG_CLOEXEC), and never lost: where the kernel
   could not deliver all of them, those that came are closed and it is an error.
2. A socket is 0600 when it appears. Its mode is that of the unbound socket's inode (fchmod before bind, Linux), so no
   umask is set, which would be the whole process's.
3. A socket somebody listens on is never replaced, one whose listener died is. The directory is locked meanwhile: of two
   that start at once, one gets it.

sun_path holds 108 bytes (unix(7)), a path may have 4096: bind and connect then go through /proc/self/fd.
"""

import errno
import fcntl
import os
import socket
import stat
import struct

from leafshim.errors import AlreadyExists, DeadlineExceeded, InputError, KernelError, ProtocolError, Unavailable

MAX_DESCRIPTORS = 253  # SCM_MAX_FD: more in one message is EINVAL
_LONGEST = 107  # bytes of sun_path without the final NUL
_INT = struct.Struct("i")
_UCRED = struct.Struct("3i")
_TIMEVAL = struct.Struct("ll")


def send(connection: socket.socket, data: bytes, descriptors: list[int]) -> int:
    """Send `data`, at least one byte of it, with copies of `descriptors`: the number of bytes sent.

    The descriptors travel with the first byte: on a stream, what is left of the data is sent without them.
    Raises KernelError.
    """
    rights = (
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))]
        if descriptors
        else []
    )
    try:
        return connection.sendmsg([data], rights)
    except OSError as error:
        raise KernelError.of(error, "sendmsg") from error


def receive(connection: socket.socket, size: int, limit: int = MAX_DESCRIPTORS) -> tuple[bytes, list[int]]:
    """Up to `size` bytes, b"" at the end, and the descriptors that came with them, the caller's to close.

    Raises ProtocolError for a message that was cut short: more than `limit` descriptors, more than `size` bytes of a
    packet, or no room for the descriptors in our table (recvmsg(2), MSG_CTRUNC). Raises KernelError.
    """
    descriptors: list[int] = []
    try:
        data, ancillary, flags, _ = connection.recvmsg(
            size, socket.CMSG_LEN(limit * _INT.size), socket.MSG_CMSG_CLOEXEC
        )
    except OSError as error:
        raise KernelError.of(error, "recvmsg") from error
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.extend(fd for (fd,) in _INT.iter_unpack(content))
    if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
        for fd in descriptors:
            os.close(fd)
        raise ProtocolError("a message with descriptors was cut short")
    return data, descriptors


def peer_credentials(connection: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of who made the other end: of its connect or listen, not of who writes now.

    Raises KernelError.
    """
    try:
        pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    except OSError as error:
        raise KernelError.of(error, "SO_PEERCRED") from error
    return pid, uid, gid


def listen(path: str, backlog: int = 128, *, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A socket listening at `path`, mode 0600, close-on-exec. `kind`: SOCK_STREAM or SOCK_SEQPACKET.

    Raises AlreadyExists where somebody listens there or it is no socket, InputError for a name that does not fit,
    KernelError.
    """
    try:
        directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)  # which is why it is no O_PATH
            return _listen(path, directory, backlog, kind)
        finally:
            os.close(directory)
    except OSError as error:
        raise KernelError("listen", error.errno or 0, path) from error


def connect(path: str, *, kind: int = socket.SOCK_STREAM, timeout: float | None = None) -> socket.socket:
    """A blocking connection to the socket at `path`, close-on-exec.

    `timeout`: seconds to wait for a place in the listener's backlog; None waits for ever, as a stopped listener makes
    one. Raises Unavailable where nobody listens, DeadlineExceeded, KernelError.
    """
    connection = socket.socket(socket.AF_UNIX, kind)
    try:
        if timeout is not None:
            # Not settimeout: a non-blocking connect to a full backlog fails at once, and POLLOUT never says when to try
            # again. The kernel's own time limit waits (unix(7), SO_SNDTIMEO). 0 would mean no limit.
            _limit(connection, max(timeout, 1e-6))
        _reach(connection, path)
        _limit(connection, 0)
    except OSError as error:
        connection.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            raise Unavailable(f"{path}: nobody listens ({os.strerror(error.errno)})") from error
        if error.errno == errno.EAGAIN:
            raise DeadlineExceeded(f"{path}: no answer within {timeout} s") from error
        raise KernelError("connect", error.errno or 0, path) from error
    return connection


def _listen(path: str, directory: int, backlog: int, kind: int) -> socket.socket:
    address = _bindable(path, directory)
    _discard_stale(path, kind)
    listener = socket.socket(socket.AF_UNIX, kind)
    try:
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(address)
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener


def _bindable(path: str, directory: int) -> str:
    if len(os.fsencode(path)) <= _LONGEST:
        return path
    name = os.path.basename(path)
    short = f"/proc/self/fd/{directory}/{name}"
    if len(os.fsencode(short)) > _LONGEST:
        raise InputError(f"{path}: the name of a socket must not be longer than {_LONGEST - len(short) + len(name)}")
    return short


def _discard_stale(path: str, kind: int) -> None:
    """Unlink a socket that nobody listens on. Its file says nothing of that: only trying to connect does."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise AlreadyExists(f"{path}: exists and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            _reach(probe, path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EPROTOTYPE):  # a full backlog, another kind: somebody is there
                raise
    raise AlreadyExists(f"{path}: somebody listens there")


def _reach(connection: socket.socket, path: str) -> None:
    """connect(2) by the socket's inode, so that the path may be of any length."""
    target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{target}")
    finally:
        os.close(target)


def _limit(connection: socket.socket, seconds: float) -> None:
    whole, fraction = divmod(seconds, 1)
    timeval = _TIMEVAL.pack(int(whole), int(fraction * 1e6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
