"""What to do when a container reaches a limit: `event`, tell it, or `kill`, also end the container.

`event` is the default of all: the OOM killer ends a process and not a container, and a fork or a mapping that fails is
an error that programs know.
"""

from collections.abc import Mapping

from leafshim.api.shim import Policy
from leafshim.cgroup.pressure import Trigger
from leafshim.errors import InputError

EVENT, KILL = "event", "kill"
ACTIONS = (EVENT, KILL)

_NONE: Mapping[str, int] = {}


def triggers(policy: Policy) -> list[Trigger]:
    """The pressure triggers that it needs."""
    return [Trigger(each.resource, each.full, each.stall, each.window) for each in policy.pressure]


def check(policy: Policy) -> None:
    """Raises InputError for a policy that cannot be followed."""
    for name, action in (("oom", policy.oom), ("pids", policy.pids), ("hugetlb", policy.hugetlb)):
        _check_action(f"policy.{name}", action)
    for each in policy.pressure:
        _check_action("policy.pressure", each.action)
    watches = set()
    for trigger in triggers(policy):
        trigger.check()
        if trigger.watch in watches:
            raise InputError(f"policy.pressure: {trigger.resource} is given twice with the same threshold")
        watches.add(trigger.watch)


def _check_action(name: str, action: str) -> None:
    if action and action not in ACTIONS:
        raise InputError(f"{name}: {action!r}: must be one of {', '.join(ACTIONS)}")


def kills(policy: Policy, kind: str, resource: str = "", figures: Mapping[str, int] = _NONE) -> bool:
    """Whether a limitation of that kind ends the container; `resource` and `figures`: of the pressure trigger."""
    if kind == "pressure":
        hit = resource, figures.get("full", 0), figures.get("stall", 0), figures.get("window", 0)
        return any((p.resource, p.full, p.stall, p.window) == hit and p.action == KILL for p in policy.pressure)
    return {"oom": policy.oom, "pids": policy.pids, "hugetlb": policy.hugetlb}.get(kind) == KILL
