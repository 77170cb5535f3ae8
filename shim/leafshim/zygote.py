"""The zygote: the process that shims are copies of.

A shim shares every page with its siblings that nobody has written since the fork. In Python even reading writes (every
use of an object counts references), and a page that the parent writes between two forks is private to the child of the
first. So what forks must do as little as possible: the nursery talks and keeps, the zygote only forks.

    nursery                       zygote
      ── [line, orders, cgroup] ────▶
      ◀── pid [pidfd] ───────────────    or  !errno system call, where the kernel refused

Rules:
1. One packet a shim, one packet an answer. End of file on the line ends the zygote.
2. A shim is made with CLONE_PARENT: its parent is the nursery, which outlives the zygote and reaps.
3. The child closes all that is not its own before it does anything.
4. A shim does not know its container yet: its order comes later (`Shim.live`).
"""

import gc
import os
import socket
import sys
from typing import NoReturn

from leafshim.crashes import crash
from leafshim.errors import KernelError
from leafshim.kernel import fdpass, signals
from leafshim.kernel.clone import CLONE_PARENT, clone3
from leafshim.shim import SIGNALS, Shim

PACKET_MAX = 8 << 10
REFUSED = b"!"


def serve(line: socket.socket, shim: Shim) -> NoReturn:
    """Fork shims on request, each a copy of `shim`, until the nursery is gone."""
    # One for all: who reads it gets its own signals, not those of whoever made it (signalfd(2)).
    arrivals = signals.signalfd(SIGNALS)
    gc.collect()
    gc.freeze()
    while True:
        request, descriptors = fdpass.receive(line, PACKET_MAX, 3)
        if not request:
            os._exit(0)
        nursery, orders, cgroup = descriptors
        crash("zygote-asked")
        try:
            pid, pidfd = clone3(CLONE_PARENT, cgroup=cgroup)
        except KernelError as error:
            fdpass.send(line, b"%s%d %s" % (REFUSED, error.errno, error.syscall.encode()), [])
        else:
            if pid == 0:
                _become(shim, nursery, orders, arrivals)
            crash("zygote-forked")
            fdpass.send(line, b"%d" % pid, [pidfd])
            os.close(pidfd)
        for fd in descriptors:
            os.close(fd)


def _become(shim: Shim, *own: int) -> NoReturn:
    """The rest of a child's life. The zygote's objects stay referenced by the frames below us, so none of them is
    ever finalized here and closes a descriptor number that has become ours."""
    status = 1
    try:
        first = 3
        for fd in sorted(own):
            os.closerange(first, fd)
            first = fd + 1
        os.closerange(first, 1 << 30)
        shim.live(*own)
        status = 0
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)  # the nursery's log
    finally:
        os._exit(status)
