"""recover, version and completion."""

import click

from leafd.cli import output
from leafd.cli.command import Caller, Command, Failure, leafctl
from leafshim import __version__
from leafshim.errors import LeafError


@click.command("recover", cls=Command)
@click.pass_obj
def recover_command(caller: Caller) -> None:
    """Look at all containers again, as after a restart of leafd.

    Dead shims are replaced, exits that were missed are recorded, and orphans (cgroups, processes and directories of
    ours that no known container owns) are killed and removed.
    """
    with caller.client() as client:
        found = client.recover()
    counts = {
        "reconnected": found.reconnected,
        "adopted": found.adopted,
        "exits_recorded": found.exits_recorded,
        "orphans": found.orphans,
        "unknown": found.unknown,
    }
    if caller.json:
        output.emit(counts)
    else:
        click.echo(", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items()))


@click.command("version", cls=Command)
@click.pass_obj
def version_command(caller: Caller) -> None:
    """Print the versions of leafctl, leafd and the nursery, whose code new shims have."""
    try:
        with caller.client() as client:
            shown = client.version()
            served, nursery, problem = shown.version, shown.nursery_version, None
    except LeafError as error:
        served, nursery, problem = None, None, error
    if caller.json:
        output.emit({"leafctl": __version__, "leafd": served, "nursery": nursery})
    else:
        click.echo(f"leafctl {__version__}")
        if served:
            click.echo(f"leafd {served}")
            click.echo(f"nursery {nursery}")
    if problem:
        raise problem


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script for a shell. It completes commands, flags and container ids.

    \b
    Examples:
      source <(leafctl completion bash)
      leafctl completion fish > ~/.config/fish/completions/leafctl.fish
    """
    from click.shell_completion import get_completion_class

    completion = get_completion_class(shell)
    if completion is None:
        raise Failure("completion", f"{shell}: not supported")
    click.echo(completion(leafctl, {}, "leafctl", "_LEAFCTL_COMPLETE").source())
