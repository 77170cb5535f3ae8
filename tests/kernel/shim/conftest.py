"""A real shim for each test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.puppet import Puppet
from tests.harness.shim import Shim


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Shim]:
    """A shim that waits for the creation of its container, `web`."""
    shim = Shim(tmp_path)
    yield shim
    shim.close()


@pytest.fixture
def puppet(web: Shim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Puppet]:
    one = Puppet(web, tmp_path_factory.mktemp("puppet"))
    yield one
    one.close()
