"""Another shim for a container whose shim is well: one of the code that the nursery has.

    trial       the next shim takes the container over in a copy of itself, and says whether that went well
    StepDown    the former one writes its checkpoint and ends
    adoption    as if the former one had been killed

Rules:
1. Until StepDown nothing has changed, and whatever fails leaves the former shim in charge.
2. The next shim gets its order only when the former one is proven to have ended (pidfd), so that what it had read is in
   the log and nobody else reads.
3. A leafd that is killed in between leaves a container without a shim at worst: the next leafd adopts it.
"""

import asyncio
import os

from leafd.adoption import adopt, gather
from leafd.launch import Environment
from leafd.removal import readable
from leafd.shims import ShimClient
from leafd.store import Record
from leafd.unattended import open_proven
from leafshim.errors import DeadlineExceeded, KernelError, Unavailable


async def upgrade(entry: Record, environment: Environment, shim: ShimClient, init: int) -> ShimClient:
    """The next shim of the container `entry`, in charge and connected; `shim` is the former one's client, `init` as in
    `adopt`.

    Raises StateError where one of the two cannot do it now, what a launch of a shim raises, and DeadlineExceeded.
    """
    await _try(entry, environment, init)
    needed = await _step_down(entry, environment, shim)
    return await adopt(entry, environment, init, needed)


async def _try(entry: Record, environment: Environment, init: int) -> None:
    kept = await gather(entry, environment, init)
    try:
        try:
            await _try_spare(entry, environment, kept)
        except KernelError:  # it had died before: another takes its place, once
            await _try_spare(entry, environment, kept)
    finally:
        for fd in kept.values():
            os.close(fd)


async def _try_spare(entry: Record, environment: Environment, kept: dict[str, int]) -> None:
    spare = await environment.spares.take()
    try:
        bundle = environment.store.bundle(entry.id).path
        await spare.try_out(entry.id, bundle, kept, environment.config.call_deadline)
    except BaseException:
        spare.close()
        raise
    environment.spares.give_back(spare)


async def _step_down(entry: Record, environment: Environment, shim: ShimClient) -> list[str] | None:
    """Have the former shim go. The names of what the next one needs; None where it went without an answer."""
    deadline = environment.config.call_deadline
    former = open_proven(entry.shim_pid, entry.shim_start_time)
    if former < 0:
        raise Unavailable(f"{entry.id}: its shim is gone")
    try:
        try:
            needed = await shim.step_down()
        except Unavailable:
            needed = None
        async with asyncio.timeout(deadline):
            await readable(former)
        return needed
    except TimeoutError:
        raise DeadlineExceeded(f"{entry.id}: its shim did not step down within {deadline:g} s") from None
    finally:
        os.close(former)
