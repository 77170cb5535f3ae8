"""Resource limits on the command line → linux.resources of config.json, and the controllers that they need.

What a limit does in cgroups v2 is the business of the controllers; a limit whose controller the host has not is refused
by name before anything is made.
"""

import re
from collections.abc import Collection

from leafshim.errors import InputError, Unsupported

CPU_PERIOD = 100_000  # µs, the kernel's default (Documentation/admin-guide/cgroup-v2.rst, cpu.max)

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def resources(
    *, memory: str | None = None, cpus: float | None = None, pids: int | None = None, cpuset: str | None = None
) -> dict[str, object]:
    """linux.resources; empty without limits.

    `memory`: bytes, or with a unit as in 256M. `cpus`: CPUs' worth of time, as 1.5. `pids`: processes and threads.
    `cpuset`: CPUs as in 0-1,4. Raises InputError.
    """
    wanted: dict[str, object] = {}
    if memory is not None:
        wanted["memory"] = {"limit": size("--memory", memory)}
    cpu: dict[str, object] = {}
    if cpus is not None:
        if not 0.01 <= cpus <= 100_000:
            raise InputError(f"--cpus {cpus:g}: must be 0.01 or more")
        cpu |= {"quota": round(cpus * CPU_PERIOD), "period": CPU_PERIOD}
    if cpuset is not None:
        if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", cpuset, re.ASCII):
            raise InputError(f"--cpuset-cpus {cpuset}: must look like 0-3 or 0,2")
        cpu["cpus"] = cpuset
    if cpu:
        wanted["cpu"] = cpu
    if pids is not None:
        if pids < 1:
            raise InputError(f"--pids {pids}: must be 1 or more")
        wanted["pids"] = {"limit": pids}
    return wanted


def size(flag: str, text: str) -> int:
    """Bytes in `256M`: a number and one of b, k, m, g, t (of 1024, upper or lower case). Raises InputError."""
    match = re.fullmatch(r"(\d+)([bkmgt]?)(i?b)?", text.strip().lower(), re.ASCII)
    if not match or int(match[1]) == 0:
        raise InputError(f"{flag} {text}: must be a size such as 64M or 1G")
    return int(match[1]) * _UNITS[match[2]]


def require(wanted: dict[str, object], available: Collection[str], where: str) -> None:
    """Refuse limits whose controllers the cgroup `where` does not offer. Raises Unsupported, which names them."""
    cpu = wanted.get("cpu")
    needed = {
        "--memory": ("memory", "memory" in wanted),
        "--cpus": ("cpu", isinstance(cpu, dict) and "quota" in cpu),
        "--cpuset-cpus": ("cpuset", isinstance(cpu, dict) and "cpus" in cpu),
        "--pids": ("pids", "pids" in wanted),
    }
    for flag, (controller, asked) in needed.items():
        if asked and controller not in available:
            offered = ", ".join(sorted(available)) or "none"
            raise Unsupported(f"{flag}: this host has no {controller} controller in {where} (there: {offered})")
