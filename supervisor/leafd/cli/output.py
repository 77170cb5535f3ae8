"""What leafctl prints: JSON, tables, sizes, times and durations.

Colours only help a person: none unless standard output is a terminal and NO_COLOR is unset (no-color.org).
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import click

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"

_STATE_COLOURS = {"RUNNING": "green", "UNKNOWN": "red", "PAUSED": "yellow", "DESTROYING": "yellow"}


def emit(value: Json) -> None:
    """One JSON value on one line, written at once so that a reader of a stream sees it."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(", ", ": ")) + "\n")
    sys.stdout.flush()


def emit_pretty(value: Json) -> None:
    """One JSON value for a person to read."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def coloured() -> bool:
    """Whether colours are wanted on standard output."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def state(name: str) -> str:
    """A container's state, in its colour where colours are wanted."""
    return click.style(name, fg=_STATE_COLOURS.get(name)) if coloured() else name


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns two blanks apart. On a terminal the last one is cut to fit; a pipe gets all of it."""
    plain = [list(header), *([click.unstyle(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in plain) for column in range(len(header))]
    room = os.get_terminal_size(1).columns - sum(widths[:-1]) - 2 * (len(widths) - 1) if sys.stdout.isatty() else 0
    for row in (header, *rows):
        cells = [cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=True)]
        last = row[-1]
        cells[-1] = f"{last[: room - 1]}…" if 0 < room < len(last) else last
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def duration(nanoseconds: int) -> str:
    """`3 s`, `12 min`, `5 h`, `3 d`: the largest unit that fits."""
    seconds = max(0, nanoseconds) // 1_000_000_000
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def size(count: int) -> str:
    """`512 B`, `1.5 MiB`: in the largest unit that fits, with a decimal below 100."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.{1 if unit != 'B' and amount < 100 else 0}f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def since(moment: int) -> str:
    """The time that has passed since `moment` (ns since the epoch)."""
    return duration(time.time_ns() - moment)
