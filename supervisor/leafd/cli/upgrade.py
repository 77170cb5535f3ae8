"""upgrade: another shim for containers that run."""

from collections.abc import Sequence

import click

from leafd.cli import output
from leafd.cli.command import Caller, Command
from leafd.cli.identifiers import ANY
from leafd.cli.lifecycle import each
from leafd.client import Client
from leafshim.api.containers import UpgradeResponse
from leafshim.state import RUNNING


@click.command("upgrade", cls=Command)
@click.option("--all", "everything", is_flag=True, help="Every container that runs.")
@click.option("--nursery", is_flag=True, help="The nursery, whose code new shims have; with --all it comes first.")
@click.argument("containers", **ANY)
@click.pass_obj
def upgrade_command(caller: Caller, everything: bool, nursery: bool, containers: Sequence[str]) -> None:
    """Have running containers go on with shims of the installed code, one after the other.

    The workload and its log do not notice. Whoever is attached is cut off, and may attach again. A container whose
    upgrade fails keeps the shim that it has; so does one in which an exec runs. Where the installed code cannot take
    over from the nursery, nothing changes. A new shim has the nursery's code: so upgrade the nursery first, or all.

    \b
    Examples:
      leafctl upgrade --all
      leafctl upgrade --nursery
      leafctl upgrade web
    """
    if (everything and bool(containers)) or not (everything or nursery or containers):
        raise click.UsageError("containers, --nursery or --all")
    with caller.client() as client:
        if nursery or everything:
            _renew(caller, client)
        if everything:
            containers = sorted(shown.id for shown in client.list() if shown.state == RUNNING)
        each(containers, lambda container: _upgrade(caller, client, container))


def _renew(caller: Caller, client: Client) -> None:
    done = client.renew()
    if caller.json:
        output.emit({"nursery_pid": done.pid, "former_version": done.former_version, "version": done.version})
    else:
        click.echo(f"nursery: {done.pid} ({done.former_version} → {done.version})")


def _upgrade(caller: Caller, client: Client, container: str) -> None:
    done = client.upgrade(container)
    if caller.json:
        output.emit(_view(done))
    else:
        click.echo(
            f"{done.id}: shim {done.former_pid} ({done.former_version or 'version unknown'})"
            f" → {done.shim_pid} ({done.version})"
        )


def _view(done: UpgradeResponse) -> dict[str, output.Json]:
    return {
        "id": done.id,
        "former_shim_pid": done.former_pid,
        "former_version": done.former_version or None,
        "shim_pid": done.shim_pid,
        "version": done.version,
    }
