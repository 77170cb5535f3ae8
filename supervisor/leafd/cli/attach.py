"""attach: the terminal or the output of a container that runs."""

import click

from leafd.cli.command import Caller, Command
from leafd.cli.foreground import relay
from leafd.cli.identifiers import ONE
from leafd.cli.terminal import signals_as_bytes
from leafd.session import attach


@click.command("attach", cls=Command)
@click.option("--no-stdin", is_flag=True, help="Watch only.")
@click.argument("container", **ONE)
@click.pass_obj
def attach_command(caller: Caller, container: str, no_stdin: bool) -> int:
    """Connect to the terminal or the output of a running container, from now on.

    What it wrote before is in `leafctl logs`. Our input, and its end, goes to the container if it was made with -i or
    -t. ctrl-p ctrl-q leaves it running; otherwise the exit status is its own.

    \b
    Examples:
      leafctl attach web
      leafctl attach --no-stdin web
    """
    with attach(caller.socket, container, stdin=not no_stdin) as session, signals_as_bytes() as wakeups:
        return relay("attach", session, wakeups, stdin=not no_stdin)
