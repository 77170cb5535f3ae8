"""exec: one more command in a container."""

import signal
from collections.abc import Sequence

import click

from leafd.cli.command import Caller, RunCommand
from leafd.cli.foreground import forwards_input, launch_failure, process_options, relay
from leafd.cli.identifiers import ONE
from leafd.cli.terminal import signals_as_bytes, size
from leafd.session import execute
from leafshim.errors import LeafError


@click.command("exec", cls=RunCommand, context_settings={"allow_interspersed_args": False})
@process_options
@click.argument("container", **ONE)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND ARG...")
@click.pass_obj
def exec_command(
    caller: Caller,
    container: str,
    command: Sequence[str],
    interactive: bool,
    tty: bool,
    env: Sequence[str],
    user: str,
    cwd: str | None,
) -> int:
    """Run one more command in a container, with its namespaces, environment and user.

    It goes straight to the container's shim, and so works, and goes on, while leafd is down. The exit status is the
    command's own; 127: it was not found, 126: it cannot be executed, 125: leafctl failed. With -t, ctrl-p ctrl-q leaves
    it running.

    \b
    Examples:
      leafctl exec -it web -- sh
      leafctl exec web -- ps aux
      tar c . | leafctl exec -i web -- tar x -C /srv
      leafctl exec --user nobody --cwd /tmp web -- id
    """
    forwards = forwards_input(interactive, tty)
    # After the id, click leaves the "--" that separates the command for us to drop.
    arguments = command[1:] if command[0] == "--" else command
    try:
        session = execute(
            caller.socket,
            container,
            arguments,
            stdin=interactive,
            env=env,
            user=user,
            cwd=cwd or "",
            terminal=tty,
            size=size(1) or size(0),
        )
    except LeafError as error:
        raise launch_failure("exec", error) from error
    with session, signals_as_bytes() as wakeups:
        return relay("exec", session, wakeups, stdin=forwards, unread=signal.SIGPIPE)
