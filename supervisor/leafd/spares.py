"""The spare shim: forked before there is a container for it, so that a launch does not wait for a fork.

Rules:
1. There is one at most. It is forked a moment after a launch is over, which has the processors to itself until then.
2. It ends with us: the end of its line tells it that no order will come.
3. One that died is noticed when it is given its order, and another takes its place.
"""

import asyncio
import logging

from leafd.nursery import Nursery, Spawned
from leafshim.errors import LeafError

log = logging.getLogger("leafd")

_DELAY = 0.005  # s


class Spares:
    """Shims from `nursery`, forked into the cgroup `shims`."""

    def __init__(self, nursery: Nursery, shims: str) -> None:
        self._nursery = nursery
        self._shims = shims
        self._spare: Spawned | None = None
        self._making: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """That of the spare; 0 without one."""
        return self._spare.pid if self._spare is not None else 0

    async def take(self) -> Spawned:
        """A shim, the caller's from here on. Raises what a Spawn raises."""
        spare, self._spare = self._spare, None
        if self._making is not None:  # not now: this launch has the processors to itself
            self._making.cancel()
        return spare or await self._nursery.spawn(self._shims)

    def give_back(self, spare: Spawned) -> None:
        """One that was taken, and has had no order."""
        if self._spare is None:
            self._spare = spare
        else:
            spare.close()

    def prepare(self) -> None:
        """A launch is over: see to a spare for the next one."""
        if self._spare is None and (self._making is None or self._making.done()):
            self._making = asyncio.get_running_loop().create_task(self._make())

    def renew(self) -> None:
        """The nursery has other code now: so shall the spare."""
        self.close()
        self._spare = self._making = None
        self.prepare()

    async def _make(self) -> None:
        await asyncio.sleep(_DELAY)
        try:
            self.give_back(await self._nursery.spawn(self._shims))
        except LeafError as error:
            log.info("no spare shim: %s", error)  # whoever needs one asks again, and is told

    def close(self) -> None:
        """Let go of the spare."""
        if self._making is not None:
            self._making.cancel()
        if self._spare is not None:
            self._spare.close()
            self._spare = None
