"""The command line's frame: the table of commands, what they share, and how a failure comes out."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import click

from leafshim.errors import KernelError, LeafError

if TYPE_CHECKING:
    from leafd.client import Client

DEFAULT_SOCKET = "/run/leafd/leafd.sock"
FAILED = 1
BAD_USAGE = 2
RUN_FAILED = 125  # as env(1), nohup(1) and docker do: a number that the workload is unlikely to use itself
BROKEN_PIPE = 128 + 13

# section → command → (module, one line of help). The module has a function of the command's name.
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Run": {
        "run": ("run", "Make a container and run a command in it."),
        "exec": ("exec", "Run one more command in a container."),
        "attach": ("attach", "Connect to the terminal or the output of a running container."),
    },
    "Look": {
        "ps": ("look", "List the containers."),
        "inspect": ("look", "Show all that is known of a container, as JSON."),
        "stats": ("stats", "Show what containers use."),
        "tree": ("tree", "Show containers, nested ones and their processes as a tree."),
        "debug": ("debug", "Say what a container is doing, and why it does not go on."),
        "logs": ("streams", "Print what a container wrote."),
        "events": ("streams", "Print what happened to the containers."),
        "wait": ("lifecycle", "Wait for a container to end; exit with its status."),
    },
    "Change": {
        "stop": ("lifecycle", "Ask a container to end, then make it."),
        "kill": ("lifecycle", "Send a signal to a container."),
        "update": ("limits", "Change the limits of a container that runs."),
        "pause": ("lifecycle", "Freeze all processes of a container."),
        "resume": ("lifecycle", "Let a paused container go on."),
        "rm": ("lifecycle", "Remove a stopped container."),
    },
    "Host": {
        "doctor": ("doctor", "Say what this host can do for containers, and what is missing."),
        "recover": ("host", "Look at all containers again, as after a restart of leafd."),
        "upgrade": ("upgrade", "Put another shim in charge of running containers."),
        "version": ("host", "Print the versions of leafctl and leafd."),
        "completion": ("host", "Print the completion script for a shell."),
    },
}
COMMANDS = {name: entry for commands in SECTIONS.values() for name, entry in commands.items()}


class Caller:
    """How leafctl was called: where leafd is, and in what form the answer goes out."""

    def __init__(self, socket: str, json: bool) -> None:
        self.socket = socket
        self.json = json

    def client(self) -> "Client":
        """A connection to leafd. Raises Unavailable."""
        from leafd.client import Client

        return Client(self.socket)


class Failure(Exception):
    """A command that failed, as one line and a status."""

    def __init__(self, command: str, reason: str, status: int = FAILED) -> None:
        super().__init__(f"{command}: {reason}")
        self.status = status


class OutputClosed(Exception):
    """Whoever read our standard output has gone."""


class Command(click.Command):
    """A command of leafctl. Also takes --json and --socket after its own name."""

    failure_status = FAILED

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # click's decorator calls this with its own
        self.params += [
            click.Option(["--json"], is_flag=True, hidden=True, expose_value=False, callback=_late_json),
            click.Option(["--socket"], hidden=True, expose_value=False, callback=_late_socket),
        ]

    def invoke(self, ctx: click.Context) -> object:
        """Run it; whatever goes wrong becomes a Failure."""
        what = str(ctx.info_name)
        try:
            return super().invoke(ctx)
        except LeafError as error:
            raise Failure(what, str(error), self.failure_status) from error
        except BrokenPipeError as error:
            raise OutputClosed from error  # which click would take for its own
        except OSError as error:
            raise Failure(what, str(KernelError.of(error)), self.failure_status) from error


class RunCommand(Command):
    """A command whose exit status is the workload's."""

    failure_status = RUN_FAILED


def _late_json(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_object(Caller).json = True  # type: ignore[union-attr]  # the group always sets it


def _late_socket(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value:
        ctx.find_object(Caller).socket = value  # type: ignore[union-attr]


class _Leafctl(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"leafd.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, section by section, without importing a single command."""
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, text) for name, (_, text) in commands.items()])


@click.group(
    cls=_Leafctl,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  leafctl run --rm -- echo hello
  leafctl run -d --name web -- python3 -m http.server
  leafctl exec -it web -- sh
  leafctl logs -f web
  leafctl --json ps""",
)
@click.option("--socket", envvar="LEAFD_SOCKET", default=DEFAULT_SOCKET, show_default=True, metavar="PATH",
              help="Where leafd listens; also $LEAFD_SOCKET.")  # fmt: skip
@click.option("--json", is_flag=True, help="Print JSON: one value, or one a line for streams.")
@click.pass_context
def leafctl(ctx: click.Context, socket: str, json: bool) -> None:
    """Run containers that outlive their supervisor."""
    ctx.obj = Caller(socket, json)


def execute(arguments: Sequence[str] | None = None) -> int:
    """Run leafctl with `arguments` (default: sys.argv). Returns the exit status."""
    try:
        status = leafctl.main(arguments, prog_name="leafctl", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.UsageError as error:
        command = error.ctx.info_name if error.ctx is not None and error.ctx.parent is not None else None
        complain(f"{command}: {error.format_message()}" if command else error.format_message())
        return RUN_FAILED if command in ("run", "exec") else BAD_USAGE
    except Failure as failure:
        complain(str(failure))
        return failure.status
    except (click.Abort, KeyboardInterrupt):
        return 130
    except (OutputClosed, BrokenPipeError):
        _leave_broken_pipe()
        return BROKEN_PIPE
    except Exception as error:  # the border of the program: a defect of ours is also one line
        complain(f"internal error: {type(error).__name__}: {error}")
        return FAILED


def complain(message: str) -> None:
    """Say one line on standard error."""
    print(f"leafctl: {' '.join(message.split())}", file=sys.stderr)


def _leave_broken_pipe() -> None:
    """Whoever read our output has gone: say nothing, and let the interpreter's last flush go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
