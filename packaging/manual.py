"""Writes what is made from the program itself: man pages, the packaged leafd.toml, the completion for bash.

Usage: manual.py DIRECTORY VERSION SECONDS (of the release, since 1970)

The source of a command's page is its `--help`, that of a setting the text below its field in leafd/config.py. So
nothing can be in the program and not in the manual; tests/packaging checks it all the same.
"""

import argparse
import ast
import inspect
import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import click

from leafd import config
from leafd.cli.command import SECTIONS, leafctl
from leafd.config import Config


class Setting(NamedTuple):
    """A key of leafd.toml. `default`: as TOML."""

    key: str
    default: str
    text: str


def settings() -> Iterator[Setting]:
    """All, in the order of the source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(Config))).body
    assert isinstance(tree, ast.ClassDef)
    defaults = {field.name: field.default for field in fields(Config)}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert isinstance(text, ast.Expr), f"{field.target.id} is not documented"
            assert isinstance(text.value, ast.Constant)
            default = json.dumps(defaults[field.target.id])  # also TOML, for these types
            yield Setting(field.target.id, default, " ".join(str(text.value.value).split()).replace("`", ""))


def toml() -> str:
    """The file that the package installs: every key, commented out, but the one that differs from its default."""
    lines = [
        "# Settings of leafd: leafd.toml(5). What is commented out is the default. Files in leafd.toml.d/*.toml are",
        "# read after this one. Check with `leafd --config /etc/leafd/leafd.toml --check-config`, then restart leafd:",
        "# containers do not notice. `verbose` alone is also read by `systemctl reload leafd`.",
        "",
    ]
    for setting in settings():
        lines += textwrap.wrap(setting.text, 100, initial_indent="# ", subsequent_indent="# ")
        if setting.key == "cgroups_root":
            lines += ["# Here: below the cgroup that systemd delegates, see leafd-containers.service."]
            lines += ['cgroups_root = "system.slice/leafd-containers.service/leafd"', ""]
        else:
            lines += [f"#{setting.key} = {setting.default}", ""]
    return "\n".join(lines)


def roff(text: str) -> str:
    """Text as it is, for groff_man(7)."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.splitlines())


class Page:
    """A man page in the making."""

    def __init__(self, name: str, section: int, summary: str, version: str, day: str) -> None:
        self.lines = [
            f'.TH {name.upper()} {section} "{day}" "leafd {version}"',
            ".SH NAME",
            roff(f"{name} - {summary}"),
        ]

    def heading(self, text: str, level: str = "SH") -> None:
        """A section, or with SS one below it."""
        self.lines.append(f'.{level} "{roff(text)}"')

    def text(self, text: str) -> None:
        """Paragraphs."""
        self.lines += [".PP", roff(text)]

    def verbatim(self, text: str) -> None:
        """Lines as they are."""
        self.lines += [".PP", ".nf", ".RS 4", roff(textwrap.dedent(text).strip("\n")), ".RE", ".fi"]

    def item(self, term: str, text: str) -> None:
        """A term and what it means."""
        self.lines += [".TP", f"\\fB{roff(term)}\\fR", roff(text)]

    def see_also(self, text: str) -> None:
        """The last section."""
        self.heading("SEE ALSO")
        self.lines.append(roff(text))

    def write(self, path: Path) -> None:
        """As a file."""
        path.write_text("\n".join(self.lines) + "\n", encoding="utf-8")


def leafd_page(page: Page) -> None:
    """leafd.8"""
    parser = config.parser()
    page.heading("SYNOPSIS")
    page.text(" ".join(parser.format_usage().removeprefix("usage: ").split()))
    page.heading("DESCRIPTION")
    page.text(
        f"{parser.description} It may be stopped, killed and restarted at any time: containers run on, and the next "
        "leafd finds them again. A flag wins over leafd.toml(5), that over the default."
    )
    page.heading("OPTIONS")
    for action in parser._actions:
        metavar = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else "")
        page.item(", ".join(action.option_strings) + (f" {metavar}" if metavar else ""), _sentence(action))
    page.heading("SIGNALS")
    page.item("SIGTERM, SIGINT", "End leafd and nothing else.")
    page.item("SIGHUP", "Read the configuration again; the log level changes.")
    page.heading("FILES")
    page.item("/etc/leafd/leafd.toml, /etc/leafd/leafd.toml.d/*.toml", "Settings, as packaged.")
    page.item(Config.root, "What dies with the boot: sockets and containers.")
    page.item(Config.state, "What outlives it: exit records and events.")
    page.see_also("leafctl(1), leafd.toml(5)")


def _sentence(action: argparse.Action) -> str:
    text = str(action.help)
    return f"{text[0].upper()}{text[1:]}."


def leafctl_page(page: Page) -> None:
    """leafctl.1"""
    context = click.Context(leafctl, info_name="leafctl", help_option_names=["-h", "--help"])
    page.heading("SYNOPSIS")
    page.verbatim("leafctl [--socket PATH] [--json] COMMAND [ARGUMENTS]")
    page.heading("DESCRIPTION")
    page.text("Every failure is one line on standard error. The exit status is 0, 1 for a failure, 2 for wrong usage.")
    page.heading("OPTIONS")
    _options(page, leafctl, context)
    for section, commands in SECTIONS.items():
        page.heading(f"COMMANDS: {section.upper()}")
        for name in commands:
            command = leafctl.get_command(context, name)
            assert command is not None
            inner = click.Context(command, info_name=name, parent=context)
            page.heading(name, "SS")
            page.verbatim(command.get_usage(inner).removeprefix("Usage: "))
            for paragraph in inspect.cleandoc(command.help or "").replace("\f", "").split("\n\n"):
                if paragraph.startswith("\b\n"):
                    page.verbatim(paragraph.removeprefix("\b\n"))
                else:
                    page.text(paragraph)
            _options(page, command, inner)
    page.heading("ENVIRONMENT")
    page.item("LEAFD_SOCKET", "Where leafd listens, without --socket.")
    page.see_also("leafd(8), leafd.toml(5)")


def _options(page: Page, command: click.Command, context: click.Context) -> None:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            page.item(*record)


def toml_page(page: Page) -> None:
    """leafd.toml.5"""
    page.heading("DESCRIPTION")
    page.text(
        "TOML, one key for each setting. leafd reads the file that --config names, then, by name, the files in the "
        "directory of that name with .d behind it that end in .toml; a later one wins, and a flag wins over all. An "
        "unknown key, or a value that cannot be, is refused: leafd --check-config names file and key. "
        "Times are in seconds, sizes in bytes."
    )
    page.heading("KEYS")
    for setting in settings():
        page.item(f"{setting.key} = {setting.default}", setting.text)
    page.see_also("leafd(8), leafctl(1)")


def main() -> None:
    """All of it."""
    directory, version, seconds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    day = time.strftime("%Y-%m-%d", time.gmtime(seconds))
    for name, section, summary, fill in (
        ("leafctl", 1, "run containers that outlive their supervisor", leafctl_page),
        ("leafd.toml", 5, "settings of the container supervisor", toml_page),
        ("leafd", 8, "container supervisor", leafd_page),
    ):
        page = Page(name, section, summary, version, day)
        fill(page)
        page.write(directory / f"{name}.{section}")
    (directory / "leafd.toml").write_text(toml(), encoding="utf-8")
    script = [sys.executable, "-c", "from leafd.cli import main; main()", "completion", "bash"]
    (directory / "leafctl.bash").write_bytes(subprocess.run(script, check=True, capture_output=True).stdout)


if __name__ == "__main__":
    main()
