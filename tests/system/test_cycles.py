"""A short run of `make cycles` from fixed seeds: no exit status is lost or wrong under kills, and nothing is left."""

from pathlib import Path

import pytest

from tests.harness.leafd import Leafd
from tests.system.cycles import Cycles

COUNT = 60


@pytest.mark.parametrize("seed", [1, 2])
def test_no_exit_status_is_lost_or_wrong(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    leafd = Leafd(tmp_path)
    try:
        cycles = Cycles(leafd, seed)
        cycles.run(COUNT)
        print(dict(cycles.figures))
        assert cycles.wrong == []
        assert cycles.figures["cycles"] == COUNT
        assert cycles.figures["true"] + cycles.figures["lost, all holders killed"] == COUNT
        assert cycles.figures["kills of leafd"] > 0
    finally:
        leafd.close()
