"""The cpu controller: shares of CPU time (cpu.weight), a ceiling on it (cpu.max), bursts, and idle scheduling.

What the kernel does that surprises:
- cpu.max takes "QUOTA PERIOD"; without a period it keeps the one in force.
- A burst above the quota is refused, and so is a quota below the burst in force.
- cpu.weight of an idle group cannot be written (EINVAL): that is what cpu.idle takes away.
"""

from collections.abc import Iterator

from leafshim.cgroup.controller import Controller, InForce
from leafshim.cgroup.figures import flat, nested
from leafshim.cgroup.values import MAX, File, Setting, number, refuse
from leafshim.errors import InputError
from leafshim.spec.resources import Limits

PERIOD = 100_000  # µs, the kernel's default
_SHORTEST = 1_000  # µs, of quota and period (kernel/sched/core.c, min_cfs_quota_period)
_LONGEST = 1_000_000  # µs, of the period (max_cfs_quota_period)
_LARGEST_QUOTA = 2**44 // 1_000 - 1  # µs (max_bw_runtime_us, of 2⁴⁴ ns)


def weight_of_shares(shares: int) -> int:
    """cpu.weight (1 to 10000) of cpu.shares (2 to 262144, clamped): the default, 1024, becomes the default, 100.

    The formula of crun since 1.23 and runc since 1.4, through (2, 1), (1024, 100) and (262144, 10000), smoothly;
    the linear one before made 39 of 1024.
    """
    from math import ceil, log2  # only who limits CPU time pays for it

    if shares <= 2:
        return 1
    if shares >= 262_144:
        return 10_000
    exponent = log2(shares)
    return min(10_000, ceil(10 ** ((exponent * exponent + 125 * exponent) / 612 - 7 / 34)))


def _check_max(file: str, value: str) -> str:
    quota, *rest = value.split() or [""]
    if len(rest) > 1:
        raise refuse(file, value, "QUOTA PERIOD, in µs")
    quota = number(_SHORTEST, _LARGEST_QUOTA, unlimited=True)(f"{file} quota", quota)
    return " ".join((quota, *(number(_SHORTEST, _LONGEST)(f"{file} period", period) for period in rest)))


class CpuController(Controller):
    """Weight, ceiling, burst, idle."""

    name = "cpu"
    figures = True
    files = {
        "cpu.idle": File(number(0, 1), "0"),
        "cpu.weight": File(number(1, 10_000), "100"),
        "cpu.max": File(_check_max, f"{MAX} {PERIOD}"),
        "cpu.max.burst": File(number(0, _LARGEST_QUOTA), "0"),
    }
    gauges = {"cpu.stat": flat, "cpu.stat.local": flat, "cpu.pressure": nested}

    def settings(self, limits: Limits, in_force: InForce) -> Iterator[Setting]:
        """See docs/limits.md. Raises InputError."""
        cpu = limits.cpu
        if cpu.idle is not None:
            yield Setting("cpu.idle", str(cpu.idle))
        if cpu.shares is not None:
            if (in_force("cpu.idle") if cpu.idle is None else str(cpu.idle)) == "1":
                raise InputError("linux.resources.cpu.shares: means nothing while cpu.idle is 1")
            yield Setting("cpu.weight", str(weight_of_shares(cpu.shares)))
        if cpu.quota is not None or cpu.period is not None or cpu.burst is not None:
            yield from self._bandwidth(limits, in_force)

    def _bandwidth(self, limits: Limits, in_force: InForce) -> Iterator[Setting]:
        cpu = limits.cpu
        old_quota, old_period = in_force("cpu.max").split()
        quota = old_quota if cpu.quota is None else MAX if cpu.quota <= 0 else str(cpu.quota)
        period = old_period if cpu.period is None else str(cpu.period)
        old_burst = int(in_force("cpu.max.burst"))
        burst = old_burst if cpu.burst is None else cpu.burst
        if quota != MAX and burst > int(quota):
            raise InputError(f"linux.resources.cpu.quota: {quota} µs: must not be below the burst, {burst} µs")
        ceiling = [Setting("cpu.max", f"{quota} {period}")] if cpu.quota is not None or cpu.period is not None else []
        bursts = [Setting("cpu.max.burst", str(burst))] if cpu.burst is not None else []
        # At no moment may the burst be above the quota.
        yield from (*bursts, *ceiling) if burst < old_burst else (*ceiling, *bursts)
