"""The shim's main: what a process does from its fork (or cold start) until its container is deleted.

Rules:
1. It depends on nothing alive but the kernel: supervisor, nursery and clients may all be gone.
2. It has a session of its own and drops the signals that a terminal or an impatient operator sends; only Shutdown,
   or SIGKILL, ends it. A SIGKILL ends no container.
3. It is a subreaper (prctl(2)): what an exec leaves behind becomes our child, and is reaped.
4. What does not depend on the container is made before the fork, so that it is made once for all shims.
"""

import os
import signal as signal_numbers
import socket

from leafshim import loop as loops
from leafshim.bundle import Bundle
from leafshim.container import Container
from leafshim.keeper import Keeper
from leafshim.kernel import process, signals
from leafshim.loop import Loop
from leafshim.service import Service
from leafshim.ttrpc.server import Server
from leafshim.ttrpc.service import MethodTable

_SIGNALS = frozenset({signal_numbers.SIGCHLD, signal_numbers.SIGTERM, signal_numbers.SIGINT, signal_numbers.SIGHUP})


class Shim:
    """A shim that has no container yet, nor any descriptor."""

    def __init__(self) -> None:
        self.loop = Loop(self._note_defect)
        self.keeper = Keeper(self.loop)
        self.container = Container(self.loop, self.keeper)
        self.methods = MethodTable(Service(self.loop, self.container).handlers())

    def run(self, container_id: str, bundle: Bundle, listener: socket.socket, nursery: socket.socket | None) -> None:
        """Serve one container on `listener`, until Shutdown. Owns both sockets."""
        os.setsid()
        process.set_name("leafd-shim")
        process.set_child_subreaper(True)
        self.keeper.connect(nursery)
        self.container.begin(container_id, bundle)
        server = Server(self.loop, listener, self.methods, authorized, self._note_defect)
        arrivals = signals.signalfd(_SIGNALS)
        self.loop.add(arrivals, loops.READ, lambda _mask: self._reap(arrivals))
        self.loop.run()
        server.close()
        self.keeper.close()

    def _reap(self, arrivals: int) -> None:
        """One SIGCHLD can stand for many children (signals do not queue): reap until there is none."""
        signals.drain(arrivals)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.container.reaped(pid, status)

    def _note_defect(self, error: BaseException) -> None:
        """A bug of ours must not end the shim, and must not vanish either."""
        import traceback  # only here: it costs more than the shim's other imports together

        with open(os.path.join(self.container.bundle.path, "defects"), "a", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)))


def authorized(pid: int, uid: int, gid: int) -> bool:
    """Root, and whoever the shim runs as, may control it (SO_PEERCRED, unix(7))."""
    return uid in (0, os.geteuid())
