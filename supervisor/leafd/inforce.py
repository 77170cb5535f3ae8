"""The limits of a container: what is in force, or what it will be started with.

Rules:
1. Of one that has cgroups the kernel's files say it, whoever wrote them; of any other its description.
2. Only limits that are on are told: what a new cgroup has anyway is none.
"""

from leafshim.bundle import Bundle
from leafshim.cgroup.amend import amend, unified
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.cgroup.isolator import Isolator, rule, translate
from leafshim.cgroup.values import Setting
from leafshim.errors import LeafError
from leafshim.spec import load


def in_force(cgroup: str, bundle: Bundle) -> dict[str, str]:
    """Interface file → value, in the kernel's words; empty where neither cgroup nor description can be read."""
    held = Isolator(find_mount(), Cgroup(cgroup)).status()
    return unified(amend((), _lines(held))) if held else _described(bundle)


def _lines(held: dict[str, str]) -> list[Setting]:
    limits = {file: value for file, value in held.items() if not file.endswith(".effective")}
    return [
        Setting(file, line)
        for file, value in limits.items()
        for line in (value.splitlines() if rule(file).keyed else [value])
    ]


def _described(bundle: Bundle) -> dict[str, str]:
    try:
        with open(bundle.config, "rb") as file:
            return unified(amend((), translate(load(file.read()).linux.resources.limits)))
    except (OSError, LeafError):
        return {}
