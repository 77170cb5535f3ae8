"""The misc controller: scalar resources that some hosts have few of, such as address space ids for encrypted guests.

The OCI specification has no field for it: `linux.resources.unified` sets misc.max ("sev 2"). A resource that the host
lacks is refused by the kernel (EINVAL).
"""

from leafshim.cgroup.controller import Controller
from leafshim.cgroup.figures import flat
from leafshim.cgroup.values import MAX, File, number

_COUNT = number(0, 2**63 - 1, unlimited=True)


def _check(file: str, value: str) -> str:
    resource, _, amount = value.partition(" ")
    return f"{resource} {_COUNT(f'{file} {resource}', amount)}"


class MiscController(Controller):
    """misc.max."""

    name = "misc"
    files = {"misc.max": File(_check, MAX, keyed=True)}
    gauges = {
        "misc.current": flat,
        "misc.peak": flat,
        "misc.max": flat,
        "misc.events": flat,
        "misc.events.local": flat,
    }
