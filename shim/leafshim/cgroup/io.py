"""The io controller: rates by block device (io.max), shares of a busy device (io.weight), and latency targets.

A file is there where the kernel was built with it: io.weight with the iocost or the BFQ scheduler, io.latency with
blk-iolatency. One that is not there is refused by name.
"""

from collections.abc import Iterator

from leafshim.cgroup.controller import Controller, InForce
from leafshim.cgroup.figures import nested
from leafshim.cgroup.values import DEFAULT, MAX, File, Setting, is_device, number, pairs, refuse
from leafshim.spec.resources import Limits

_RATE = number(1, 2**64 - 1, unlimited=True)
_RATES = dict.fromkeys(("rbps", "wbps", "riops", "wiops"), _RATE)
_WEIGHT = number(1, 10_000)  # CGROUP_WEIGHT_MIN, CGROUP_WEIGHT_MAX
_TARGET = {"target": number(1, 2**53)}  # µs


def weight_of_blkio(weight: int) -> int:
    """io.weight (1 to 10000) of blkio.weight (10 to 1000), on a line, as crun and runc have it."""
    return 1 + (weight - 10) * 9_999 // 990


def _device(file: str, value: str) -> tuple[str, str]:
    device, _, rest = value.partition(" ")
    if not is_device(device):
        raise refuse(file, value, "a device as MAJOR:MINOR, and its limits")
    return device, rest


def _check_max(file: str, value: str) -> str:
    device, rest = _device(file, value)
    return f"{device} {pairs(file, rest, _RATES)}"


def _check_weight(file: str, value: str) -> str:
    key, _, weight = value.rpartition(" ")
    if key not in ("", DEFAULT):
        _device(file, value)
    if weight == DEFAULT and key:
        return value  # takes the device's own weight away
    return f"{key or DEFAULT} {_WEIGHT(file, weight)}"


def _check_latency(file: str, value: str) -> str:
    device, rest = _device(file, value)
    return f"{device} {pairs(file, rest, _TARGET)}"


class IoController(Controller):
    """Rates, weights, latency."""

    name = "io"
    figures = True
    files = {
        "io.max": File(_check_max, " ".join(f"{key}={MAX}" for key in _RATES), keyed=True),
        "io.weight": File(_check_weight, DEFAULT, keyed=True),
        "io.latency": File(_check_latency, "target=0", keyed=True),
    }
    gauges = {"io.stat": nested, "io.pressure": nested}

    def settings(self, limits: Limits, in_force: InForce) -> Iterator[Setting]:
        """See docs/limits.md."""
        block_io = limits.block_io
        if block_io.weight is not None:
            yield Setting("io.weight", f"{DEFAULT} {weight_of_blkio(block_io.weight)}")
        for device, weight in block_io.weights:
            yield Setting("io.weight", f"{device} {weight_of_blkio(weight)}")
        for device, key, rate in block_io.throttles:
            yield Setting("io.max", f"{device} {key}={rate or MAX}")
