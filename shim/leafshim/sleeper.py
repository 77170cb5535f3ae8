"""The sleeper: what is left of a shim while nothing happens, and the parent of its container.

    sleeper ──fork──▶ worker: the whole shim, for as long as there is something to do
       ▲ │               │
       │ └── reaped pids ▶ │
       └── snapshot + descriptors, then it ends

In Python even reading writes: every use of an object counts references, and a page once written is no longer shared
with the other shims. So the sleeper executes next to nothing: it waits for what may wake it, forks a worker, and passes
on what it reaps. The worker does everything else, and when nothing is under way it hands what it knows back and ends. A
sleeper never grows, and no defect in the worker's code can cost a container its parent.

Rules:
1. The sleeper makes no decision about the container and understands nothing of the snapshot.
2. It keeps the descriptors of the last snapshot; a worker inherits them with the fork.
3. Every status that it reaps is passed on, and kept until a snapshot says that it was taken in.
4. A worker that ends without a last snapshot has crashed. The next one goes on from the last snapshot that there is;
   after `CRASHES` in a row it waits for the next event, so that a defect does not burn the machine.

A message on the line is one packet. To the worker: `pid status`. From the worker: a header, a mask for each descriptor,
the snapshot; or, from the first one, the container's identity and the listening socket.
"""

import errno
import os
import select
import socket
import struct
import time

from leafshim.errors import KernelError
from leafshim.kernel import fdpass, signals

CRASHES = 3
PACKET_MAX = 1 << 20
HEADER = struct.Struct("=IdBB")  # reaped and taken in, deadline (monotonic s, 0 none), whether it is the last, count
GOING_ON, RESTING, DONE, ASSIGNED, LEAVING = 0, 1, 2, 3, 4


class Sleeper:
    """`arrivals` (a signalfd) is a descriptor, as are `listener` and those of the last `snapshot`.

    `identity`: the container's id, NUL, its directory; empty before the first worker has learnt it.
    `reaped`: (pid, wait status) of children that no snapshot has taken in yet. `rung`: the descriptors that ended the
    last sleep; a pressure trigger would not say it again.
    """

    def __init__(self, arrivals: int) -> None:
        self.arrivals = arrivals
        self.identity = b""
        self.listener = -1
        self.snapshot = b""
        self.descriptors: list[int] = []
        self.reaped: list[tuple[int, int]] = []
        self.rung: list[int] = []
        self._masks: list[int] = []
        self._deadline = 0.0
        self._verdict = RESTING

    def sleep(self) -> None:
        """Wait until there is something for a worker to do."""
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        poll.register(self.arrivals, select.POLLIN)
        for fd, mask in zip(self.descriptors, self._masks, strict=True):
            if mask:
                poll.register(fd, mask)
        self.rung = []
        while not self.reaped:
            left = max(0.0, self._deadline - time.monotonic()) * 1000 if self._deadline else None
            ready = poll.poll(left)
            if not ready or any(fd != self.arrivals for fd, _ in ready):
                self.rung = [fd for fd, _ in ready]
                return
            self._reap()

    def supervise(self, worker: int, line: socket.socket) -> bool:
        """Stay with a worker until it has ended; False when the shim's work is done."""
        poll = select.poll()
        poll.register(line.fileno(), select.POLLIN)
        poll.register(self.arrivals, select.POLLIN)
        self._verdict = GOING_ON
        ended = hung_up = False
        while not (ended and hung_up):
            for fd, _ in poll.poll():
                if fd == self.arrivals:
                    ended = self._reap(worker, line) or ended
                elif not self._take(line):
                    hung_up = True
                    poll.unregister(line.fileno())
        if self._verdict == LEAVING:  # what we reaped meanwhile nobody else would learn: then we stay
            return bool(self.reaped)
        return self._verdict != DONE

    @property
    def crashed(self) -> bool:
        """The last worker ended without a word."""
        return self._verdict == GOING_ON

    def _reap(self, worker: int = 0, line: socket.socket | None = None) -> bool:
        """Reap all that there is; True when the worker was among them."""
        signals.drain(self.arrivals)
        found = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            if pid == worker:
                found = True
                continue
            self.reaped.append((pid, status))
            if line is not None:
                try:
                    line.send(b"%d %d" % (pid, status))
                except OSError:
                    pass  # the worker is gone; the next one finds it in `reaped`

    def _take(self, line: socket.socket) -> bool:
        """A snapshot in place of the one before; False at the end of the line."""
        try:
            packet, descriptors = fdpass.receive(line, PACKET_MAX)
        except KernelError as error:
            # A worker that ended without reading our last packet resets the line; what it sent is still there to be
            # read (unix(7): the pending error is told first, and once).
            return error.errno in (errno.ECONNRESET, errno.EAGAIN)
        if not packet:
            return False
        taken, deadline, verdict, count = HEADER.unpack_from(packet)
        if verdict == ASSIGNED:
            self.identity, (self.listener,) = packet[HEADER.size :], descriptors
            return True
        self._deadline, self._verdict = deadline, verdict
        del self.reaped[:taken]
        for fd in self.descriptors:
            os.close(fd)
        self.descriptors = descriptors
        self._masks = list(packet[HEADER.size : HEADER.size + count])
        self.snapshot = packet[HEADER.size + count :]
        return True
