"""The figures of the controllers as containerd's Metrics.

A controller that is not enabled has no message, as a figure that the kernel does not give is 0.
"""

from leafshim.api.metrics import (
    CPUStat,
    HugeTlbStat,
    IOEntry,
    IOStat,
    MemoryEvents,
    MemoryStat,
    Metrics,
    PidsStat,
    RdmaEntry,
    RdmaStat,
)

Figures = dict[str, int]

_UINT32 = 2**32 - 1


def metrics(usage: dict[str, Figures]) -> Metrics:
    """From what `Isolator.usage` returns."""
    answer = Metrics(hugetlb=_huge_pages(usage.get("hugetlb", {})))
    if (pids := usage.get("pids")) is not None:
        answer.pids = PidsStat(current=pids["current"], limit=pids["limit"])
    if (cpu := usage.get("cpu")) is not None:
        answer.cpu = CPUStat(**{field.name: cpu.get(field.name, 0) for field in CPUStat.fields})
    if (memory := usage.get("memory")) is not None:
        answer.memory = MemoryStat(**{field.name: _of_memory(memory, field.name) for field in MemoryStat.fields})
        answer.memory_events = MemoryEvents(
            **{field.name: memory.get(f"events {field.name}", 0) for field in MemoryEvents.fields}
        )
    if (io := usage.get("io")) is not None:
        answer.io = IOStat(usage=_devices(io))
    if (rdma := usage.get("rdma")) is not None:
        answer.rdma = RdmaStat(current=_rdma(rdma, "current"), limit=_rdma(rdma, "max"))
    return answer


def _of_memory(memory: Figures, name: str) -> int:
    # Linux 5.9 parted some counters in two, as workingset_refault_anon and _file.
    return memory.get(name, memory.get(f"{name}_anon", 0) + memory.get(f"{name}_file", 0))


def _huge_pages(figures: Figures) -> list[HugeTlbStat]:
    sizes = dict.fromkeys(key.partition(" ")[0] for key in figures)
    return [
        HugeTlbStat(pagesize=size, current=figures[f"{size} current"], max=figures[f"{size} max"]) for size in sizes
    ]


def _devices(figures: Figures) -> list[IOEntry]:
    entries = []
    for device in dict.fromkeys(key.partition(" ")[0] for key in figures):
        major, _, minor = device.partition(":")
        counts = {key: figures.get(f"{device} {key}", 0) for key in ("rbytes", "wbytes", "rios", "wios")}
        entries.append(IOEntry(major=int(major), minor=int(minor), **counts))
    return entries


def _rdma(figures: Figures, kind: str) -> list[RdmaEntry]:
    devices = dict.fromkeys(key.split(" ")[1] for key in figures)
    return [
        RdmaEntry(
            device=device,
            hca_handles=min(figures[f"{kind} {device} hca_handle"], _UINT32),
            hca_objects=min(figures[f"{kind} {device} hca_object"], _UINT32),
        )
        for device in devices
    ]
