"""run: make a container and run a command in it."""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias, Unpack

import click

from leafd import devices, limits, names, policies
from leafd.cli import nested, output, views
from leafd.cli.command import Caller, RunCommand
from leafd.cli.foreground import forwards_input, launch_failure, process_options, relay, seconds
from leafd.cli.limits import limit_options, policy_options
from leafd.cli.terminal import signals_as_bytes, signals_as_interrupts, size
from leafd.client import Client, CreateOptions
from leafd.describe import Document, describe, parse, parse_mount, wants_terminal
from leafd.describe_nested import Asked, describe_nested
from leafd.session import Session, connect
from leafshim.api.containers import Container
from leafshim.errors import AlreadyExists, InputError, KernelError, LeafError

_NANOSECONDS = 1_000_000_000
_NAME_ATTEMPTS = 20
_SETTLE = 10.0  # s; for leafd to have seen the end that we have seen

_DESCRIBING = (
    "tty",
    "rootfs",
    "env",
    "user",
    "cwd",
    "mounts",
    "devices",
    "delegate",
    "hostname",
    "net",
    *limits.CONTROLLERS,
)
"""The parameters that say what config.json says, and so do not go with --bundle."""

_Description: TypeAlias = Callable[[Client, str], Document]
"""Of a container, once leafd is there and the id is known."""


class Flags(limits.Flags, nested.Flags, policies.Flags):
    """The command line, as click hands it over."""

    command: Sequence[str]
    detach: bool
    name: str | None
    remove: bool
    interactive: bool
    tty: bool
    env: Sequence[str]
    user: str
    cwd: str | None
    rootfs: str | None
    bundle: str | None
    mounts: Sequence[str]
    devices: Sequence[str]
    delegate: bool
    hostname: str | None
    net: str | None
    labels: Sequence[str]
    restart: str
    timeout: str | None


@click.command("run", cls=RunCommand, context_settings={"allow_interspersed_args": False})
@click.option("-d", "--detach", is_flag=True, help="Print the id and leave it running.")
@click.option("--name", metavar="ID", help="Its id; generated when absent.")
@click.option("--rm", "remove", is_flag=True, help="Remove it when it has ended.")
@process_options
@click.option("--rootfs", metavar="DIR", help="Root directory; the host's own files, protected, when absent.")
@click.option("--bundle", metavar="DIR", help="Directory with an OCI config.json that says everything.")
@click.option(
    "--mount",
    "mounts",
    multiple=True,
    metavar="SPEC",
    help="type=bind,src=DIR,dst=DIR[,ro] or type=tmpfs,dst=DIR[,size=64m].",
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="RULE",
    help="Allow a device: /dev/fuse, /dev/fuse:rw, /dev/fuse:/dev/other, c:10:229:rwm, b:7:*.",
)
@click.option("--delegate", is_flag=True, help="Let it make cgroups of its own, below its leaf, also as --user.")
@click.option("--hostname", metavar="H", help="Host name; the id when absent.")
@click.option(
    "--net", type=click.Choice(["host", "none"]), help="Network: the host's when absent; of a nested one its parent's."
)
@limit_options
@policy_options
@nested.nested_options
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Label, shown by inspect.")
@click.option(
    "--restart",
    type=click.Choice(["no", "on-failure", "always"]),
    default="no",
    show_default=True,
    help="Start it again when it has ended; needs -d.",
)
@click.option("--timeout", metavar="TIME", help="End it after this long, as 30s, 5m, 1h.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND ARG...")
@click.pass_context
def run_command(ctx: click.Context, /, **flags: Unpack[Flags]) -> int:
    """Make a container and run a command in it.

    In the foreground its output is ours, signals go to it (SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2), and the
    exit status is its own: the command's, or 128 and the number of the signal that ended it. 127: the command was not
    found, 126: it cannot be executed, 125: leafctl or leafd failed. With -t, ctrl-p ctrl-q leaves it running.

    Without --rootfs and --bundle it runs on the host's own files: it sees them, and what it changes goes away with it.

    With --parent it is nested: it ends with its parent, runs as the same user, in the same network, and with its
    parent's limits, unless a flag says otherwise. --class debug makes it one more process among its parent's.

    \b
    Examples:
      leafctl run --rm -- echo hello
      leafctl run -it --rm -- bash
      leafctl run -d --name web --cwd /srv --mount src=/srv,dst=/srv,ro -- python3 -m http.server
      leafctl run --rootfs /images/alpine --net none -- /bin/busybox id
      leafctl run --device /dev/kvm:rw -- qemu-system-x86_64 -accel kvm
      leafctl run -d --parent web --name db --no-share-cgroups --memory 256M -- postgres
      leafctl run -it --rm --parent web --class debug -- sh
      leafctl run --timeout 30s --env DEBUG=1 --user nobody -- ./job
    """
    caller = ctx.ensure_object(Caller)
    if not flags["command"] and flags["bundle"] is None:
        raise click.UsageError("no command: give one after --")
    if flags["restart"] != "no" and (flags["remove"] or not flags["detach"]):
        raise click.UsageError("--restart needs -d, and does not go with --rm")
    if flags["parent"] is None and flags["name"] is not None and "/" in flags["name"]:
        flags["parent"], _, flags["name"] = flags["name"].rpartition("/")
    nested.check(flags, net=flags["net"], bundle=flags["bundle"])
    share = nested.shared(flags, net=flags["net"], bundle=flags["bundle"])
    resources = limits.resources(flags)
    options: CreateOptions = {
        "labels": dict(_label(label) for label in flags["labels"]),
        "restart": flags["restart"],
        "remove": flags["remove"],
        "start": flags["detach"],
        **nested.options(flags, share),
        "policy": policies.policy(flags),
    }
    if flags["timeout"] is not None:
        options["timeout"] = _timeout(flags["timeout"])
    if flags["bundle"] is None:
        terminal = flags["tty"]
        description = _by_flags(flags, resources, share)
    else:
        _refuse_beside_bundle(ctx)
        document, options["rootfs"] = _read_bundle(flags["bundle"], flags["command"])
        terminal = wants_terminal(document)
        description = _always(document)
    options["stdin"] = flags["interactive"] or terminal
    with caller.client() as client:
        if resources:
            version = client.version()
            limits.require(flags, version.controllers, version.cgroups_root)
        if flags["detach"]:
            container = _create(client, flags["name"], flags["parent"], description, options)
            output.emit(views.container(container)) if caller.json else click.echo(container.id)
            return 0
        with signals_as_interrupts():
            container = _create(client, flags["name"], flags["parent"], description, options)
            return _foreground(client, container, stdin=forwards_input(flags["interactive"], terminal))


def _foreground(client: Client, container: Container, *, stdin: bool) -> int:
    """Attach, start, and stay until it ends; the exit status. What cannot be started is removed: it never ran."""
    started = False
    try:
        connection = connect(container.shim_socket)
        with (
            Session(connection, container.id, stdin=stdin, lossless=True, terminal=container.terminal) as session,
            signals_as_bytes() as wakeups,
        ):
            client.start(container.id)
            started = True
            # The first process of a pid namespace ignores SIGPIPE from outside, unless it handles it.
            status = relay("run", session, wakeups, stdin=stdin, unread=signal.SIGKILL)
    except BaseException as error:
        if not started:
            with suppress(LeafError):  # leafd has undone it already, or cannot: the first error is the one to tell
                client.remove(container.id, force=True)
        if isinstance(error, LeafError):
            raise launch_failure("run", error) from error
        raise
    if session.exited is not None:
        _settle(client.socket, container.id)
    return status


def _by_flags(flags: Flags, resources: Document, share: Sequence[str]) -> _Description:
    """The description that the flags ask for. Raises InputError, NotFound, and so does what it returns."""
    asked: Asked = {
        "rootfs": None if flags["rootfs"] is None else _directory("--rootfs", flags["rootfs"]),
        "env": flags["env"],
        "user": flags["user"],
        "delegate": flags["delegate"],
        "mounts": [parse_mount(mount) for mount in flags["mounts"]],
        "net": flags["net"] or "host",
        "terminal": flags["tty"],
        "size": size(1) or size(0),
        "resources": resources,
        "devices": [devices.parse(device) for device in flags["devices"]],
    }
    if flags["cwd"] is not None:
        asked["cwd"] = flags["cwd"]

    def by_id(client: Client, container_id: str) -> Document:
        asked["hostname"] = flags["hostname"] or ("" if "uts" in share else container_id.rpartition("/")[2])
        if flags["parent"] is None:
            return describe(flags["command"], **asked)
        asked["users_of"] = nested.users_of(client, flags, share)
        return describe_nested(flags["command"], share=share, container_class=flags["container_class"], **asked)

    return by_id


def _always(document: Document) -> _Description:
    return lambda _client, _container_id: document


def _refuse_beside_bundle(ctx: click.Context) -> None:
    for parameter in ctx.command.params:
        given = ctx.get_parameter_source(parameter.name or "")
        if parameter.name in _DESCRIBING and given == click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[-1]} does not go with --bundle, whose config.json says it")


def _read_bundle(path: str, command: Sequence[str]) -> tuple[Document, str]:
    """The description in a bundle, with `command` in place of its own if there is one; and its root, absolute."""
    directory = _directory("--bundle", path)
    config = os.path.join(directory, "config.json")
    try:
        with open(config, "rb") as file:
            document = parse(file.read(), config)
    except OSError as error:
        raise KernelError.of(error, "open") from error
    root, process = document.get("root"), document.get("process")
    place = root.get("path") if isinstance(root, dict) else None
    if command and isinstance(process, dict):
        process["args"] = list(command)
    return document, os.path.join(directory, place) if isinstance(place, str) else ""


def _create(
    client: Client,
    name: str | None,
    parent: str | None,
    description: _Description,
    options: CreateOptions,
) -> Container:
    """Make it; under a generated name, one that is not taken yet."""
    for _ in range(_NAME_ATTEMPTS):
        chosen = names.generate() if name is None else name
        chosen = chosen if parent is None else f"{parent}/{chosen}"
        try:
            return client.create(chosen, description(client, chosen), **options)
        except AlreadyExists as error:
            if name is not None:
                raise
            taken = error
        except LeafError as error:
            raise launch_failure("run", error) from error
        except KeyboardInterrupt:
            with suppress(LeafError):
                client.remove(chosen, force=True)
            raise
    raise taken


def _settle(socket: str, container_id: str) -> None:
    """Return only when leafd also knows of the end, so that `run` and then `rm` or `run` by the same name work. Where
    leafd is down, or has removed it already, there is nothing to wait for."""
    with suppress(LeafError), Client(socket) as client:
        client.wait(container_id, timeout=_SETTLE)


def _directory(flag: str, path: str) -> str:
    absolute = os.path.abspath(path)
    if not os.path.isdir(absolute):
        raise InputError(f"{flag} {path}: no such directory")
    return absolute


def _label(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise InputError(f"--label {text}: must be NAME=VALUE")
    return name, value


def _timeout(text: str) -> int:
    """Nanoseconds."""
    return int(seconds("--timeout", text) * _NANOSECONDS)
