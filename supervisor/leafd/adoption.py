"""Another shim for a container whose shim died.

Rules:
1. Only when it is proven that the former shim is no more (`recovery.py`): two shims never own one container.
2. The new shim knows what the former one's checkpoint says, and has the descriptors that the nursery kept: the
   terminal, the ends of the pipes, the listening socket with the clients that wait on it, the pidfd of init. Where the
   nursery is gone too, init's pidfd is ours, or is proven by init's start time, and what was in the pipes is lost.
3. It is in charge when its own checkpoint says so. Until then the container is as before, and an attempt that failed
   may be repeated.
"""

import os
import socket
from collections.abc import Sequence

from leafd import recovery
from leafd.launch import Environment, give_order
from leafd.shims import ShimClient
from leafd.store import Record
from leafshim.crashes import crash
from leafshim.errors import LeafError, Unavailable
from leafshim.kernel import fdpass

_LISTENER, _INIT = "listener", "init"


async def adopt(entry: Record, environment: Environment, init: int, needed: Sequence[str] | None = None) -> ShimClient:
    """A shim that is in charge of the container `entry`, connected. `init`: a pidfd that we hold, which stays ours; -1.
    `needed`: names of the descriptors to give it; None: all that are kept.

    Raises Unavailable where init cannot be proven any more, and what a launch of a shim raises.
    """
    kept = await gather(entry, environment, init)
    if needed is not None:
        for name in kept.keys() - {_LISTENER, *needed}:
            os.close(kept.pop(name))
    crash("adopt-collected")
    try:
        listener = kept.pop(_LISTENER, -1)
        if listener < 0:
            listener = _listen_anew(environment.store.bundle(entry.id).socket)
        try:
            return await _give_over(entry, environment, listener, kept)
        finally:
            os.close(listener)
    finally:
        for fd in kept.values():
            os.close(fd)


def _listen_anew(path: str) -> int:
    """A new listening socket in the place of the former shim's: its worker outlives it by a moment, and still listens,
    but serves nobody."""
    try:
        os.unlink(path)
    except OSError:
        pass  # what is in the way there is told by listening
    return fdpass.listen(path).detach()


async def gather(entry: Record, environment: Environment, init: int) -> dict[str, int]:
    """What the new shim needs, by name: ours to close."""
    try:
        kept = await environment.nursery.take(entry.id)
    except LeafError:
        kept = {}
    if _INIT not in kept:
        fd = os.dup(init) if init >= 0 else recovery.open_init(entry, environment)
        if fd < 0:
            for other in kept.values():
                os.close(other)
            raise Unavailable(f"{entry.id}: nobody can prove which process its init is")
        kept[_INIT] = fd
    return kept


async def _give_over(entry: Record, environment: Environment, listener: int, kept: dict[str, int]) -> ShimClient:
    ours, theirs = socket.socketpair()
    client = ShimClient(entry.id, environment.store.bundle(entry.id).socket, environment.config)
    await client.use(ours)
    try:
        with theirs:
            pid, start_time = await give_order(entry, environment, [listener, theirs.fileno()], kept)
        crash("adopt-ordered")
        await client.info()  # it answers when it is in charge
        crash("adopt-answered")
    except BaseException:
        client.close()
        raise
    entry.shim_pid, entry.shim_start_time = pid, start_time
    environment.store.write(entry)
    crash("adopt-recorded")
    await environment.nursery.keep(entry.id, {_LISTENER: listener, **kept})
    crash("adopt-kept")
    return client
