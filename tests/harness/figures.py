"""docs/stats.md read as data: which figures there are, and which of them need more than their controller."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "stats.md"


def documented() -> dict[str, str]:
    """figure, by its path in the JSON with names in capitals → what it needs, "" for nothing."""
    figures = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 4 or not cells[0].startswith("`"):
            continue
        prefix = ""
        for name in re.findall(r"`([^`]+)`", cells[0]):
            if name.endswith("."):
                prefix = name
                continue
            assert prefix + name not in figures, f"documented twice: {prefix}{name}"
            figures[prefix + name] = cells[3]
    return figures


def unexplained(document: Mapping[str, object], figures: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """(documented and not in the JSON, in the JSON and not documented)."""
    shown = set(_paths(document, ""))
    patterns = {figure: re.compile(re.sub(r"[A-Z]+", ".+", re.escape(figure))) for figure in figures}
    missing = [figure for figure, pattern in patterns.items() if not any(map(pattern.fullmatch, shown))]
    foreign = [path for path in shown if not any(pattern.fullmatch(path) for pattern in patterns.values())]
    return missing, sorted(foreign)


def _paths(value: object, path: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _paths(inner, f"{path}.{key}" if path else key)
    else:
        yield path
