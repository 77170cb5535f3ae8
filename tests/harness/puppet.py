"""A container that does what a test tells it to, and the events that its shim tells."""

import os
from collections.abc import Iterator
from pathlib import Path

from leafshim.api import shim
from leafshim.api.shim import CreateOptions, Event, Exit, Limitation, Policy
from leafshim.kernel import fdpass
from tests.harness.shim import Shim

_PATIENCE = 120.0  # s; for an event that should take milliseconds, in a guest on a busy machine


class Puppet:
    """A container whose init executes the Python programs that it is told to, one after the other."""

    def __init__(self, web: Shim, directory: Path) -> None:
        self.web = web
        self._fifo = directory / "orders"
        os.mkfifo(self._fifo)
        self._mount = {"destination": "/mnt", "type": "bind", "source": str(directory), "options": ["rbind"]}
        self._bell = fdpass.listen(str(directory / "bell"))
        self._bell.settimeout(_PATIENCE)

    def run(self, resources: dict[str, object] | None = None, policy: Policy | None = None) -> int:
        """Start it; the pid."""
        program = "while True: exec(open('/mnt/orders').read())"
        options = CreateOptions(supervisor=str(self._fifo.parent / "bell"), policy=policy)
        return self.web.run("python3", "-c", program, mounts=[self._mount], resources=resources, options=options)

    def do(self, program: str) -> None:
        """Have init execute it; returns once it has it."""
        self._fifo.write_text(program)

    def fork(self, program: str) -> None:
        """Have a child of init execute it, and init wait for its end."""
        self.do(f"import subprocess; subprocess.run(['python3', '-c', {program!r}])")

    def rung(self) -> None:
        """Wait until the shim rings for somebody to collect its events."""
        self._bell.accept()[0].close()

    def close(self) -> None:
        self._bell.close()


def follow(web: Shim, after: int = 0) -> Iterator[Event]:
    """Its events as they happen."""
    with web.connect() as client:
        yield from client.stream(shim.EVENTS, shim.EventsRequest(after=after), timeout=_PATIENCE)


def until(web: Shim, kind: str, after: int = 0) -> list[Event]:
    """Its events after number `after`, up to the first of that type."""
    seen = []
    for event in follow(web, after):
        seen.append(event)
        if event.type == kind:
            break
    return seen


def wait_for(web: Shim, kind: str, message: str) -> None:
    """Until there is an event of that type with that message."""
    next(event for event in follow(web) if (event.type, event.message) == (kind, message))


def limitation(event: Event) -> Limitation:
    assert event.limitation is not None
    return event.limitation


def figures(found: Limitation) -> dict[str, int]:
    return {figure.name: figure.value for figure in found.figures}


def ended(web: Shim) -> Exit:
    """How it ended, as its last event and the shim itself say."""
    end = until(web, "exit")[-1].exit
    assert end is not None
    assert web.info().exit == end
    return end


def kinds(web: Shim) -> list[str]:
    """The types of all its events."""
    return [event.type for event in web.client.call(shim.COLLECT, shim.EventsRequest()).events]
