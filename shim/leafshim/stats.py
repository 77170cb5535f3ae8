"""The figures of the controllers as containerd's Metrics.

A controller that is not enabled has no message; a figure that the kernel does not give is 0.
"""

from leafshim.api.metrics import (
    CPUStat,
    HugeTlbStat,
    IOEntry,
    IOStat,
    MemoryEvents,
    MemoryStat,
    Metrics,
    NetworkStat,
    PidsStat,
    PSIData,
    PSIStats,
    RdmaEntry,
    RdmaStat,
)
from leafshim.cgroup.figures import Figures, number, section

_UINT32 = 2**32 - 1

_OF_MEMORY = {
    "usage": ("current",),
    "usage_limit": ("max",),
    "max_usage": ("peak",),
    "swap_usage": ("swap", "current"),
    "swap_limit": ("swap", "max"),
    "swap_max_usage": ("swap", "peak"),
}


def metrics(usage: Figures, interfaces: dict[str, dict[str, int]]) -> Metrics:
    """From what `Isolator.usage` and `network.interfaces` return."""
    answer = Metrics(
        hugetlb=_huge_pages(section(usage, "hugetlb")),
        network=[NetworkStat(name=name, **counts) for name, counts in interfaces.items()],
    )
    if pids := section(usage, "pids"):
        answer.pids = PidsStat(current=number(pids, "current"), limit=number(pids, "max"))
    if cpu := section(usage, "cpu", "stat"):
        counts = {field.name: number(cpu, field.name) for field in CPUStat.fields if field.message is None}
        answer.cpu = CPUStat(**counts, psi=_pressure(usage, "cpu"))
    memory = section(usage, "memory")
    if "current" in memory:  # pressure is told without the controller too
        sizes = {field.name: _of_memory(memory, field.name) for field in MemoryStat.fields if field.message is None}
        answer.memory = MemoryStat(**sizes, psi=_pressure(usage, "memory"))
        events = {field.name: number(memory, "events", field.name) for field in MemoryEvents.fields}
        answer.memory_events = MemoryEvents(**events)
    io = section(usage, "io")
    if "stat" in io:
        answer.io = IOStat(usage=_devices(section(io, "stat")), psi=_pressure(usage, "io"))
    if rdma := section(usage, "rdma"):
        answer.rdma = RdmaStat(current=_rdma(section(rdma, "current")), limit=_rdma(section(rdma, "max")))
    return answer


def _pressure(usage: Figures, resource: str) -> PSIStats | None:
    pressure = section(usage, resource, "pressure")
    return PSIStats(some=_stall(pressure, "some"), full=_stall(pressure, "full")) if pressure else None


def _stall(pressure: Figures, kind: str) -> PSIData | None:
    stall = section(pressure, kind)
    averages = {name: value for name, value in stall.items() if isinstance(value, float)}
    return PSIData(**averages, total=number(stall, "total")) if stall else None


def _of_memory(memory: Figures, name: str) -> int:
    if name in _OF_MEMORY:
        return number(memory, *_OF_MEMORY[name])
    stat = section(memory, "stat")
    # Linux 5.9 parted some counters in two, as workingset_refault_anon and _file.
    return number(stat, name) if name in stat else number(stat, f"{name}_anon") + number(stat, f"{name}_file")


def _huge_pages(sizes: Figures) -> list[HugeTlbStat]:
    return [
        HugeTlbStat(
            pagesize=size,
            current=number(sizes, size, "current"),
            max=number(sizes, size, "max"),
            failcnt=number(sizes, size, "events", "max"),
        )
        for size in sizes
    ]


def _devices(devices: Figures) -> list[IOEntry]:
    entries = []
    for device in devices:
        major, _, minor = device.partition(":")
        counts = {key: number(devices, device, key) for key in ("rbytes", "wbytes", "rios", "wios")}
        entries.append(IOEntry(major=int(major), minor=int(minor), **counts))
    return entries


def _rdma(devices: Figures) -> list[RdmaEntry]:
    return [
        RdmaEntry(
            device=device,
            hca_handles=min(number(devices, device, "hca_handle"), _UINT32),
            hca_objects=min(number(devices, device, "hca_object"), _UINT32),
        )
        for device in devices
    ]
