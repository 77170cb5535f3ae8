"""Limits that were changed: what to write for a new container, so that it has what the old one has now.

Rules:
1. The later setting of a file wins; of a keyed file (one line a device) that of the same line, and of several values
   (io.max, rdma.max, the period of cpu.max) those that it names. What comes to the default is left out.
2. The order is that of the last changes, in which the kernel took them.
3. cpu.idle takes the weight away, as the kernel does (kernel/sched/fair.c, sched_group_set_idle).
"""

from collections.abc import Iterable

from leafshim.cgroup.isolator import Settings, rule
from leafshim.cgroup.values import DEFAULT, Setting

_WEIGHT = ["100"]
"""Of the default line of a keyed file of weights (CGROUP_WEIGHT_DFL, include/linux/cgroup-defs.h)."""


def amend(former: Iterable[Setting], later: Iterable[Setting]) -> Settings:
    """Both as one. They are checked settings, as `isolator.translate` returns them."""
    merged: dict[tuple[str, str], list[str]] = {}
    for setting in (*former, *later):
        if setting.file == "cpu.idle":
            merged.pop(("cpu.weight", ""), None)
        key, words = _parse(setting)
        merged[setting.file, key] = _join(merged.pop((setting.file, key), []), words)
    kept = ((file, key, _changed(file, key, words)) for (file, key), words in merged.items())
    return tuple(Setting(file, " ".join([key, *words] if key else words)) for file, key, words in kept if words)


def unified(settings: Iterable[Setting]) -> dict[str, str]:
    """`linux.resources.unified` with these settings: a keyed file has its lines in one value."""
    files: dict[str, str] = {}
    for file, value in settings:
        files[file] = f"{files[file]}\n{value}" if file in files else value
    return files


def _parse(setting: Setting) -> tuple[str, list[str]]:
    key, *words = setting.value.split() or [""]
    return (key, words) if rule(setting.file).keyed else ("", [key, *words])


def _join(former: list[str], later: list[str]) -> list[str]:
    if any("=" in word for word in later):
        return [f"{name}={value}" for name, value in (_pairs(former) | _pairs(later)).items()]
    return later + former[len(later) :]


def _changed(file: str, key: str, words: list[str]) -> list[str]:
    """What of a value differs from that of a new cgroup."""
    default = _WEIGHT if key == DEFAULT else rule(file).default.split() or [""]
    if rule(file).keyed and "=" in default[0]:
        return [word for word in words if word not in default]
    return [] if words == default else words


def _pairs(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words)
