"""The socket that clients connect to: made here, or handed over by the service manager, sd_listen_fds(3).

Rules:
1. One that was handed over is systemd's: it stays when leafd goes, and clients wait in its backlog for the next leafd.
   So its path is not removed.
2. It has to be the socket at the configured path, since shims ring there, and private: no mode beyond 0600 (pitfall of
   a unit file, where SocketMode= is 0666 by default).
"""

import os
import socket
import stat
from collections.abc import Mapping

from leafshim.errors import InputError
from leafshim.kernel import fdpass

FIRST = 3
"""SD_LISTEN_FDS_START."""


class Listener:
    """A listening stream socket. `handed_over`: it is not ours to remove."""

    def __init__(self, path: str, backlog: int, environment: Mapping[str, str]) -> None:
        """Listen at `path`. Raises InputError for descriptors that are not what they should be, and what
        fdpass.listen raises."""
        self.path = path
        self.handed_over = _count(environment) > 0
        self.socket = _inherited(path, _count(environment)) if self.handed_over else fdpass.listen(path, backlog)

    def remove(self) -> None:
        """Remove the path, where it is ours."""
        if not self.handed_over:
            os.unlink(self.path)


def _count(environment: Mapping[str, str]) -> int:
    """How many descriptors were handed over to this very process: the variables are inherited by its children, too."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return 0
    count = environment.get("LISTEN_FDS", "")
    return int(count) if count.isdecimal() else 0


def _inherited(path: str, count: int) -> socket.socket:
    if count != 1:
        raise InputError(f"LISTEN_FDS={count}: leafd takes one socket")
    try:
        os.set_inheritable(FIRST, False)
        listener = socket.socket(fileno=FIRST)
        right = (
            listener.family == socket.AF_UNIX
            and listener.type == socket.SOCK_STREAM
            and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        )
    except OSError as error:
        raise InputError(f"LISTEN_FDS=1: descriptor {FIRST}: {error.strerror}") from error
    if not right:
        raise InputError(f"LISTEN_FDS=1: descriptor {FIRST} is no listening unix stream socket")
    name = listener.getsockname()
    if os.path.realpath(name) != os.path.realpath(path):
        raise InputError(f"LISTEN_FDS=1: listens at {name}, and leafd's socket is {path}")
    mode = stat.S_IMODE(os.lstat(name).st_mode)
    if mode & 0o177:
        raise InputError(f"{name}: mode {mode:04o}: must not be more than 0600 (SocketMode=)")
    return listener
