"""Many containers that run out of memory at the same time: none is missed, none is misreported. `make oom` is large."""

from pathlib import Path

import pytest

from tests.bench import oom
from tests.harness.leafd import Leafd


@pytest.mark.vm
def test_every_oom_is_told_with_whose_limit_it_was(tmp_path: Path) -> None:
    leafd = Leafd(tmp_path)
    try:
        leafd.start(*leafd.patient())
        report = oom.run(leafd, containers=18, rounds=1)
    finally:
        leafd.close()
    assert report.misses == []
    assert report.scopes == {"own": 12, "ancestor": 6}
