"""Figures of a process's network interfaces."""

import os
import signal
import socket
from collections.abc import Callable

from leafshim.kernel.network import interfaces

Spawn = Callable[..., tuple[int, int]]

CLONE_NEWNET = 0x40000000  # linux/sched.h
SIOCSIFFLAGS, IFF_UP = 0x8914, 1  # linux/sockios.h, linux/if.h


def test_a_network_of_its_own_is_counted(spawn: Spawn) -> None:
    ready, told = os.pipe()

    def talk_to_itself() -> None:
        from fcntl import ioctl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as talker:
            ioctl(talker, SIOCSIFFLAGS, b"lo".ljust(16, b"\0") + IFF_UP.to_bytes(2, "little") + bytes(22))
            talker.bind(("127.0.0.1", 0))
            talker.sendto(b"x" * 1000, talker.getsockname())
            talker.recv(2000)
        os.write(told, b"x")
        signal.pause()

    pid, _ = spawn(talk_to_itself, flags=CLONE_NEWNET)
    assert os.read(ready, 1) == b"x"
    found = interfaces(pid)
    assert list(found) == ["lo"]
    assert found["lo"]["rx_bytes"] == found["lo"]["tx_bytes"] >= 1000
    assert found["lo"]["tx_packets"] == 1
    assert found["lo"]["rx_errors"] == found["lo"]["tx_dropped"] == 0


def test_our_own_network_is_nobodys() -> None:
    assert interfaces(os.getpid()) == {}


def test_a_process_that_is_gone_has_none(spawn: Spawn) -> None:
    pid, _ = spawn(lambda: None)
    os.waitpid(pid, 0)
    assert interfaces(pid) == {}
