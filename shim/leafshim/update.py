"""Task.Update: other limits for a container that lives.

The request carries `linux.resources` as JSON. What it does not name stays as it is; what it names is changed together
or not at all. A value of -1, or `default` for a file in `unified`, switches a limit off.

A memory limit below what is in use makes the kernel reclaim first, in steps between which everything else goes on.
When that does not suffice the update is refused with the figures, and nothing was changed. With the annotation
`leafd.memory-shrink: kill` the limit is set at once instead, and the kernel's OOM killer makes room;
`checkBeforeUpdate` of the specification outweighs it.

What was changed lasts: it is in the description too before the update is answered (description.py).
"""

import json
from collections.abc import Iterator

from leafshim.api.task import UpdateTaskRequest
from leafshim.cgroup import devices
from leafshim.cgroup.isolator import Settings
from leafshim.container import Container
from leafshim.crashes import crash
from leafshim.description import Draft
from leafshim.errors import InputError, LeafError, StateError
from leafshim.loop import Loop
from leafshim.process import Done, Failure
from leafshim.spec import load_resources
from leafshim.state import ISOLATING, RUNNING

URL = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"

SHRINK = "leafd.memory-shrink"
_SHRINKS = {"refuse": False, "kill": True}


def begin(loop: Loop, container: Container, request: UpdateTaskRequest, done: Done, failed: Failure) -> None:
    """Check the request and carry it out; exactly one of the callbacks is called then, once.

    Raises InputError for what is no update at all, NotFound, StateError for a container that has ended.
    """
    resources = request.resources
    container.process("")
    if container.state not in (ISOLATING, RUNNING):
        raise StateError(f"container {container.id} is {container.state}")
    if shared := container.options.shared_cgroup:
        raise StateError(f"container {container.id} has no limits of its own: they are those of {shared}")
    if resources is None or resources.type_url != URL:
        raise InputError(f"resources: must be {URL}")
    shrink = request.annotations.get(SHRINK, "refuse")
    if shrink not in _SHRINKS:
        raise InputError(f"annotations.{SHRINK}: {shrink!r}: must be one of {', '.join(_SHRINKS)}")
    steps = _steps(container, resources.value, kill=_SHRINKS[shrink])

    def advance() -> None:
        try:
            next(steps)
        except StopIteration:
            done()
        except LeafError as error:
            failed(error)
        else:
            loop.call_later(0, advance)

    advance()


def _steps(container: Container, document: bytes, *, kill: bool) -> Iterator[None]:
    wanted = load_resources(document)
    isolator = container.isolator()

    def accepted(settings: Settings) -> None:
        draft = Draft(container.bundle, settings, json.loads(document).get("devices"))
        try:
            if wanted.devices:
                devices.prepare(isolator.cgroup, wanted.devices)
            crash("update-accepted")
            draft.keep()
            crash("update-kept")
        except BaseException:
            draft.discard()
            raise

    yield from isolator.update(wanted.limits, kill=kill, accepted=accepted)
    if container.watcher is not None:  # which the container's end has closed, if that came first
        container.watcher.extend()
