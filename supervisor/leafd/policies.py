"""What to do when a limit is hit, on the command line → the message leafd.shim.v1.Policy.

    --on-oom kill --on-pids event --on-hugetlb kill --on-pressure memory:150ms/1s=kill

docs/watch.md says what each does.
"""

import re
from collections.abc import Sequence
from typing import TypedDict

from leafshim.api.shim import Policy, Pressure
from leafshim.errors import InputError
from leafshim.policy import ACTIONS, EVENT, check

_PRESSURE = re.compile(
    r"(?P<resource>[a-z]+)(?P<full>-full)?:(?P<stall>\d+)(?P<unit>us|ms|s)/(?P<window>\d+)(?P<units>ms|s)(=(?P<action>.*))?",
    re.ASCII,
)
_MICROSECONDS = {"us": 1, "ms": 1_000, "s": 1_000_000}


class Flags(TypedDict, total=False):
    """The flags, by their names without dashes. None, an empty list, or absent: not given."""

    on_oom: str | None
    on_pids: str | None
    on_hugetlb: str | None
    on_pressure: Sequence[str]


def policy(flags: Flags) -> Policy:
    """What they ask for. Raises InputError that names the flag."""
    wanted = Policy(
        oom=flags.get("on_oom") or "",
        pids=flags.get("on_pids") or "",
        hugetlb=flags.get("on_hugetlb") or "",
        pressure=[_pressure(text) for text in flags.get("on_pressure", ())],
    )
    check(wanted)
    return wanted


def _pressure(text: str) -> Pressure:
    match = _PRESSURE.fullmatch(text)
    if match is None:
        raise InputError(f"--on-pressure {text}: must be RESOURCE[-full]:STALL/WINDOW[=ACTION], as memory:150ms/1s")
    action = EVENT if match["action"] is None else match["action"]
    if action not in ACTIONS:
        raise InputError(f"--on-pressure {text}: {action!r} must be one of {', '.join(ACTIONS)}")
    return Pressure(
        resource=match["resource"],
        full=match["full"] is not None,
        stall=int(match["stall"]) * _MICROSECONDS[match["unit"]],
        window=int(match["window"]) * _MICROSECONDS[match["units"]],
        action=action,
    )
