"""The shim's main: what a process does from its fork (or cold start) until its container is deleted.

Rules:
1. It depends on nothing alive but the kernel: supervisor, nursery and clients may all be gone.
2. It has a session of its own and drops the signals that a terminal or an impatient operator sends; only Shutdown,
   or SIGKILL, ends it. A SIGKILL ends no container.
3. It is a subreaper (prctl(2)): what an exec leaves behind becomes our child, and is reaped.
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

_SIGNALS = (signal_numbers.SIGCHLD, signal_numbers.SIGTERM, signal_numbers.SIGINT, signal_numbers.SIGHUP)


def run(container_id: str, bundle: Bundle, listener: socket.socket, nursery: socket.socket | None) -> None:
    """Serve one container on `listener`, until Shutdown. Owns both sockets."""
    os.setsid()
    process.set_name("leafd-shim")
    process.set_child_subreaper(True)
    loop = Loop(lambda error: _note_defect(bundle, error))
    keeper = Keeper(loop, nursery)
    container = Container(loop, keeper, container_id, bundle)
    server = Server(loop, listener, Service(loop, container).handlers(), authorize=authorized)
    arrivals = signals.signalfd(_SIGNALS)
    loop.add(arrivals, loops.READ, lambda _mask: _reap(arrivals, container))
    loop.run()
    server.close()
    keeper.close()


def authorized(pid: int, uid: int, gid: int) -> bool:
    """Root, and whoever the shim runs as, may control it (SO_PEERCRED, unix(7))."""
    return uid in (0, os.geteuid())


def _reap(arrivals: int, container: Container) -> None:
    """One SIGCHLD can stand for many children (signals do not queue): reap until there is none."""
    signals.drain(arrivals)
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        container.reaped(pid, status)


def _note_defect(bundle: Bundle, error: BaseException) -> None:
    """A bug of ours must not end the shim, and must not vanish either."""
    import traceback  # only here: it costs more than the shim's other imports together

    with open(os.path.join(bundle.path, "defects"), "a", encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
