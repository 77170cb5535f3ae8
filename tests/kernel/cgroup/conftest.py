"""Kernels of before and after."""

import pytest

from leafshim.cgroup import hierarchy


@pytest.fixture(params=["cgroup.kill", "before 5.14"])
def old_and_new_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs twice: with cgroup.kill, and where the kernel says that there is no such file (ENOENT)."""
    if request.param != hierarchy.KILL:
        monkeypatch.setattr(hierarchy, "KILL", "cgroup.kill-of-later")
