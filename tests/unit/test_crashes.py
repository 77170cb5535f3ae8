"""The crash points that are declared are those that the code has, and no step of a launch is without."""

import ast
from collections import Counter
from pathlib import Path

import pytest

import leafd
import leafshim
from leafd.launch import STEPS
from leafshim import crashes
from leafshim.crashes import LEAFD, POINTS

SOURCES = [path for package in (leafd, leafshim) for path in Path(str(package.__file__)).parent.rglob("*.py")]


def names(argument: ast.expr) -> list[str]:
    """The points that a call names: one, or with the state of a step in braces one for each."""
    if isinstance(argument, ast.JoinedStr):
        prefix, step = argument.values
        assert isinstance(prefix, ast.Constant)
        assert isinstance(step, ast.FormattedValue)
        assert ast.unparse(step.value) == "step.state"
        return [f"{prefix.value!s}{step.state}" for step in STEPS]
    assert isinstance(argument, ast.Constant), ast.unparse(argument)
    return [str(argument.value)]


def passed() -> Counter[str]:
    """How often each point is in the code."""
    found = Counter[str]()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "crash":
                found.update(names(node.args[0]))
    return found


def test_each_declared_point_is_at_one_place_in_the_code_and_no_other_is() -> None:
    assert passed() == Counter(list(POINTS))


def test_every_step_of_a_launch_has_a_point_before_it_after_it_and_in_its_undo() -> None:
    wanted = {f"{when}-{step.state}" for step in STEPS for when in ("launch", "launched", "undo")}
    assert wanted <= {point for point, process in POINTS.items() if process == LEAFD}


def test_without_the_variable_nothing_is_even_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("builtins.open", looked)
    for point in POINTS:
        crashes.crash(point)
