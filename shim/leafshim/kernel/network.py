"""What went through the network interfaces of a process (proc_pid_net(5), /proc/PID/net/dev)."""

import os

_COLUMNS = {
    "rx_bytes": 0,
    "rx_packets": 1,
    "rx_errors": 2,
    "rx_dropped": 3,
    "tx_bytes": 8,
    "tx_packets": 9,
    "tx_errors": 10,
    "tx_dropped": 11,
}


def interfaces(pid: int) -> dict[str, dict[str, int]]:
    """interface → what it received and sent since it is there, in bytes and packets.

    Empty for a process that has our own network, whose traffic is everybody's, and for one that is gone.
    """
    try:
        if os.path.samefile(f"/proc/{pid}/ns/net", "/proc/self/ns/net"):
            return {}
        with open(f"/proc/{pid}/net/dev", "rb", buffering=0) as file:
            lines = file.read().decode().splitlines()[2:]
    except OSError:
        return {}
    rows = (line.partition(":") for line in lines)
    return {name.strip(): _counts(counts.split()) for name, _, counts in rows}


def _counts(words: list[str]) -> dict[str, int]:
    return {name: int(words[column]) for name, column in _COLUMNS.items()}
