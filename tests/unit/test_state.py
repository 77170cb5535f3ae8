"""The launch states: the table says all."""

import itertools

import pytest

from leafshim import state
from leafshim.errors import StateError

ALL = (state.PROVISIONING, state.PREPARING, state.ISOLATING, state.RUNNING, state.DESTROYING, state.STOPPED)

LEGAL = {
    ("PROVISIONING", "PREPARING"),
    ("PROVISIONING", "DESTROYING"),
    ("PREPARING", "ISOLATING"),
    ("PREPARING", "DESTROYING"),
    ("ISOLATING", "RUNNING"),
    ("ISOLATING", "DESTROYING"),
    ("RUNNING", "DESTROYING"),
    ("DESTROYING", "STOPPED"),
    ("STOPPED", "PREPARING"),
}


@pytest.mark.parametrize(("present", "wanted"), list(itertools.product(ALL, ALL)))
def test_only_the_moves_of_the_table_exist(present: str, wanted: str) -> None:
    if (present, wanted) in LEGAL:
        assert state.move(present, wanted) == wanted
    else:
        with pytest.raises(StateError, match=present):
            state.move(present, wanted)
