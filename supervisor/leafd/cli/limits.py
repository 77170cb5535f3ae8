"""The flags of limits, which run and update share; and update."""

from collections.abc import Callable, Sequence
from typing import TypeVar, Unpack

import click

from leafd import limits, tasks
from leafd.cli.command import Caller, Command
from leafd.cli.identifiers import MANY
from leafd.cli.lifecycle import each
from leafshim.policy import ACTIONS, EVENT

F = TypeVar("F", bound=Callable[..., object])

_OPTIONS = (
    ("memory", "SIZE", "Limit of memory, as 256M."),
    ("memory_low", "SIZE", "Memory that is not reclaimed while others have some to spare."),
    ("memory_high", "SIZE", "Memory beyond which it is slowed down and reclaimed from."),
    ("memory_swap", "SIZE", "Limit of memory and swap together; as --memory, it has no swap."),
    ("cpus", "N", "Limit of CPU time, as 1.5."),
    ("cpu_weight", "N", "Share of busy CPUs, 1 to 10000; 100 is everybody's."),
    ("cpuset_cpus", "LIST", "CPUs that it may use, as 0-1."),
    ("cpuset_mems", "LIST", "Memory nodes that it may use, as 0."),
    ("pids", "N", "Limit of processes and threads."),
)
_REPEATED = (
    ("io_max", "DEVICE,rbps=RATE...", "Limit of a disk, by path or MAJOR:MINOR: rbps, wbps, riops, wiops a second."),
    ("io_weight", "[DEVICE=]N", "Share of busy disks, 1 to 10000; 100 is everybody's."),
    ("hugetlb", "PAGESIZE=SIZE", "Limit of huge pages, as 2MB=64M."),
    (
        "unified",
        "FILE=VALUE",
        "Any limit by its file, as memory.oom.group=1; `default` takes it off.",
    ),
)


_POLICIES = (
    ("on_oom", "When the OOM killer kills in it: tell it, or end the container."),
    ("on_pids", "When a fork fails by the limit of pids."),
    ("on_hugetlb", "When a huge page is refused by its limit."),
)


def policy_options(command: F) -> F:
    """--on-oom and its like."""
    command = click.option(
        limits.flag("on_pressure"),
        multiple=True,
        metavar="RESOURCE:STALL/WINDOW[=ACTION]",
        help="When it stalls for cpu, io or memory, as memory:150ms/1s=kill; memory-full: when all of it does.",
    )(command)
    for name, text in reversed(_POLICIES):
        command = click.option(
            limits.flag(name), type=click.Choice(ACTIONS), default=EVENT, show_default=True, help=text
        )(command)
    return command


def limit_options(command: F) -> F:
    """--memory and all others."""
    for name, metavar, text in reversed(_REPEATED):
        command = click.option(limits.flag(name), multiple=True, metavar=metavar, help=text)(command)
    for name, metavar, text in reversed(_OPTIONS):
        command = click.option(limits.flag(name), metavar=metavar, help=text)(command)
    return command


@click.command("update", cls=Command)
@limit_options
@click.option("--kill", is_flag=True, help="Let the OOM killer make room for a lower limit of memory.")
@click.argument("containers", **MANY)
@click.pass_obj
def update_command(caller: Caller, containers: Sequence[str], kill: bool, **flags: Unpack[limits.Flags]) -> None:
    """Change the limits of containers that run: those that are given, together or not at all.

    `max` takes a limit off, for lists of CPUs and memory nodes `default`. For a limit of memory below what is in use,
    memory is reclaimed; where that is not enough the update is refused, unless --kill.

    They last: a container that its restart policy starts again has them too. It works while leafd is down.

    \b
    Examples:
      leafctl update --memory 512M --cpus 2 web
      leafctl update --pids max web worker
    """
    resources = limits.resources(flags)
    if not resources:
        raise click.UsageError("nothing to change: give a limit, as --memory 512M")
    each(containers, lambda container: tasks.update(caller.socket, container, resources, kill=kill))
