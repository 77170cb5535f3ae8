"""A file system whose server does not answer: who looks something up in it waits, and not even SIGKILL ends that.

It is FUSE without a program behind it (Documentation/filesystems/fuse/fuse.rst). A request that the server has taken
and not answered keeps who made it: until a fatal signal in an interruptible sleep, from then on uninterruptible (state
D, `request_wait_answer`). Closing the server's last descriptor aborts the connection, and everybody who waits goes on;
so the process that mounts must not keep a copy, as it is the one that will wait.
"""

import os
import select
import struct
import threading
from typing import Self

from leafshim.kernel import mounts
from leafshim.kernel.namespaces import CLONE_NEWNS, unshare

_LOOKUP, _GETATTR, _INIT = 1, 3, 26  # linux/fuse.h, enum fuse_opcode
_REQUEST = struct.Struct("=IIQQIIIHH")  # fuse_in_header: length, opcode, unique, …
_REPLY = struct.Struct("=IiQ")  # fuse_out_header
_INIT_OUT = struct.pack("=IIIIHHIIHH7I", 7, 31, 0, 0, 0, 0, 1 << 16, 1, 0, 0, *[0] * 7)
_ROOT = struct.pack("=QII 6Q 3I 7I", 3600, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
_PATIENCE = 60.0  # s


class Stuck:
    """The server. `fd` is to be open in the process that mounts."""

    def __init__(self) -> None:
        self.fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._asked = threading.Event()
        self._thread: threading.Thread | None = None

    def mount(self, path: str) -> None:
        """In a child of ours: mount it at `path`, in a mount namespace of its own."""
        unshare(CLONE_NEWNS)
        mounts.mount("none", "/", "", mounts.MS_REC | mounts.MS_PRIVATE, "")
        mounts.mount("stuck", path, "fuse", 0, f"fd={self.fd},rootmode=40000,user_id=0,group_id=0")
        os.close(self.fd)

    def serve(self) -> None:
        """Begin to serve, once it is mounted: it can be looked at, and what is in it cannot."""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def wait_for_caller(self) -> None:
        """Return when somebody is caught."""
        assert self._asked.wait(_PATIENCE)

    def release(self) -> None:
        """Let everybody go, with ENOTCONN."""
        if self.fd >= 0:
            os.eventfd_write(self._stop, 1)
            if self._thread is not None:
                self._thread.join()
            os.close(self._stop)
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        while self._stop not in (ready := dict(poll.poll())):
            if not ready[self.fd] & select.POLLIN:
                return  # aborted: the mount is gone
            opcode, unique = _REQUEST.unpack_from(os.read(self.fd, 1 << 17))[1:3]
            if opcode in (_INIT, _GETATTR):
                answer = _INIT_OUT if opcode == _INIT else _ROOT
                os.write(self.fd, _REPLY.pack(_REPLY.size + len(answer), 0, unique) + answer)
            elif opcode == _LOOKUP:
                self._asked.set()
