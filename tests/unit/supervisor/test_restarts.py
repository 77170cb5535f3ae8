"""The restart policy: its truth table and its delays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leafd.restarts import ALWAYS, NO, ON_FAILURE, BackOff, Restart, check_policy, decide
from leafshim.errors import InputError

BACK_OFF = BackOff(first=0.5, maximum=60.0, reset=10.0)


@pytest.mark.parametrize(
    ("policy", "status", "restarts"),
    [
        (NO, 0, False),
        (NO, 1, False),
        (NO, None, False),
        (ON_FAILURE, 0, False),
        (ON_FAILURE, 1, True),
        (ON_FAILURE, 137, True),
        (ON_FAILURE, None, True),
        (ALWAYS, 0, True),
        (ALWAYS, 1, True),
        (ALWAYS, None, True),
    ],
)
def test_policy(policy: str, status: int | None, restarts: bool) -> None:
    decision = decide(policy, status=status, stopped=False, row=0, ran_for=1, back_off=BACK_OFF)
    assert (decision is not None) is restarts
    assert decide(policy, status=status, stopped=True, row=0, ran_for=1, back_off=BACK_OFF) is None


def test_delays_double_up_to_the_maximum() -> None:
    row, delays = 0, []
    for _ in range(9):
        decision = decide(ALWAYS, status=1, stopped=False, row=row, ran_for=0, back_off=BACK_OFF)
        assert decision is not None
        delays.append(decision.delay)
        row = decision.row
    assert delays == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


def test_a_long_run_ends_the_row() -> None:
    assert decide(ALWAYS, status=1, stopped=False, row=7, ran_for=10, back_off=BACK_OFF) == Restart(0.5, 1)


@given(st.integers(0, 10**9))
def test_no_row_is_too_long(row: int) -> None:
    decision = decide(ALWAYS, status=1, stopped=False, row=row, ran_for=0, back_off=BACK_OFF)
    assert decision is not None
    assert 0 < decision.delay <= BACK_OFF.maximum


def test_policy_names() -> None:
    assert check_policy("") == NO
    assert check_policy("on-failure") == ON_FAILURE
    with pytest.raises(InputError, match="restart: 'sometimes' is none of no, on-failure, always"):
        check_policy("sometimes")
