"""logs and events: what goes on until it ends, or until the reader does."""

import sys

import click

from leafd.cli import output, views
from leafd.cli.command import Caller, Command, complain
from leafd.cli.identifiers import ONE


@click.command("logs", cls=Command)
@click.option("-f", "--follow", is_flag=True, help="Go on as the container writes, until it ends.")
@click.argument("container", **ONE)
@click.pass_obj
def logs_command(caller: Caller, container: str, follow: bool) -> None:
    """Print what a container wrote, byte by byte as it wrote it.

    Its standard output comes out on standard output, its standard error on standard error.

    \b
    Examples:
      leafctl logs web
      leafctl logs -f web 2>/dev/null
      leafctl --json logs web
    """
    places = {"stdout": sys.stdout.buffer, "console": sys.stdout.buffer}
    with caller.client() as client, client.logs(container, follow=follow) as chunks:
        for chunk in chunks:
            if caller.json:
                output.emit(views.log_chunk(chunk))
                continue
            place = places.get(chunk.stream, sys.stderr.buffer)
            place.write(chunk.data)
            if follow:
                place.flush()


@click.command("events", cls=Command)
@click.option("-f", "--follow", is_flag=True, help="Go on as things happen.")
@click.option("--since", type=click.IntRange(min=0), default=0, metavar="N", help="Only those after number N.")
@click.argument("container", required=False, default="", metavar="[ID]")
@click.pass_obj
def events_command(caller: Caller, follow: bool, since: int, container: str) -> None:
    """Print what happened to the containers, or to one.

    Every event has a number. Whoever remembers the last number that it saw misses nothing: leafd keeps a journal
    across restarts (of `journal_size`). Whoever reads too late or too slowly for it is told how much it missed.

    \b
    Examples:
      leafctl events
      leafctl --json events -f --since 120
    """
    with caller.client() as client, client.events(since, follow=follow, container_id=container) as events:
        for event in events:
            if caller.json:
                output.emit(views.event(event))
            elif event.type == "missed":
                complain(f"events: {event.message}")
            else:
                click.echo(views.event_line(event))
