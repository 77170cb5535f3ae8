"""cgroup: every file of a container's two cgroups, explained (Documentation/admin-guide/cgroup-v2.rst)."""

import os
import re
from typing import TypedDict

from leafshim.cgroup.hierarchy import Cgroup

_SIZE = r"\d+[KMG]B"

# pattern → what it means; the first that matches the whole name counts
_MEANINGS: tuple[tuple[str, str], ...] = (
    (r"cgroup\.type", "domain, or threaded"),
    (r"cgroup\.procs", "processes in this very cgroup"),
    (r"cgroup\.threads", "threads in this very cgroup"),
    (r"cgroup\.controllers", "controllers that could be enabled below"),
    (r"cgroup\.subtree_control", "controllers that are enabled below"),
    (r"cgroup\.events", "populated: a process lives in it or below; frozen: all of them stand still"),
    (r"cgroup\.max\.descendants", "how many cgroups there may be below"),
    (r"cgroup\.max\.depth", "how deep they may be"),
    (r"cgroup\.stat(\.local)?", "cgroups below, living and dying; time that it was frozen"),
    (r"cgroup\.freeze", "1: it is to stand still (pause)"),
    (r"cgroup\.kill", "write 1: kill everything in it"),
    (r"cgroup\.pressure", "1: pressure is measured"),
    (r"irq\.pressure", "share of time lost to interrupts, in %; total in µs"),
    (r"(cpu|memory|io)\.pressure", "share of time that some, or all (full), tasks waited for it, in %; total in µs"),
    (r"cpu\.stat(\.local)?", "time used, in µs; periods of cpu.max, those in which it was throttled, and for how long"),
    (r"cpu\.weight(\.nice)?", "share of the CPU among siblings"),
    (r"cpu\.max", "quota and period in µs: so much CPU time in each period"),
    (r"cpu\.max\.burst", "µs that may be saved up for later periods"),
    (r"cpu\.idle", "1: runs only when nobody else wants to"),
    (r"cpu\.uclamp\.(min|max)", "frequency that it asks for, or is held to, in %"),
    (r"cpuset\.(cpus|mems)", "CPUs or memory nodes that it may use; empty: its parent's"),
    (r"cpuset\.(cpus|mems)\.effective", "CPUs or memory nodes that it does use"),
    (r"cpuset\.cpus\.(partition|exclusive|exclusive\.effective)", "CPUs that nobody else may use"),
    (r"memory\.current", "bytes in use, caches included"),
    (r"memory\.peak", "the most that were in use, in bytes"),
    (r"memory\.(min|low)", "bytes that are not reclaimed from it; low: unless nothing else is left"),
    (r"memory\.high", "above it processes are slowed down and reclaimed from"),
    (r"memory\.max", "above it the OOM killer comes"),
    (r"memory\.oom\.group", "1: the OOM killer takes all of it or nothing"),
    (r"memory\.events(\.local)?", "how often each limit was met; oom_kill: processes killed"),
    (r"memory\.(stat|numa_stat)", "what the memory is used for, in bytes, and what became of it"),
    (r"memory\.reclaim", "write bytes: have them reclaimed"),
    (r"memory\.swap\.(current|peak|high|max)", "swap in use, the most, and its limits, in bytes"),
    (r"memory\.swap\.events", "how often swap was refused"),
    (r"memory\.zswap\.(current|max|writeback)", "compressed swap in memory, in bytes"),
    (r"pids\.current", "processes and threads"),
    (r"pids\.peak", "the most that there were"),
    (r"pids\.max", "above it fork fails"),
    (r"pids\.events(\.local)?", "how often fork failed"),
    (r"io\.stat", "bytes and operations, by device"),
    (r"io\.max", "limits in bytes and operations a second, by device"),
    (r"io\.(weight|bfq\.weight)", "share of the disk among siblings"),
    (r"io\.latency", "latency that is aimed at, by device"),
    (r"io\.prio\.class", "class that its requests have"),
    (rf"hugetlb\.{_SIZE}\.current", "bytes in huge pages"),
    (rf"hugetlb\.{_SIZE}\.max", "above it a page fault is SIGBUS"),
    (rf"hugetlb\.{_SIZE}\.rsvd\.(current|max)", "bytes reserved by mmap, and their limit"),
    (rf"hugetlb\.{_SIZE}\.events(\.local)?", "how often the limit refused a page"),
    (rf"hugetlb\.{_SIZE}\.numa_stat", "bytes by memory node"),
    (r"rdma\.(current|max|peak|events|events\.local)", "handles of RDMA devices, and their limits"),
    (r"dmem\.(current|max|min|low|capacity)", "memory of devices, and its limits"),
    (r"misc\.(current|max|peak|events|events\.local|capacity)", "resources that are counted, and their limits"),
)


class File(TypedDict):
    """`value`: None where it cannot be read; `meaning`: empty for a file that we do not know."""

    name: str
    value: str | None
    meaning: str


def look(cgroup: Cgroup) -> list[File]:
    """Every file of `cgroup`, by name; none when it is gone."""
    try:
        names = sorted(entry.name for entry in os.scandir(cgroup.path) if entry.is_file(follow_symlinks=False))
    except OSError:
        return []
    return [File(name=name, value=_value(os.path.join(cgroup.path, name)), meaning=meaning(name)) for name in names]


def meaning(name: str) -> str:
    """What a file says, in words; empty for one that we do not know."""
    return next((text for pattern, text in _MEANINGS if re.fullmatch(pattern, name)), "")


def _value(path: str) -> str | None:
    """Not all can be read: cgroup.kill is for writing, cgroup.procs of a threaded cgroup answers EOPNOTSUPP."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return None
