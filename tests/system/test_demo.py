"""`make demo` works here, and a claim that does not hold is told and ends it."""

import subprocess
import sys

import pytest

from tests.system.demo import BrokenClaim, Transcript


def test_the_demonstration() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.system.demo"], capture_output=True, encoding="utf-8", timeout=300
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "NOT TRUE" not in result.stdout
    assert "the count is unbroken" in result.stdout
    assert result.stdout.endswith("Every claim above was checked, and holds.\n")


def test_a_broken_claim_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    transcript = Transcript({})
    transcript.claim("one is one", True)
    with pytest.raises(BrokenClaim, match="one is two"):
        transcript.claim("one is two", False)
    assert capsys.readouterr().out == "  ✓ one is one\n  ✗ NOT TRUE: one is two\n"
