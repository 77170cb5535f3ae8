"""A workload that ends with the status that it is told, says when it is up, and so lets a test know the truth."""

import os
import select
from pathlib import Path

from leafd.describe import describe
from leafd.describe_nested import describe_nested

POLITE_STATUS = 23  # of a polite one that was asked to end
_UP = b"up\n"
_PROGRAM = "{trap}echo up; echo up > /mnt/told; read status < /mnt/orders; echo end $status; exit $status"
_TRAP = f"trap 'exit {POLITE_STATUS}' TERM; "


class Commanded:
    """`directory`: where its two fifos are made. `polite`: it ends on SIGTERM; else, being an init, it ignores that."""

    def __init__(self, directory: Path, *, polite: bool = False, nested: bool = False) -> None:
        directory.mkdir()
        for name in ("orders", "told"):
            os.mkfifo(directory / name)
        # Open for both: neither its reads nor ours see an end of file, and nobody's open waits.
        self._orders = os.open(directory / "orders", os.O_RDWR | os.O_CLOEXEC)
        self._told = os.open(directory / "told", os.O_RDWR | os.O_CLOEXEC)
        command = ["sh", "-c", _PROGRAM.format(trap=_TRAP if polite else "")]
        self.document = describe_nested(command) if nested else describe(command)
        mounts = self.document.get("mounts", [])
        assert isinstance(mounts, list)
        mount = {"destination": "/mnt", "type": "bind", "source": str(directory), "options": ["rbind"]}
        self.document["mounts"] = [*mounts, mount]

    def up(self, patience: float) -> None:
        """Wait until a run of it is up: each is told once."""
        told = b""
        while len(told) < len(_UP):
            assert select.select([self._told], [], [], patience)[0], "it was started and does not run"
            told += os.read(self._told, len(_UP) - len(told))
        assert told == _UP

    def end(self, status: int) -> None:
        """Have it end with that status."""
        os.write(self._orders, b"%d\n" % status)

    def close(self) -> None:
        os.close(self._orders)
        os.close(self._told)
