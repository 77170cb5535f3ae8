"""When a container that has ended is started again: a pure decision.

Rules:
1. `no` never restarts; `on-failure` restarts what did not exit with status 0, an unknown status included; `always`
   restarts whatever happened.
2. An explicit stop ends the policy: nothing restarts after it.
3. The n-th restart in a row waits first · 2^(n-1), at most `maximum`. A run of at least `reset` ends the row: what
   worked for that long gets the first delay again.
"""

from typing import NamedTuple

from leafshim.errors import InputError

NO, ON_FAILURE, ALWAYS = "no", "on-failure", "always"
POLICIES = (NO, ON_FAILURE, ALWAYS)


class BackOff(NamedTuple):
    """Delays, all in seconds."""

    first: float
    maximum: float
    reset: float


class Restart(NamedTuple):
    """Start again `delay` seconds from now; it will be the `row`-th restart in a row."""

    delay: float
    row: int


def check_policy(name: str) -> str:
    """The policy of that name; the empty one is `no`. Raises InputError."""
    if name and name not in POLICIES:
        raise InputError(f"restart: {name!r} is none of {', '.join(POLICIES)}")
    return name or NO


def decide(
    policy: str, *, status: int | None, stopped: bool, row: int, ran_for: float, back_off: BackOff
) -> Restart | None:
    """What to do now that it ended with `status` (None: unknown) after `ran_for` seconds; None: leave it.

    `row` is how many restarts in a row came before, `stopped` whether somebody asked for the end.
    """
    if stopped or policy == NO or (policy == ON_FAILURE and status == 0):
        return None
    row = 1 if ran_for >= back_off.reset else row + 1
    # The exponent is bounded, as 2.0 ** 1024 overflows and a container may well fail a thousand times.
    return Restart(min(back_off.first * 2.0 ** min(row - 1, 64), back_off.maximum), row)
