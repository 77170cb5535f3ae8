"""Figures: from the kernel's files to --json and to containerd's Metrics, each where docs/stats.md says."""

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from leafd.cli.stats import document
from leafd.usage import Usage
from leafshim.api.metrics import Metrics
from leafshim.cgroup.figures import Figures, collect, nested, number, section
from leafshim.cgroup.hierarchy import UNLIMITED, Cgroup
from leafshim.cgroup.isolator import Isolator
from leafshim.errors import KernelError
from leafshim.stats import metrics
from leafshim.ttrpc.protobuf import Message
from tests.harness.figures import documented, unexplained

PRESSURE = "some avg10=1.50 avg60=0.25 avg300=0.05 total=1234\nfull avg10=0.50 avg60=0.05 avg300=0.01 total=234\n"

BYTES = """
anon file kernel kernel_stack pagetables sec_pagetables percpu sock vmalloc shmem zswap zswapped file_mapped file_dirty
file_writeback swapcached anon_thp file_thp shmem_thp hugetlb inactive_anon active_anon inactive_file active_file
unevictable slab_reclaimable slab_unreclaimable slab
"""
COUNTS = """
workingset_refault_anon workingset_refault_file workingset_activate_anon workingset_activate_file
workingset_restore_anon workingset_restore_file workingset_nodereclaim pgdemote_kswapd pgdemote_direct
pgdemote_khugepaged pgdemote_proactive pgpromote_success pgscan pgsteal pgscan_kswapd pgscan_direct pgscan_khugepaged
pgscan_proactive pgsteal_kswapd pgsteal_direct pgsteal_khugepaged pgsteal_proactive pgfault pgmajfault pgrefill
pgactivate pgdeactivate pglazyfree pglazyfreed swpin_zero swpout_zero zswpin zswpout zswpwb thp_fault_alloc
thp_collapse_alloc thp_swpout thp_swpout_fallback numa_pages_migrated numa_pte_updates numa_hint_faults
numa_task_migrated numa_task_swapped
"""
MEMORY_STAT = {name: 1000 + place for place, name in enumerate(f"{BYTES} {COUNTS}".split())}
EVENTS = "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n"

# A host that has everything: formats are those of cgroup-v2.rst and of Linux 6.18.
FILES = {
    "leaf/cgroup.procs": "7\n8\n",
    "leaf/cgroup.threads": "7\n8\n9\n",
    "cgroup.events": "populated 1\nfrozen 0\n",
    "cgroup.stat": "nr_descendants 1\nnr_subsys_memory 2\nnr_dying_descendants 3\nnr_dying_subsys_memory 4\n",
    "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnice_usec 0\ncore_sched.force_idle_usec 0\nnr_periods 4\n"
    "nr_throttled 3\nthrottled_usec 5\nnr_bursts 6\nburst_usec 7\n",
    "cpu.stat.local": "throttled_usec 5\n",
    "cpu.pressure": PRESSURE,
    "memory.current": "4096\n",
    "memory.peak": "8192\n",
    "memory.max": "max\n",
    "memory.stat": "".join(f"{name} {value}\n" for name, value in MEMORY_STAT.items()),
    "memory.numa_stat": "anon N0=1 N1=2\nfile N0=3 N1=4\n",
    "memory.events": EVENTS,
    "memory.events.local": EVENTS,
    "memory.swap.current": "10\n",
    "memory.swap.peak": "11\n",
    "memory.swap.max": "1048576\n",
    "memory.swap.events": "high 0\nmax 1\nfail 2\n",
    "memory.zswap.current": "12\n",
    "memory.zswap.max": "max\n",
    "memory.pressure": PRESSURE,
    "pids.current": "3\n",
    "pids.peak": "4\n",
    "pids.max": "max\n",
    "pids.events": "max 5\n",
    "pids.events.local": "max 5\n",
    "io.stat": "7:0 \n8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=1 dios=2\n",
    "io.pressure": PRESSURE,
    "hugetlb.2MB.current": "2097152\n",
    "hugetlb.2MB.max": "4194304\n",
    "hugetlb.2MB.events": "max 9\n",
    "hugetlb.2MB.events.local": "max 9\n",
    "hugetlb.2MB.rsvd.current": "0\n",
    "hugetlb.2MB.rsvd.max": "max\n",
    "hugetlb.2MB.numa_stat": "total=2097152 N0=2097152\n",
    "hugetlb.1GB.current": "1073741824\n",
    "hugetlb.1GB.events": "max 8\n",
    "hugetlb.1GB.max": "9223372036854771712\n",
    "rdma.current": "mlx4_0 hca_handle=2 hca_object=2000\n",
    "rdma.max": "mlx4_0 hca_handle=3 hca_object=max\n",
    "misc.current": "sev 3\nsev_es 0\n",
    "misc.peak": "sev 4\nsev_es 0\n",
    "misc.max": "sev 5\nsev_es max\n",
    "misc.events": "sev.max 6\nsev_es.max 0\n",
    "misc.events.local": "sev.max 6\nsev_es.max 0\n",
}  # fmt: skip


@pytest.fixture
def isolator(tmp_path: Path) -> Isolator:
    """Of a container whose cgroup is a directory with FILES."""
    (tmp_path / "leaf").mkdir()
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    return Isolator("/", Cgroup(str(tmp_path)))


@pytest.fixture
def usage(isolator: Isolator) -> Usage:
    """What a look at that container finds."""
    interfaces = {"eth0": dict.fromkeys((f"{way}_{what}" for way in ("rx", "tx")
                                         for what in ("bytes", "packets", "errors", "dropped")), 1)}  # fmt: skip
    return Usage("web", 1, 1.0, 3.0, isolator.usage(), interfaces, isolator.status(), {"task-clock": 1})


def test_every_documented_figure_is_in_json_and_every_figure_is_documented(usage: Usage) -> None:
    figures = documented()
    missing, foreign = unexplained(document(usage), figures)
    assert (missing, foreign) == ([], [])


def test_the_check_of_the_documentation_can_fail(usage: Usage) -> None:
    figures = documented()
    del figures["pids.peak"]
    figures["pids.low"] = ""
    assert unexplained(document(usage), figures) == (["pids.low"], ["pids.peak"])


def test_json_has_the_kernels_numbers_and_null_for_no_limit(usage: Usage) -> None:
    shown = json.loads(json.dumps(document(usage)))
    assert shown["cgroup"] == {
        "procs": 2,
        "threads": 3,
        "events": {"populated": 1, "frozen": 0},
        "stat": {
            "nr_descendants": 1,
            "nr_subsys_memory": 2,
            "nr_dying_descendants": 3,
            "nr_dying_subsys_memory": 4,
        },
    }
    assert shown["cpu"]["percent"] == 3.0
    assert shown["cpu"]["pressure"]["full"] == {"avg10": 0.5, "avg60": 0.05, "avg300": 0.01, "total": 234}
    assert (shown["memory"]["current"], shown["memory"]["max"], shown["memory"]["swap"]["max"]) == (4096, None, 1 << 20)
    assert {name: shown["memory"]["stat"][name] for name in MEMORY_STAT} == MEMORY_STAT
    assert shown["memory"]["events"]["local"]["oom"] == 4
    assert shown["io"]["stat"] == {
        "8:16": {"rbytes": 1459200, "wbytes": 314773504, "rios": 192, "wios": 353, "dbytes": 1, "dios": 2}
    }
    assert shown["hugetlb"]["1GB"]["max"] is None
    assert shown["rdma"]["max"] == {"mlx4_0": {"hca_handle": 3, "hca_object": None}}
    assert shown["misc"]["max"] == {"sev": 5, "sev_es": None}
    assert shown["limits"]["misc.max"] == "sev 5\nsev_es max"
    assert shown["limits"]["hugetlb.2MB.max"] == "4194304"
    assert shown["limits"]["hugetlb.1GB.max"] == "max"


def test_metrics_have_every_field_that_containerd_reads(usage: Usage) -> None:
    told = metrics(usage.figures, usage.network)
    assert list(unset(told)) == []
    assert Metrics.decode(told.encode()) == told
    assert told.pids is not None
    assert (told.pids.current, told.pids.limit) == (3, UNLIMITED)
    assert told.memory is not None
    assert told.memory.psi is not None
    assert (told.memory.usage, told.memory.usage_limit, told.memory.max_usage) == (4096, UNLIMITED, 8192)
    assert told.memory.workingset_refault == sum(MEMORY_STAT[f"workingset_refault_{kind}"] for kind in ("anon", "file"))
    assert told.cpu is not None
    assert told.cpu.psi is not None
    assert told.cpu.psi.some is not None
    assert (told.cpu.psi.some.avg10, told.cpu.psi.some.total) == (1.5, 1234)
    assert {size.pagesize: (size.current, size.max, size.failcnt) for size in told.hugetlb} == {
        "1GB": (1 << 30, UNLIMITED, 8),
        "2MB": (2097152, 4194304, 9),
    }


def test_what_is_not_enabled_has_no_message(isolator: Isolator, tmp_path: Path) -> None:
    for name in FILES:
        if not name.startswith(("leaf/", "cpu.stat", "memory.pressure")):
            (tmp_path / name).unlink()
    told = metrics(isolator.usage(), {})
    assert told.cpu is not None
    assert told.cpu.psi is None
    assert (told.memory, told.memory_events, told.pids, told.io, told.rdma, told.hugetlb) == (None,) * 5 + ([],)


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP])
def test_a_file_that_is_switched_off_or_gone_has_no_figures(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    refuse(monkeypatch, code)
    assert collect(Cgroup("/x"), {"cpu.pressure": nested}) == {}


def test_a_file_that_cannot_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, errno.EACCES)
    with pytest.raises(KernelError, match=r"cpu\.pressure"):
        collect(Cgroup("/x"), {"cpu.pressure": nested})


def refuse(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Let reading any file fail so."""

    def read(_: Cgroup, name: str) -> str:
        raise KernelError("read", code, name)

    monkeypatch.setattr(Cgroup, "read", read)


def test_a_path_that_is_not_there_is_0_or_empty() -> None:
    figures: Figures = {"memory": {"current": 5}}
    assert number(figures, "memory", "current") == 5
    assert number(figures, "memory", "peak") == number(figures, "memory", "current", "x") == number(figures, "x") == 0
    assert section(figures, "memory", "current") == section(figures, "cpu") == {}


def unset(message: Message, path: str = "") -> Iterator[str]:
    """The fields that hold their default."""
    for field in message.fields:
        value = getattr(message, field.name)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Message):
                yield from unset(each, f"{path}{field.name}.")
            elif not each:
                yield f"{path}{field.name}"
        if isinstance(value, list) and not value:
            yield f"{path}{field.name}"
