"""A real leafd, and a terminal, for each test that asks for one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.leafd import Leafd, Terminal


@pytest.fixture
def terminal() -> Iterator[Callable[[list[str]], Terminal]]:
    """Runs a command at a terminal of its own."""
    opened: list[Terminal] = []

    def run(command: list[str]) -> Terminal:
        opened.append(Terminal(command))
        return opened[-1]

    yield run
    for one in opened:
        one.close()


@pytest.fixture
def leafd(tmp_path: Path) -> Iterator[Leafd]:
    """A running leafd."""
    installation = Leafd(tmp_path)
    try:
        installation.start()
        yield installation
    finally:
        installation.close()


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Leafd]:
    """A leafd for a machine that is ten times slower, as a guest is."""
    installation = Leafd(tmp_path)
    try:
        installation.start(*installation.patient())
        yield installation
    finally:
        installation.close()
