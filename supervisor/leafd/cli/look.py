"""ps and inspect."""

import click

from leafd.cli import output, views
from leafd.cli.command import Caller, Command
from leafd.cli.identifiers import ONE


@click.command("ps", cls=Command)
@click.option("-q", "--quiet", is_flag=True, help="Print only the ids.")
@click.pass_obj
def ps_command(caller: Caller, quiet: bool) -> None:
    """List the containers, stopped ones too.

    A container whose shim does not answer in time is shown as UNKNOWN, which does not mean that it ended.

    \b
    Examples:
      leafctl ps
      leafctl --json ps | jq -r '.[] | select(.state == "RUNNING") | .id'
      leafctl ps -q | xargs -n 1 leafctl stop
    """
    with caller.client() as client:
        containers = sorted(client.list(), key=lambda container: container.id)
    if caller.json:
        output.emit([views.container(container) for container in containers])
    elif quiet:
        for container in containers:
            click.echo(container.id)
    else:
        rows = [
            (
                container.id,
                output.state("PAUSED" if container.paused else container.state),
                str(container.pid or "-"),
                views.status(container),
                " ".join(container.args),
            )
            for container in containers
        ]
        output.table(("ID", "STATE", "PID", "STATUS", "COMMAND"), rows)


@click.command("inspect", cls=Command)
@click.argument("container", **ONE)
@click.pass_obj
def inspect_command(caller: Caller, container: str) -> None:
    """Show all that is known of a container, as JSON.

    \b
    Examples:
      leafctl inspect web
      leafctl --json inspect web | jq .exit_status
    """
    with caller.client() as client:
        shown = views.container(client.inspect(container))
    (output.emit if caller.json else output.emit_pretty)(shown)
