"""What a child on its way to execve and its parent say to each other, over one close-on-exec SOCK_SEQPACKET pair.

    child                        parent
      ── maps wanted ──────────▶            only with a user namespace
      ◀───────────── mapped ───             uid_map and gid_map are written
      ── ready [+ console] ────▶
      ◀──────────── release ───             at any time: the child may find that it has come already
      execve: end of file ─────▶
      ── failed ───────────────▶            at any time instead; the child then exits

A message is one packet: its kind, one byte, and for `failed` the error.
"""

import os
import socket
import struct

from leafshim.errors import InternalError, KernelError, LeafError, from_status

MAPS_WANTED = b"M"
READY = b"R"
FAILED = b"F"
MAPPED = b"G"
RELEASE = b"X"

_KERNEL_ERROR = -1
"""In the place of a google.rpc.Code, which is never negative."""

_FAILURE = struct.Struct("=cii")
_DESCRIPTOR = struct.Struct("i")
_LONGEST = 16384


def pair() -> tuple[socket.socket, socket.socket]:
    """The parent's end and the child's. Raises KernelError."""
    try:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise KernelError.of(error, "socketpair") from error


class Channel:
    """The child's end. Blocking; a parent that is gone ends the child, because nobody can release it any more."""

    __slots__ = ("_heard", "_socket")

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._heard = b""

    def fileno(self) -> int:
        """The descriptor."""
        return self._socket.fileno()

    def send(self, message: bytes, descriptor: int = -1) -> None:
        """Tell the parent. `descriptor` goes along unless it is negative."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _DESCRIPTOR.pack(descriptor))] if descriptor >= 0 else []
        self._socket.sendmsg([message], rights)

    def wait(self, message: bytes) -> None:
        """Block until the parent has said this. Exits when the parent is gone."""
        while message not in self._heard:
            heard = self._socket.recv(1)
            if not heard:
                os._exit(1)
            self._heard += heard


def failed(error: LeafError) -> bytes:
    """The message `failed`."""
    if isinstance(error, KernelError):
        texts, code, number = (error.syscall, error.path), _KERNEL_ERROR, error.errno
    else:
        texts, code, number = (str(error), ""), error.code, 0
    return (_FAILURE.pack(FAILED, code, number) + "\0".join(texts).encode(errors="replace"))[:_LONGEST]


def failure(message: bytes) -> LeafError:
    """The error that a `failed` message carries, of the class that the child raised."""
    if len(message) < _FAILURE.size:
        return InternalError("the child sent a malformed message")
    _, code, number = _FAILURE.unpack_from(message)
    text, _, path = message[_FAILURE.size :].decode(errors="replace").partition("\0")
    return KernelError(text, number, path) if code == _KERNEL_ERROR else from_status(code, text)
