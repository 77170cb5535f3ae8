"""The limits in `linux.resources`: memory, cpu, pids, blockIO, hugepageLimits, rdma and unified.

Values are the document's, in its units; what they become in cgroups v2 is the controllers' business. None: not asked
for. What only cgroups v1 has is refused by its path, where the document sets it to anything but what v2 does anyway.

Source: https://github.com/opencontainers/runtime-spec, config-linux.md, "Control groups".
"""

from typing import NamedTuple

from leafshim.errors import InputError
from leafshim.spec.fields import Fields

_INT64 = 2**63 - 1
_UINT64 = 2**64 - 1
_MAJOR, _MINOR = 2**12 - 1, 2**20 - 1

_RATES = {
    "throttleReadBpsDevice": "rbps",
    "throttleWriteBpsDevice": "wbps",
    "throttleReadIOPSDevice": "riops",
    "throttleWriteIOPSDevice": "wiops",
}


class Memory(NamedTuple):
    """Bytes, -1 for no limit. `swap` is memory and swap together, as in cgroups v1. `check_before_update`: never end a
    process to make room for a lower limit."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    check_before_update: bool = False


class Cpu(NamedTuple):
    """`quota`, `period` and `burst` in µs, a quota of 0 or less for no limit. `idle` is 0 or 1."""

    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    burst: int | None = None
    idle: int | None = None
    cpus: str = ""
    mems: str = ""


class Throttle(NamedTuple):
    """At most `rate` a second on the device "MAJOR:MINOR"; `key` is io.max's: rbps, wbps, riops, wiops. 0: no limit."""

    device: str
    key: str
    rate: int


class BlockIo(NamedTuple):
    """`weight`: 10 to 1000, as blkio.weight of cgroups v1 had it; `weights` the same by device ("MAJOR:MINOR")."""

    weight: int | None = None
    weights: tuple[tuple[str, int], ...] = ()
    throttles: tuple[Throttle, ...] = ()


class HugePages(NamedTuple):
    """At most `limit` bytes in pages of `page_size` ("2MB")."""

    page_size: str
    limit: int


class Rdma(NamedTuple):
    """At most so many handles and objects of a device; None: any number."""

    device: str
    handles: int | None
    objects: int | None


class Limits(NamedTuple):
    """All that can be limited. `pids`: processes and threads, 0 or less for no limit. `unified`: interface files of
    cgroups v2 and what to write to them."""

    memory: Memory = Memory()
    cpu: Cpu = Cpu()
    pids: int | None = None
    block_io: BlockIo = BlockIo()
    huge_pages: tuple[HugePages, ...] = ()
    rdma: tuple[Rdma, ...] = ()
    unified: tuple[tuple[str, str], ...] = ()


def limits(fields: Fields) -> Limits:
    """Takes the limits from a `resources` object, which the caller ends. InputError."""
    network = fields.object("network", {})
    _only_v1(network, "classID", "priorities")
    network.end()
    return Limits(
        memory=_memory(fields.object("memory", {})),
        cpu=_cpu(fields.object("cpu", {})),
        pids=_pids(fields.object("pids")) if "pids" in fields else None,
        block_io=_block_io(fields.object("blockIO", {})),
        huge_pages=tuple(_huge_pages(item) for item in fields.objects("hugepageLimits")),
        rdma=_rdma(fields.object("rdma", {})),
        unified=tuple(fields.string_map("unified").items()),
    )


def _only_v1(fields: Fields, *names: str) -> None:
    for name in names:
        if name in fields:
            raise InputError(f"{fields.at(name)}: exists in cgroups v1 only")


def _memory(fields: Fields) -> Memory:
    _only_v1(fields, "kernel", "kernelTCP", "swappiness")
    if fields.boolean("disableOOMKiller"):
        raise InputError(f"{fields.at('disableOOMKiller')}: exists in cgroups v1 only")
    if "useHierarchy" in fields and not fields.boolean("useHierarchy"):
        raise InputError(f"{fields.at('useHierarchy')}: cgroups v2 are always hierarchical")
    memory = Memory(
        limit=fields.optional_integer("limit", -1, _INT64),
        reservation=fields.optional_integer("reservation", -1, _INT64),
        swap=fields.optional_integer("swap", -1, _INT64),
        check_before_update=fields.boolean("checkBeforeUpdate"),
    )
    fields.end()
    return memory


def _cpu(fields: Fields) -> Cpu:
    _only_v1(fields, "realtimeRuntime", "realtimePeriod")
    cpu = Cpu(
        shares=fields.optional_integer("shares", 0, _UINT64),
        quota=fields.optional_integer("quota", -1, _INT64),
        period=fields.optional_integer("period", 0, _UINT64),
        burst=fields.optional_integer("burst", 0, _UINT64),
        idle=fields.optional_integer("idle", 0, 1),
        cpus=fields.string("cpus", ""),
        mems=fields.string("mems", ""),
    )
    fields.end()
    # Engines write 0 for what was not asked for.
    return cpu._replace(shares=cpu.shares or None, period=cpu.period or None)


def _pids(fields: Fields) -> int:
    limit = fields.integer("limit", -1, _INT64)
    fields.end()
    return limit


def _block_io(fields: Fields) -> BlockIo:
    _only_v1(fields, "leafWeight")
    weights = []
    for item in fields.objects("weightDevice"):
        _only_v1(item, "leafWeight")
        weights.append((_device(item), item.integer("weight", 10, 1000)))
        item.end()
    throttles = []
    for name, key in _RATES.items():
        for item in fields.objects(name):
            throttles.append(Throttle(_device(item), key, item.integer("rate", 0, _UINT64)))
            item.end()
    weight = fields.integer("weight", 0, 1000, default=0)
    if 0 < weight < 10:
        raise InputError(f"{fields.at('weight')}: must be from 10 to 1000, not {weight}")
    fields.end()
    return BlockIo(weight or None, tuple(weights), tuple(throttles))


def _device(fields: Fields) -> str:
    return f"{fields.integer('major', 0, _MAJOR)}:{fields.integer('minor', 0, _MINOR)}"


def _huge_pages(fields: Fields) -> HugePages:
    pages = HugePages(fields.string("pageSize"), fields.integer("limit", 0, _UINT64))
    fields.end()
    return pages


def _rdma(fields: Fields) -> tuple[Rdma, ...]:
    found = []
    for device in fields.names():
        item = fields.object(device)
        found.append(
            Rdma(
                device,
                item.optional_integer("hcaHandles", 0, 2**32 - 1),
                item.optional_integer("hcaObjects", 0, 2**32 - 1),
            )
        )
        item.end()
    return tuple(found)
