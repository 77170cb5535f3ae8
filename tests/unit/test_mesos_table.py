"""docs/mesos.md and docs/mesos-tests.md name tests of ours; each of them exists, and no row is empty."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("mesos.md", "mesos-tests.md")


def named(page: str) -> list[str]:
    """The tests that a page names, as `directory/file.py::test`."""
    return re.findall(r"`([\w/]+\.py::\w+)`", (ROOT / "docs" / page).read_text(encoding="utf-8"))


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_is_named_exists(page: str) -> None:
    missing = []
    for name in named(page):
        file, _, function = name.partition("::")
        path = ROOT / "tests" / file
        if not path.is_file() or function not in functions_of(path):
            missing.append(name)
    assert missing == []


def test_every_row_has_a_test_or_says_why_not() -> None:
    rows = [line for line in (ROOT / "docs" / "mesos-tests.md").read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    table = [cell for cell in cells if cell[0] not in ("Mesos", "---")]
    assert len(table) > 80
    assert [cell for cell in table if len(cell) != 2 or not all(cell)] == []


def test_the_fifteen_are_all_there() -> None:
    """Found wanting in Mesos: one row each, in order, each with a test."""
    text = (ROOT / "docs" / "mesos.md").read_text(encoding="utf-8").partition("## Found wanting")[2]
    rows = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, 16))
