"""stats: what containers use, and how much they may."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import click

from leafd import usage
from leafd.cli import output, views
from leafd.cli.command import Caller, Command
from leafd.cli.identifiers import ANY
from leafd.usage import Target, Usage
from leafshim.cgroup import perf_event
from leafshim.cgroup.figures import Figures, number, section
from leafshim.cgroup.hierarchy import UNLIMITED
from leafshim.errors import StateError

_CLEAR = "\033[H\033[J"  # the cursor to the upper left corner, and nothing below it (console_codes(4))
_SHORTEST_ID = 8
_HEADER = ("ID", "CPU", "MEMORY", "SWAP", "PIDS", "READ", "WRITE", "PSI")
_SECONDS = click.FloatRange(min=0.0, max=86_400.0)


@click.command("stats", cls=Command)
@click.option("--stream/--no-stream", default=None, help="Go on until interrupted, or show it once. On a terminal "
              "--stream is the default, otherwise --no-stream.")  # fmt: skip
@click.option("-i", "--interval", type=_SECONDS, default=1.0, show_default=True, metavar="SECONDS",
              help="Time from one look to the next.")  # fmt: skip
@click.option("--duration", type=_SECONDS, metavar="SECONDS",
              help="How long each look measures CPU and --perf; the interval, unless given. 0: no CPU.")  # fmt: skip
@click.option("--no-reset", is_flag=True, help="Print one table after the other instead of refreshing it.")
@click.option("--perf", metavar="EVENTS", help=f"Count these in each container: {', '.join(perf_event.EVENTS)}; or "
              "`all` that this host can count. Separated by commas.")  # fmt: skip
@click.argument("containers", **ANY)
@click.pass_obj
def stats_command(
    caller: Caller,
    containers: Sequence[str],
    stream: bool | None,
    interval: float,
    duration: float | None,
    no_reset: bool,
    perf: str | None,
) -> None:
    """Show what containers use: all that run, or those that are named.

    CPU is in percent of one CPU. PSI is the largest share of the last 10 s in which something waited for CPU, memory or
    io. What the kernel has no controller for is "-". Those that are nested in a container are part of it.

    --json has every figure that the kernel tells (docs/stats.md), null for no limit: one list, with --stream one a
    line. It needs no shim, and while leafd is down it goes on.

    \b
    Examples:
      leafctl stats
      leafctl stats --no-stream web
      leafctl --json stats web | jq '.[0].memory.current'
      leafctl --json stats --stream -i 5 | jq -c '.[] | [.id, .cpu.percent]'
      leafctl stats --perf task-clock,page-faults -i 60 --duration 10
    """
    live = sys.stdout.isatty() and not caller.json
    streaming = live if stream is None else stream
    window = interval if duration is None else duration
    events = _events(perf)
    if streaming and interval <= 0:
        raise click.UsageError("--interval: must be more than 0 for --stream")
    if window > interval and streaming:
        raise click.UsageError("--duration: must not be longer than --interval")
    if events and window <= 0:
        raise click.UsageError("--duration: must be more than 0 for --perf")
    found = usage.targets(caller.socket, containers)
    due = time.monotonic()
    while True:
        shown = _measure(found, events, window)
        if containers and not shown and not streaming:
            raise StateError(f"{', '.join(containers)}: ended meanwhile")
        if caller.json:
            output.emit([document(each) for each in shown])
        else:
            _show(shown, events, clear=live and streaming and not no_reset)
        if not streaming or (containers and not shown):
            return
        due = max(due + interval, time.monotonic())  # what was missed while nobody read is not made up for
        time.sleep(max(0.0, due - time.monotonic()))
        found = _still_there(caller.socket, found) if containers else usage.targets(caller.socket)


def _events(perf: str | None) -> tuple[str, ...]:
    if perf is None:
        return ()
    events = perf_event.supported() if perf == "all" else tuple(dict.fromkeys(filter(None, perf.split(","))))
    perf_event.check(events)
    if not events:
        raise click.UsageError("--perf: no event is named")
    return events


def _still_there(socket: str, found: Sequence[Target]) -> list[Target]:
    """Those of the named ones that live; one that was started again is found again."""
    living = {target.id: target for target in usage.targets(socket)}
    return [living[target.id] for target in found if target.id in living]


def _measure(found: Sequence[Target], events: tuple[str, ...], window: float) -> list[Usage]:
    with ExitStack() as stack:
        meters = usage.meters(found, events)
        for meter in meters:
            stack.callback(meter.close)
        if not window:  # whatever passes between two readings in a row is no time to measure
            return [shown._replace(percent=None) for meter in meters if (shown := meter.finish()) is not None]
        time.sleep(window)
        return [shown for meter in meters if (shown := meter.finish()) is not None]


def _show(shown: Sequence[Usage], events: tuple[str, ...], *, clear: bool) -> None:
    header: tuple[str, ...] = ("ID", *events) if events else _HEADER
    rows = [(each.id, *(map(str, each.events.values()) if events else _row(each))) for each in shown]
    more = 0
    if clear:
        sys.stdout.write(_CLEAR)
        room = max(1, os.get_terminal_size(1).lines - 3)
        rows, more = rows[:room], max(0, len(rows) - room)
    if sys.stdout.isatty():
        rows = _cut(header, rows, os.get_terminal_size(1).columns)
    output.table(header, rows)
    if more:
        click.echo(f"… and {more} more")
    sys.stdout.flush()


def _cut(header: Sequence[str], rows: Sequence[tuple[str, ...]], columns: int) -> list[tuple[str, ...]]:
    """The rows with ids that leave room for everything else."""
    others = sum(2 + max(len(row[column]) for row in (header, *rows)) for column in range(1, len(header)))
    room = max(_SHORTEST_ID, columns - others)
    return [(row[0] if len(row[0]) <= room else f"{row[0][: room - 1]}…", *row[1:]) for row in rows]


def _row(shown: Usage) -> tuple[str, ...]:
    memory, pids = section(shown.figures, "memory"), section(shown.figures, "pids")
    io = section(shown.figures, "io", "stat")
    counted = "io" in shown.figures and "stat" in section(shown.figures, "io")
    return (
        "-" if shown.percent is None else f"{shown.percent:.1f}%",
        _of(memory, _size),
        _of(section(memory, "swap"), _size),
        _of(pids, str),
        _size(sum(number(io, device, "rbytes") for device in io)) if counted else "-",
        _size(sum(number(io, device, "wbytes") for device in io)) if counted else "-",
        _pressure(shown.figures),
    )


def _of(figures: Figures, text: Callable[[int], str]) -> str:
    """`current`, and `max` where there is one."""
    if "current" not in figures:
        return "-"
    used, limit = number(figures, "current"), number(figures, "max")
    return text(used) if limit == UNLIMITED else f"{text(used)}/{text(limit)}"


def _size(count: int) -> str:
    """`1.5M`: short, so that all of it fits 80 columns."""
    return output.size(count).replace(" ", "").removesuffix("iB")


def _pressure(figures: Figures) -> str:
    shares = [
        (share, name)
        for name, resource in (("cpu", "cpu"), ("mem", "memory"), ("io", "io"))
        if isinstance(share := section(figures, resource, "pressure", "some").get("avg10"), float)
    ]
    if not shares:
        return "-"
    share, name = max(shares)
    return f"{name} {share:.0f}%" if share else "0%"


def document(shown: Usage) -> dict[str, output.Json]:
    """One container of `stats --json`; docs/stats.md has each figure."""
    figures = {name: _plain(figures) for name, figures in shown.figures.items()}
    percent = None if shown.percent is None else round(shown.percent, 3)
    figures["cpu"] = {"percent": percent, **{key: _plain(each) for key, each in section(shown.figures, "cpu").items()}}
    if shown.network:
        figures["network"] = shown.network
    if shown.events:
        figures["perf"] = {"seconds": shown.seconds, **shown.events}
    return {"id": shown.id, "time": views.time(shown.time), **figures, "limits": shown.limits}


def _plain(value: "int | float | Figures") -> output.Json:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if value == UNLIMITED else value
