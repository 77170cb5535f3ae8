"""The recovery decision: its truth table."""

import itertools

import pytest

from leafd.recovery import Action, Facts, Shim, decide
from leafshim.state import DESTROYING, ISOLATING, PREPARING, PROVISIONING, RUNNING, STOPPED

STATES = (None, PROVISIONING, PREPARING, ISOLATING, RUNNING, DESTROYING, STOPPED)
ANSWERS, SILENT, GONE = Shim.ANSWERS, Shim.SILENT, Shim.GONE

TABLE = [
    # A shim answers: its word counts.
    (Facts(PREPARING, ANSWERS, init=PREPARING, start=True), Action.UNDO_LAUNCH),
    (Facts(PREPARING, ANSWERS, init=PREPARING), Action.UNDO_LAUNCH),
    (Facts(ISOLATING, ANSWERS, init=PREPARING), Action.UNDO_LAUNCH),
    (Facts(ISOLATING, ANSWERS, init=ISOLATING, start=True), Action.UNDO_LAUNCH),
    (Facts(ISOLATING, ANSWERS, init=ISOLATING), Action.RECONNECT),
    (Facts(PREPARING, ANSWERS, init=ISOLATING), Action.RECONNECT),
    (Facts(PREPARING, ANSWERS, init=RUNNING), Action.RECONNECT),
    (Facts(RUNNING, ANSWERS, init=ISOLATING, start=True), Action.RECONNECT),
    (Facts(RUNNING, ANSWERS, init=RUNNING, start=True), Action.RECONNECT),
    (Facts(RUNNING, ANSWERS, init=DESTROYING), Action.RECONNECT),
    (Facts(RUNNING, ANSWERS, init=STOPPED), Action.RECONNECT),
    (Facts(DESTROYING, ANSWERS, init=RUNNING), Action.FINISH_DESTROY),
    (Facts(DESTROYING, ANSWERS, init=STOPPED), Action.FINISH_DESTROY),
    (Facts(STOPPED, ANSWERS, init=STOPPED), Action.FINISH_DESTROY),
    # Its shim is gone: kernel and disk are asked.
    (Facts(PROVISIONING, GONE), Action.UNDO_LAUNCH),
    (Facts(PREPARING, GONE), Action.UNDO_LAUNCH),
    (Facts(PREPARING, GONE, cgroup=True, populated=True), Action.UNDO_LAUNCH),
    (Facts(ISOLATING, GONE, start=True, cgroup=True, populated=True), Action.UNDO_LAUNCH),
    (Facts(ISOLATING, GONE, cgroup=True, populated=True), Action.RECORD_EXIT),
    (Facts(ISOLATING, GONE, start=True, exit=True), Action.RECORD_EXIT),
    (Facts(RUNNING, GONE, cgroup=True, populated=True), Action.ADOPT),
    (Facts(RUNNING, GONE, cgroup=True, populated=True, exit=True), Action.RECORD_EXIT),
    (Facts(RUNNING, GONE, cgroup=True), Action.RECORD_EXIT),
    (Facts(RUNNING, GONE), Action.RECORD_EXIT),
    (Facts(RUNNING, GONE, exit=True), Action.RECORD_EXIT),
    (Facts(DESTROYING, GONE, cgroup=True, populated=True), Action.FINISH_DESTROY),
    (Facts(DESTROYING, GONE, exit=True), Action.FINISH_DESTROY),
    (Facts(STOPPED, GONE, exit=True), Action.LEAVE_ALONE),
    (Facts(STOPPED, GONE, cgroup=True), Action.FINISH_DESTROY),
    # Nobody's.
    (Facts(None, GONE, cgroup=True), Action.KILL_ORPHAN),
    (Facts(None, GONE, cgroup=True, populated=True), Action.KILL_ORPHAN),
    # Another boot: whatever it was, it is over, and nothing of the record is signalled.
    (Facts(PREPARING, GONE, same_boot=False), Action.RECORD_EXIT),
    (Facts(RUNNING, GONE, same_boot=False, exit=True), Action.RECORD_EXIT),
    (Facts(RUNNING, GONE, same_boot=False, cgroup=True, populated=True), Action.RECORD_EXIT),
    (Facts(DESTROYING, GONE, same_boot=False), Action.RECORD_EXIT),
    (Facts(STOPPED, GONE, same_boot=False), Action.LEAVE_ALONE),
]


@pytest.mark.parametrize(("facts", "action"), TABLE)
def test_the_truth_table(facts: Facts, action: Action) -> None:
    assert decide(facts) is action


def _all_facts() -> list[Facts]:
    switches = itertools.product([True, False], repeat=5)
    combined = itertools.product(STATES, Shim, ["", PREPARING, ISOLATING, RUNNING, STOPPED], switches)
    return [Facts(state, shim, init, *flags) for state, shim, init, flags in combined]


def test_silence_is_never_acted_upon() -> None:
    for facts in _all_facts():
        if facts.shim is SILENT and facts.same_boot:
            assert decide(facts) is Action.WAIT


def test_there_is_a_decision_for_everything() -> None:
    assert {decide(facts) for facts in _all_facts()} == set(Action)


def test_what_runs_under_an_answering_shim_is_never_taken_back() -> None:
    for facts in _all_facts():
        if (
            facts.shim is ANSWERS
            and facts.same_boot
            and facts.init == RUNNING
            and facts.state not in (DESTROYING, STOPPED)
        ):
            assert decide(facts) is Action.RECONNECT


def test_only_what_has_no_record_is_an_orphan() -> None:
    for facts in _all_facts():
        if decide(facts) is Action.KILL_ORPHAN:
            assert facts.state is None
