"""What Task.Stats answers with: containerd's Metrics for cgroups v2, the messages of metrics.proto."""

from typing import ClassVar

from leafshim.ttrpc import protobuf as pb


class _Message(pb.Message):
    package: ClassVar[str] = "io.containerd.cgroups.v2"


class PSIData(_Message):
    avg10: float = pb.double(1)
    avg60: float = pb.double(2)
    avg300: float = pb.double(3)
    total: int = pb.uint64(4)


class PSIStats(_Message):
    some: PSIData | None = pb.message(PSIData, 1)
    full: PSIData | None = pb.message(PSIData, 2)


class PidsStat(_Message):
    current: int = pb.uint64(1)
    limit: int = pb.uint64(2)


class CPUStat(_Message):
    usage_usec: int = pb.uint64(1)
    user_usec: int = pb.uint64(2)
    system_usec: int = pb.uint64(3)
    nr_periods: int = pb.uint64(4)
    nr_throttled: int = pb.uint64(5)
    throttled_usec: int = pb.uint64(6)
    psi: PSIStats | None = pb.message(PSIStats, 7)
    nr_bursts: int = pb.uint64(8)
    burst_usec: int = pb.uint64(9)


class MemoryStat(_Message):
    anon: int = pb.uint64(1)
    file: int = pb.uint64(2)
    kernel_stack: int = pb.uint64(3)
    slab: int = pb.uint64(4)
    sock: int = pb.uint64(5)
    shmem: int = pb.uint64(6)
    file_mapped: int = pb.uint64(7)
    file_dirty: int = pb.uint64(8)
    file_writeback: int = pb.uint64(9)
    anon_thp: int = pb.uint64(10)
    inactive_anon: int = pb.uint64(11)
    active_anon: int = pb.uint64(12)
    inactive_file: int = pb.uint64(13)
    active_file: int = pb.uint64(14)
    unevictable: int = pb.uint64(15)
    slab_reclaimable: int = pb.uint64(16)
    slab_unreclaimable: int = pb.uint64(17)
    pgfault: int = pb.uint64(18)
    pgmajfault: int = pb.uint64(19)
    workingset_refault: int = pb.uint64(20)
    workingset_activate: int = pb.uint64(21)
    workingset_nodereclaim: int = pb.uint64(22)
    pgrefill: int = pb.uint64(23)
    pgscan: int = pb.uint64(24)
    pgsteal: int = pb.uint64(25)
    pgactivate: int = pb.uint64(26)
    pgdeactivate: int = pb.uint64(27)
    pglazyfree: int = pb.uint64(28)
    pglazyfreed: int = pb.uint64(29)
    thp_fault_alloc: int = pb.uint64(30)
    thp_collapse_alloc: int = pb.uint64(31)
    usage: int = pb.uint64(32)
    usage_limit: int = pb.uint64(33)
    swap_usage: int = pb.uint64(34)
    swap_limit: int = pb.uint64(35)
    max_usage: int = pb.uint64(36)
    swap_max_usage: int = pb.uint64(37)
    psi: PSIStats | None = pb.message(PSIStats, 38)
    workingset_refault_anon: int = pb.uint64(39)
    workingset_refault_file: int = pb.uint64(40)
    workingset_activate_anon: int = pb.uint64(41)
    workingset_activate_file: int = pb.uint64(42)


class MemoryEvents(_Message):
    low: int = pb.uint64(1)
    high: int = pb.uint64(2)
    max: int = pb.uint64(3)
    oom: int = pb.uint64(4)
    oom_kill: int = pb.uint64(5)
    oom_group_kill: int = pb.uint64(6)


class RdmaEntry(_Message):
    device: str = pb.string(1)
    hca_handles: int = pb.uint32(2)
    hca_objects: int = pb.uint32(3)


class RdmaStat(_Message):
    current: list[RdmaEntry] = pb.repeated(pb.message(RdmaEntry, 1))
    limit: list[RdmaEntry] = pb.repeated(pb.message(RdmaEntry, 2))


class IOEntry(_Message):
    major: int = pb.uint64(1)
    minor: int = pb.uint64(2)
    rbytes: int = pb.uint64(3)
    wbytes: int = pb.uint64(4)
    rios: int = pb.uint64(5)
    wios: int = pb.uint64(6)


class IOStat(_Message):
    usage: list[IOEntry] = pb.repeated(pb.message(IOEntry, 1))
    psi: PSIStats | None = pb.message(PSIStats, 2)


class HugeTlbStat(_Message):
    current: int = pb.uint64(1)
    max: int = pb.uint64(2)
    pagesize: str = pb.string(3)
    failcnt: int = pb.uint64(4)


class NetworkStat(_Message):
    name: str = pb.string(1)
    rx_bytes: int = pb.uint64(2)
    rx_packets: int = pb.uint64(3)
    rx_errors: int = pb.uint64(4)
    rx_dropped: int = pb.uint64(5)
    tx_bytes: int = pb.uint64(6)
    tx_packets: int = pb.uint64(7)
    tx_errors: int = pb.uint64(8)
    tx_dropped: int = pb.uint64(9)


class Metrics(_Message):
    pids: PidsStat | None = pb.message(PidsStat, 1)
    cpu: CPUStat | None = pb.message(CPUStat, 2)
    memory: MemoryStat | None = pb.message(MemoryStat, 4)
    rdma: RdmaStat | None = pb.message(RdmaStat, 5)
    io: IOStat | None = pb.message(IOStat, 6)
    hugetlb: list[HugeTlbStat] = pb.repeated(pb.message(HugeTlbStat, 7))
    memory_events: MemoryEvents | None = pb.message(MemoryEvents, 8)
    network: list[NetworkStat] = pb.repeated(pb.message(NetworkStat, 9))
