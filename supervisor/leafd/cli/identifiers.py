"""Container ids as arguments: one or many, with completion in the shell."""

from typing import TypedDict

import click
from click.shell_completion import CompletionItem

from leafd.cli.command import Caller
from leafshim.errors import LeafError


class _ContainerId(click.types.StringParamType):
    """An id. Whether it is one, and known, is for leafd to say."""

    name = "id"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The ids that leafd knows; none when it does not answer, as a completion must not disturb."""
        caller = ctx.find_object(Caller)
        if caller is None:
            return []
        try:
            with caller.client() as client:
                known = client.list()
        except (LeafError, OSError):
            return []
        return [CompletionItem(found.id) for found in known if found.id.startswith(incomplete)]


class _Argument(TypedDict, total=False):
    type: click.types.StringParamType
    metavar: str
    nargs: int
    required: bool


ONE: _Argument = {"type": _ContainerId(), "metavar": "ID"}
MANY: _Argument = {"type": _ContainerId(), "metavar": "ID...", "nargs": -1, "required": True}
