"""stats: what containers use, and how much they may."""

from collections.abc import Sequence

import click

from leafd import tasks
from leafd.cli import output
from leafd.cli.command import Caller, Command
from leafd.cli.identifiers import ANY
from leafd.session import locate
from leafshim.api.metrics import Metrics
from leafshim.cgroup.hierarchy import UNLIMITED
from leafshim.errors import LeafError
from leafshim.ttrpc.protobuf import Message

_ALIVE = ("ISOLATING", "RUNNING")


@click.command("stats", cls=Command)
@click.argument("containers", **ANY)
@click.pass_obj
def stats_command(caller: Caller, containers: Sequence[str]) -> None:
    """Show what containers use now: all that run, or those that are named.

    What the kernel has no controller for is "-". With --json every figure there is, in bytes and µs; null is no limit.

    \b
    Examples:
      leafctl stats
      leafctl --json stats web | jq '.[0].memory.anon'
    """
    found: list[tuple[str, Metrics]] = []
    for container_id, shim_socket in _places(caller, containers):
        try:
            found.append((container_id, tasks.stats(shim_socket, container_id)))
        except LeafError:
            if containers:
                raise
            # It ended meanwhile, or does not answer, which `ps` shows.
    if caller.json:
        output.emit([{"id": container_id, **_figures(metrics)} for container_id, metrics in found])
    else:
        header = ("ID", "CPU TIME", "MEMORY", "SWAP", "PIDS", "READ", "WRITTEN")
        output.table(header, [(container_id, *_row(metrics)) for container_id, metrics in found])


def _places(caller: Caller, containers: Sequence[str]) -> list[tuple[str, str]]:
    """(id, shim's socket) of each."""
    if containers:
        return [(container_id, locate(caller.socket, container_id).shim_socket) for container_id in containers]
    with caller.client() as client:
        listed = sorted(client.list(), key=lambda container: container.id)
    return [(container.id, container.shim_socket) for container in listed if container.state in _ALIVE]


def _row(metrics: Metrics) -> tuple[str, ...]:
    cpu, memory, pids, io = metrics.cpu, metrics.memory, metrics.pids, metrics.io
    return (
        f"{cpu.usage_usec / 1e6:.2f} s" if cpu else "-",
        _of(memory.usage, memory.usage_limit) if memory else "-",
        _of(memory.swap_usage, memory.swap_limit) if memory else "-",
        f"{pids.current}{f' / {pids.limit}' if pids.limit != UNLIMITED else ''}" if pids else "-",
        output.size(sum(device.rbytes for device in io.usage)) if io else "-",
        output.size(sum(device.wbytes for device in io.usage)) if io else "-",
    )


def _of(used: int, limit: int) -> str:
    return output.size(used) if limit == UNLIMITED else f"{output.size(used)} / {output.size(limit)}"


def _figures(message: Message) -> dict[str, output.Json]:
    """A message as JSON, with the names that it has on the wire."""
    return {field.name: _value(getattr(message, field.name)) for field in message.fields}


def _value(value: object) -> output.Json:
    if isinstance(value, Message):
        return _figures(value)
    if isinstance(value, list):
        return [_value(element) for element in value]
    return None if value == UNLIMITED or not isinstance(value, int | str) else value
