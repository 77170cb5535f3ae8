"""Run a command in the guest by hand: `python tests/vm/run.py [--systemd] -- COMMAND…`.

It sees the host's files as they are, may write where it likes, and leaves no trace. What it prints comes out here; the
exit status is the command's own, or 125 when the machine itself failed.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.vm.image import MachineError
from tests.vm.machine import Guest, Machine


def main() -> int:
    """Parse the command line, run the command in a guest, and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systemd", action="store_true", help="boot a guest whose first process is systemd")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="the command and its arguments, after --")
    options = parser.parse_args()
    reading, writing = os.pipe()
    try:
        with os.fdopen(writing, "wb") as output:
            guest: Guest = "systemd" if options.systemd else "plain"
            machine = Machine(options.command, directory=Path.cwd(), output=output, guest=guest)
        with machine:
            while data := os.read(reading, 1 << 16):
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            *_, last = machine.events(patience_s=10)
            return int(str(last["exit"]))
    except MachineError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 125


if __name__ == "__main__":
    sys.exit(main())
