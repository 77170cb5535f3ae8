"""What the service manager is told, and the watchdog: sd_notify(3), in as many lines as it takes.

Rules:
1. Without $NOTIFY_SOCKET nothing is told; a manager that does not listen any more is no failure of ours.
2. The heart beats in the event loop itself. A loop that is stuck does not beat: then the manager's watchdog
   ($WATCHDOG_USEC, `WatchdogSec=`) ends leafd and starts it again, which no container notices.
3. Where nobody watches from outside, we do: after `limit` seconds without a beat the interpreter writes to standard
   error where each thread is, and ends with status 1. It does that in C, so it needs no loop and no lock of Python's
   (faulthandler.dump_traceback_later).
"""

import asyncio
import faulthandler
import os
import socket
import time
from collections.abc import Mapping


class ServiceManager:
    """The one that started us, as `environment` has it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "") if watched else ""
        self.patience = int(microseconds) / 1e6 if microseconds.isdecimal() else 0.0
        """s, after which a leafd that does not beat is ended; 0: it is not watched."""

    def ready(self) -> None:
        """Clients are served; also the end of a reload."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """The end was asked for."""
        self._tell("STOPPING=1")

    def reloading(self) -> None:
        """Everything is looked at again; `ready` follows. (The time is what Type=notify-reload compares.)"""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def alive(self) -> None:
        """One beat."""
        self._tell("WATCHDOG=1")

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.setblocking(False)
                line.sendto(state.encode(), address)
        except OSError:
            return


async def beat(manager: ServiceManager, limit: float) -> None:
    """Beat until cancelled, twice within the shorter patience. `limit`: as rule 3 has it, in seconds."""
    pause = min(limit, manager.patience or limit) / 2
    try:
        while True:
            manager.alive()
            faulthandler.dump_traceback_later(limit, exit=True)  # in place of the one before
            await asyncio.sleep(pause)
    finally:
        faulthandler.cancel_dump_traceback_later()
