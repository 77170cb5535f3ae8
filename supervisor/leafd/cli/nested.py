"""The flags of run that nest a container in another, and what follows from them."""

from collections.abc import Callable, Sequence
from typing import TypedDict, TypeVar

import click

from leafd.cli.identifiers import ContainerId
from leafd.client import Client, CreateOptions
from leafd.describe_nested import DEBUG, SHARED

F = TypeVar("F", bound=Callable[..., object])


class Flags(TypedDict):
    """Them, as click hands them over."""

    parent: str | None
    share_cgroups: bool | None
    share: tuple[str, ...]
    container_class: str


def _namespaces(_ctx: click.Context, _parameter: click.Parameter, value: Sequence[str]) -> tuple[str, ...]:
    """Lists of names, separated by commas, each name once."""
    names = dict.fromkeys(name for each in value for name in each.split(","))
    for name in names:
        if name not in SHARED:
            raise click.BadParameter(f"{name!r} must be of {', '.join(SHARED)}")
    return tuple(names)


def nested_options(command: F) -> F:
    """--parent and all others."""
    for option in (
        click.option(
            "--class",
            "container_class",
            type=click.Choice(["default", DEBUG]),
            default="default",
            show_default=True,
            help="debug: one more process of its parent's; ends when leafd is started again.",
        ),
        click.option(
            "--share",
            multiple=True,
            metavar="NS,...",
            callback=_namespaces,
            help=f"Namespaces of its parent to be in: {', '.join(SHARED)}.",
        ),
        click.option(
            "--share-cgroups/--no-share-cgroups",
            default=None,
            help="Have no limits but its parent's (the default), or limits of its own below those.",
        ),
        click.option(
            "--parent", type=ContainerId(), metavar="ID", help="Nest it in this container; the same as --name ID/NAME."
        ),
    ):
        command = option(command)
    return command


def check(flags: Flags, *, net: str | None, bundle: str | None) -> None:
    """Raises UsageError for flags that do not go together."""
    if flags["parent"] is None:
        for name, given in (
            ("--share-cgroups", flags["share_cgroups"]),
            ("--share", flags["share"]),
            ("--class debug", flags["container_class"] == DEBUG),
        ):
            if given:
                raise click.UsageError(f"{name} needs --parent")
    if bundle is not None and flags["container_class"] == DEBUG:
        raise click.UsageError("--class debug does not go with --bundle: it is a process of its parent's")
    if net is not None and ("net" in flags["share"] or flags["container_class"] == DEBUG):
        raise click.UsageError("--net does not go with the network of its parent")


def shared(flags: Flags, *, net: str | None, bundle: str | None) -> tuple[str, ...]:
    """The namespaces to share. The network is its parent's unless --net or a bundle says otherwise."""
    if flags["parent"] is None:
        return ()
    if flags["container_class"] == DEBUG:
        return tuple(SHARED)
    implied = ("net",) if net is None and bundle is None else ()
    return tuple(dict.fromkeys((*flags["share"], *implied)))


def options(flags: Flags, share: Sequence[str]) -> CreateOptions:
    """What a Create request says of it."""
    asked: CreateOptions = {}
    if flags["share_cgroups"] is not None:
        asked["share_cgroups"] = flags["share_cgroups"]
    if flags["container_class"] == DEBUG:
        asked["container_class"] = DEBUG
    if share:
        asked["share"] = list(share)
    return asked


def users_of(client: Client, flags: Flags, share: Sequence[str]) -> str:
    """Where names of users are looked up, for one in the mounts of its parent; else empty. Raises NotFound."""
    parent = flags["parent"]
    return f"/proc/{client.inspect(parent).pid}/root" if parent is not None and "mnt" in share else ""
