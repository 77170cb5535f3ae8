"""stop, kill, pause, resume, rm and wait: what moves a container from state to state."""

import signal as signals
from collections.abc import Callable, Sequence

import click

from leafd.cli import output, views
from leafd.cli.command import FAILED, Caller, Command, Failure, complain
from leafd.cli.identifiers import MANY, ONE
from leafd.client import Client
from leafshim.errors import LeafError, NotFound


@click.command("stop", cls=Command)
@click.option("-t", "--time", "seconds", type=click.FloatRange(min=0), metavar="SEC", help="Grace before SIGKILL.")
@click.argument("containers", **MANY)
@click.pass_obj
def stop_command(caller: Caller, containers: Sequence[str], seconds: float | None) -> None:
    """Ask containers to end (SIGTERM), and make them after a grace (SIGKILL).

    Returns when they have ended. A stopped container keeps its log and its record until `leafctl rm`. Its restart
    policy does not start it again.

    \b
    Examples:
      leafctl stop web
      leafctl stop -t 30 web worker
    """
    with caller.client() as client:
        each(containers, lambda container: client.stop(container, seconds))


def _signal(_ctx: click.Context, _parameter: click.Parameter, value: str) -> int:
    """SIGTERM, TERM, term or 15 → 15."""
    if value.isdecimal():
        if not 1 <= int(value) <= signals.SIGRTMAX:
            raise click.BadParameter(f"{value} is no signal's number (1 to {signals.SIGRTMAX})")
        return int(value)
    name = value.upper()
    try:
        return signals.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError as error:
        raise click.BadParameter(f"{value} is no signal") from error


@click.command("kill", cls=Command)
@click.option("-s", "--signal", default="KILL", show_default=True, callback=_signal, help="By name or number.")
@click.option("-a", "--all", "everything", is_flag=True, help="Every process of the container, not only its first.")
@click.argument("containers", **MANY)
@click.pass_obj
def kill_command(caller: Caller, containers: Sequence[str], signal: int, everything: bool) -> None:
    """Send a signal to the first process of containers.

    The first process of a pid namespace ignores signals that it has no handler for, except SIGKILL and SIGSTOP
    (pid_namespaces(7)).

    \b
    Examples:
      leafctl kill web
      leafctl kill -s HUP web
    """
    with caller.client() as client:
        each(containers, lambda container: client.kill(container, signal, everything=everything))


@click.command("pause", cls=Command)
@click.argument("containers", **MANY)
@click.pass_obj
def pause_command(caller: Caller, containers: Sequence[str]) -> None:
    """Freeze all processes of containers, by the cgroup freezer."""
    with caller.client() as client:
        each(containers, client.pause)


@click.command("resume", cls=Command)
@click.argument("containers", **MANY)
@click.pass_obj
def resume_command(caller: Caller, containers: Sequence[str]) -> None:
    """Let paused containers go on."""
    with caller.client() as client:
        each(containers, client.resume)


@click.command("rm", cls=Command)
@click.option("-f", "--force", is_flag=True, help="Kill a container that still runs; none of that name is no error.")
@click.argument("containers", **MANY)
@click.pass_obj
def rm_command(caller: Caller, containers: Sequence[str], force: bool) -> None:
    """Remove stopped containers: their record, log and directory.

    With -f, as with rm(1), it is no error when there is none of that name: it may be repeated.

    \b
    Examples:
      leafctl rm web
      leafctl rm -f web
    """
    with caller.client() as client:
        each(containers, lambda container: _remove(client, container, force=force))


def _remove(client: Client, container: str, *, force: bool) -> None:
    try:
        client.remove(container, force=force)
    except NotFound:
        if not force:
            raise


@click.command("wait", cls=Command)
@click.argument("container", **ONE)
@click.pass_obj
def wait_command(caller: Caller, container: str) -> int:
    """Wait for a container to end; exit with its status.

    The status is the command's own, or 128 and the number of the signal that ended it.

    \b
    Examples:
      leafctl wait job && echo done
      leafctl --json wait job | jq .exit_cause
    """
    with caller.client() as client:
        ended = client.wait(container)
    if caller.json:
        output.emit(views.container(ended))
    if ended.exit is None or ended.exit.status is None:
        raise Failure("wait", f"{container}: ended, and its status is not known")
    return ended.exit.status


def each(containers: Sequence[str], act: Callable[[str], object]) -> None:
    """Do it to every container, also after one failed; a line for each failure."""
    failure: Failure | None = None
    for container in containers:
        try:
            act(container)
        except LeafError as error:
            if failure:
                complain(str(failure))
            failure = Failure(str(click.get_current_context().info_name), str(error), FAILED)
    if failure:
        raise failure
