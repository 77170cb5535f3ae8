"""What run, exec and attach share: the options of a process, the relay, and the exit status that comes of it."""

import re
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import click

from leafd.cli.command import RUN_FAILED, Failure, complain
from leafd.cli.terminal import Detached, Relay
from leafd.session import Session
from leafshim.errors import Code, InputError, LeafError, NotFound

NOT_EXECUTABLE = 126
NOT_FOUND = 127

F = TypeVar("F", bound=Callable[..., object])


def process_options(command: F) -> F:
    """-i, -t, --env, --user and --cwd."""
    for option in (
        click.option("--cwd", metavar="DIR", help="Working directory."),
        click.option(
            "-u",
            "--user",
            metavar="U[:G]",
            default="",
            help="User, and group, by name or number; names are the container's own.",
        ),
        click.option(
            "-e", "--env", multiple=True, metavar="K=V", help="Environment variable; K alone takes it from here."
        ),
        click.option("-t", "--tty", is_flag=True, help="Give it a terminal."),
        click.option("-i", "--interactive", is_flag=True, help="Send it standard input."),
    ):
        command = option(command)
    return command


def relay(
    command: str, session: Session, wakeups: socket.socket, *, stdin: bool, unread: signal.Signals | None = None
) -> int:
    """Carry bytes until the process ends, or the person detaches; the status to exit with.

    `wakeups`: from `signals_as_bytes`. `unread`: what to send when whoever read our output has gone; the kernel would
    have sent SIGPIPE if the process had written to them itself.
    """
    try:
        Relay(session, stdin=stdin).run(wakeups)
    except BrokenPipeError:
        if unread is not None:
            with suppress(NotFound):
                session.kill(unread)
        raise
    except Detached:
        click.echo(err=True)
        return 0
    if session.missed:
        complain(f"{command}: {session.missed} bytes of output were missed: we read too slowly")
    ended = session.exited
    if ended is None or ended.status is None:
        why = f": {ended.message}" if ended and ended.message else ""
        raise Failure(command, f"{session.container_id} ended, and its status is not known{why}", RUN_FAILED)
    return ended.status


def forwards_input(interactive: bool, terminal: bool) -> bool:
    """Whether our standard input goes to the process: when asked for, and the keyboard always to a terminal."""
    return interactive or (terminal and sys.stdin is not None and sys.stdin.isatty())


def launch_failure(command: str, error: LeafError) -> Failure:
    """The failure of a launch: 127 and 126, as shells have it, when the program was not found or not executable."""
    status = RUN_FAILED
    if re.search(r"(^|: )exec ", str(error)):  # the step that a launch calls so, see leafshim.launch
        status = NOT_FOUND if error.code == Code.NOT_FOUND else NOT_EXECUTABLE
    return Failure(command, str(error), status)


def seconds(flag: str, text: str) -> float:
    """`500ms`, `30s`, `5m`, `1h`, or a number of seconds; more than 0. Raises InputError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", text, re.ASCII)
    if not match or float(match[1]) == 0:
        raise InputError(f"{flag} {text}: must be a time such as 30s, 5m or 1h")
    return float(match[1]) * {"ms": 0.001, "s": 1, "": 1, "m": 60, "h": 3600}[match[2]]
