"""A trial: could this shim take a container over, whose own shim is still in charge?

The trial is what a takeover does first, with the real checkpoint and the real descriptors, in a process of its own that
ends with it. Whatever goes wrong there, the container has not noticed and its shim has not changed.
"""

import os
from typing import NoReturn

from leafshim import snapshot
from leafshim.bundle import Bundle
from leafshim.checkpoint import Checkpoint
from leafshim.container import Container
from leafshim.errors import NotFound
from leafshim.loop import Loop
from leafshim.streams import OUTPUT

TRIAL = b"?\0"
"""What an order begins with that is only tried. The rest is as in an order: the id, the directory, names."""
ABLE = b"able"
_NEEDED = frozenset({"init", "stdin", *OUTPUT})
_ANSWER_MAX = 1000  # bytes, which fit into a pipe


def try_out(container: Container, loop: Loop, order: bytes, descriptors: list[int]) -> bytes:
    """`ABLE`, or in words why not. Takes the descriptors. `container` and `loop` have not been used yet, nor are they
    by this."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _try(container, loop, order, descriptors, writer)
    os.close(writer)
    for fd in descriptors:
        os.close(fd)
    _, status = os.waitpid(child, 0)
    answer = os.read(reader, _ANSWER_MAX)
    os.close(reader)
    return answer if answer and status == 0 else b"the trial came to no end"


def _try(container: Container, loop: Loop, order: bytes, descriptors: list[int], answers: int) -> NoReturn:
    answer = ABLE
    try:
        container_id, directory, *names = map(os.fsdecode, order.removeprefix(TRIAL).split(b"\0"))
        container.id, container.bundle = container_id, Bundle(directory)
        noted = Checkpoint.read(container.bundle.checkpoint)
        named = dict(zip(names, descriptors, strict=True))
        for name in snapshot.names(noted.snapshot):
            if name in _NEEDED and name not in named:
                raise NotFound(f"{name}: nobody kept it")
        snapshot.restore(container, loop, noted.snapshot, named)
    except Exception as error:  # a defect too: it must not show for the first time when the former shim is gone
        answer = (str(error) or type(error).__name__).encode()[:_ANSWER_MAX]
    finally:
        os.write(answers, answer)
        os._exit(0)
