"""Resource limits on the command line → linux.resources of config.json, and the controllers that they need.

docs/limits.md has the whole way of each, from the flag to the kernel's file. What the OCI specification has a field for
goes there; the rest is `unified`, the names of cgroups v2 themselves. Whoever applies the limits checks them again. A
limit whose controller the host has not is refused by name before anything is made.
"""

import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from typing import TypeAlias, TypedDict

from leafshim.cgroup.cpu import PERIOD
from leafshim.cgroup.cpuset import check_list
from leafshim.cgroup.hierarchy import UNLIMITED
from leafshim.cgroup.values import DEFAULT, MAX, is_device
from leafshim.errors import InputError, KernelError, Unsupported

Document: TypeAlias = dict[str, object]

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_RATES = {
    "rbps": "throttleReadBpsDevice",
    "wbps": "throttleWriteBpsDevice",
    "riops": "throttleReadIOPSDevice",
    "wiops": "throttleWriteIOPSDevice",
}


class Flags(TypedDict, total=False):
    """The flags, by their names without dashes, as text. None, an empty list, or absent: not given."""

    memory: str | None
    memory_low: str | None
    memory_high: str | None
    memory_swap: str | None
    cpus: str | None
    cpu_weight: str | None
    cpuset_cpus: str | None
    cpuset_mems: str | None
    pids: str | None
    io_max: Sequence[str]
    io_weight: Sequence[str]
    hugetlb: Sequence[str]
    unified: Sequence[str]


CONTROLLERS = {
    "memory": "memory",
    "memory_low": "memory",
    "memory_high": "memory",
    "memory_swap": "memory",
    "cpus": "cpu",
    "cpu_weight": "cpu",
    "cpuset_cpus": "cpuset",
    "cpuset_mems": "cpuset",
    "pids": "pids",
    "io_max": "io",
    "io_weight": "io",
    "hugetlb": "hugetlb",
    "unified": "",
}
"""flag → the controller that it needs; "" for those that its values name."""


def resources(flags: Flags) -> Document:
    """linux.resources; empty without limits. Raises InputError that names the flag, KernelError for a device's path."""
    unified: dict[str, str] = {}
    parts: dict[str, object] = {
        "memory": _memory(flags, unified),
        "cpu": _cpu(flags, unified),
        "blockIO": _block_io(flags, unified),
        "hugepageLimits": [_huge_pages(text) for text in flags.get("hugetlb", ())],
        "unified": unified,
    }
    for text in flags.get("unified", ()):
        file, value = _interface_file(text)
        # Several lines are for files that have one a device; for any other whoever applies the limits refuses them.
        unified[file] = f"{unified[file]}\n{value}" if file in unified else value
    if (pids := flags.get("pids")) is not None:
        parts["pids"] = {"limit": -1 if pids == MAX else _number("--pids", pids, 1)}
    return {name: part for name, part in parts.items() if part}


def require(flags: Flags, available: Collection[str], where: str) -> None:
    """Refuse flags whose controllers the cgroup `where` does not offer. Raises Unsupported, which names the flag."""
    given = {name for name, value in flags.items() if value}
    needed = [(name, controller) for name, controller in CONTROLLERS.items() if name in given and controller]
    needed += [("unified", _interface_file(text)[0].partition(".")[0]) for text in flags.get("unified", ())]
    for name, controller in needed:
        if controller not in available:
            offered = ", ".join(sorted(available)) or "none"
            raise Unsupported(f"{flag(name)}: this host has no {controller} controller in {where} (there: {offered})")


def flag(name: str) -> str:
    """`--memory-low` of `memory_low`."""
    return "--" + name.replace("_", "-")


def size(name: str, text: str) -> int:
    """Bytes in `256M`: a number and one of b, k, m, g, t (of 1024, upper or lower case). Raises InputError."""
    match = re.fullmatch(r"(\d+)([bkmgt]?)(i?b)?", text.strip().lower(), re.ASCII)
    if not match or int(match[1]) == 0:
        raise InputError(f"{name} {text}: must be a size such as 64M or 1G")
    return int(match[1]) * _UNITS[match[2]]


def _memory(flags: Flags, unified: dict[str, str]) -> Document:
    memory: Document = {}
    for name, text, field in (
        ("--memory", flags.get("memory"), "limit"),
        ("--memory-swap", flags.get("memory_swap"), "swap"),
    ):
        if text is not None:
            memory[field] = -1 if text == MAX else size(name, text)
    if (low := flags.get("memory_low")) is not None:
        memory["reservation"] = 0 if low == "0" else size("--memory-low", low)
    if (high := flags.get("memory_high")) is not None:
        unified["memory.high"] = MAX if high == MAX else str(size("--memory-high", high))
    return memory


def _cpu(flags: Flags, unified: dict[str, str]) -> Document:
    cpu: Document = {}
    if (cpus := flags.get("cpus")) is not None:
        cpu |= {"quota": _quota(cpus), "period": PERIOD}
    if (weight := flags.get("cpu_weight")) is not None:
        unified["cpu.weight"] = str(_number("--cpu-weight", weight, 1, 10_000))
    for name, given in (("cpus", flags.get("cpuset_cpus")), ("mems", flags.get("cpuset_mems"))):
        if given == DEFAULT:
            unified[f"cpuset.{name}"] = DEFAULT
        elif given == "":
            raise InputError(f"--cpuset-{name}: must be a list such as 0-3, or {DEFAULT}")
        elif given is not None:
            cpu[name] = check_list(f"--cpuset-{name}", given)
    return cpu


def _quota(cpus: str) -> int:
    """µs in each period; a hundredth of a CPU is the least that the kernel takes."""
    if cpus == MAX:
        return -1
    if not re.fullmatch(r"\d+(\.\d+)?", cpus, re.ASCII) or not 0.01 <= float(cpus) <= 100_000:
        raise InputError(f"--cpus {cpus}: must be a number of CPUs such as 1.5, 0.01 or more, or {MAX}")
    return round(float(cpus) * PERIOD)


def _block_io(flags: Flags, unified: dict[str, str]) -> Document:
    block_io: dict[str, list[Document]] = {}
    for text in flags.get("io_max", ()):
        for field, throttle in _throttles(text):
            block_io.setdefault(field, []).append(throttle)
    weights = [_weight(text) for text in flags.get("io_weight", ())]
    if weights:
        unified["io.weight"] = "\n".join(weights)
    return dict(block_io)


def _throttles(text: str) -> Iterator[tuple[str, Document]]:
    device, *rates = text.split(",")
    if not rates:
        raise InputError(f"--io-max {text}: must be DEVICE,rbps=RATE and so on ({', '.join(_RATES)})")
    major, minor = _device("--io-max", device)
    for rate in rates:
        key, _, amount = rate.partition("=")
        if key not in _RATES:
            raise InputError(f"--io-max {text}: {rate}: must be one of {', '.join(_RATES)}, and = and a rate")
        yield (
            _RATES[key],
            {
                "major": major,
                "minor": minor,
                "rate": 0 if amount == MAX else size(f"--io-max {key}", amount),
            },
        )


def _weight(text: str) -> str:
    device, equals, weight = text.rpartition("=")
    if not equals:
        return f"{DEFAULT} {_number('--io-weight', weight, 1, 10_000)}"
    major, minor = _device("--io-weight", device)
    return f"{major}:{minor} {weight if weight == DEFAULT else _number('--io-weight', weight, 1, 10_000)}"


def _device(name: str, text: str) -> tuple[int, int]:
    """MAJOR and MINOR of `8:0`, or of the block device /dev/sda."""
    if is_device(text):
        major, _, minor = text.partition(":")
        return int(major), int(minor)
    try:
        found = os.stat(text)
    except OSError as error:
        raise KernelError.of(error, f"{name}: stat") from error
    if not stat.S_ISBLK(found.st_mode):
        raise InputError(f"{name} {text}: must be a block device, or MAJOR:MINOR")
    return os.major(found.st_rdev), os.minor(found.st_rdev)


def _huge_pages(text: str) -> Document:
    match = re.fullmatch(r"(\d+(?:KB|MB|GB))=(.+)", text, re.ASCII)
    if not match:
        raise InputError(f"--hugetlb {text}: must be PAGESIZE=SIZE such as 2MB=64M")
    limit = {MAX: UNLIMITED, "0": 0}.get(match[2])
    return {"pageSize": match[1], "limit": size("--hugetlb", match[2]) if limit is None else limit}


def _interface_file(text: str) -> tuple[str, str]:
    file, equals, value = text.partition("=")
    if not equals or not file:
        raise InputError(f"--unified {text}: must be FILE=VALUE such as memory.oom.group=1")
    return file, value


def _number(name: str, text: str, low: int, high: int | None = None) -> int:
    if not re.fullmatch(r"\d+", text, re.ASCII) or int(text) < low or (high is not None and int(text) > high):
        raise InputError(f"{name} {text}: must be {low} {'or more' if high is None else f'to {high}'}")
    return int(text)
