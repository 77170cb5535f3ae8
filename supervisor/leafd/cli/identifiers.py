"""Container ids as arguments: one, many or any number, with completion in the shell."""

from typing import TypedDict

import click
from click.shell_completion import CompletionItem

from leafd.cli.command import DEFAULT_SOCKET, Caller
from leafshim.errors import LeafError


class ContainerId(click.types.StringParamType):
    """An id. Whether it is one, and known, is for leafd to say."""

    name = "id"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The ids that leafd knows; none when it does not answer, as a completion must not disturb."""
        # While completing, click parses but calls nothing, so there is no Caller yet.
        socket = ctx.find_root().params.get("socket") or DEFAULT_SOCKET
        try:
            with Caller(socket, json=False).client() as client:
                known = client.list()
        except (LeafError, OSError):
            return []
        return [CompletionItem(found.id) for found in known if found.id.startswith(incomplete)]


class _Argument(TypedDict, total=False):
    type: click.types.StringParamType
    metavar: str
    nargs: int
    required: bool


ONE: _Argument = {"type": ContainerId(), "metavar": "ID"}
MANY: _Argument = {"type": ContainerId(), "metavar": "ID...", "nargs": -1, "required": True}
ANY: _Argument = {"type": ContainerId(), "metavar": "[ID...]", "nargs": -1}
