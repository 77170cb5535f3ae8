"""What a reader of pytest's output learns about tests that ran in a guest: each test here runs a pytest of its own."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm.image import REPOSITORY
from tests.vm.plugin import CONTROLLERS, host_offers


def run_pytest(directory: Path, tests: str, *, conftest: str = "", options: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run pytest with the plugin on one file of tests; return its exit status and what it printed."""
    (directory / "pytest.ini").write_text(f"[pytest]\npythonpath = {REPOSITORY}\n")
    (directory / "conftest.py").write_text(f'pytest_plugins = ["tests.vm.plugin"]\n{conftest}\n')
    (directory / "test_it.py").write_text(f"import os, platform, pytest\n{tests}")
    command = [sys.executable, "-m", "pytest", "--vm=always", "-p", "no:cacheprovider", "-v", *options]
    done = subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


OUTCOMES = f"""
@pytest.mark.vm
def test_passes():
    assert platform.release() != {platform.release()!r}

@pytest.fixture
def broken():
    yield
    raise OSError("the fixture's end")

@pytest.mark.vm
def test_fails():
    print("said before")
    assert 6 * 7 == 54

@pytest.mark.vm
def test_with_a_broken_fixture(broken):
    pass

def test_native():
    assert platform.release() == {platform.release()!r}
"""


def test_outcomes_from_the_guest_count_as_if_they_were_from_here(tmp_path: Path) -> None:
    status, output = run_pytest(tmp_path, OUTCOMES)
    order = [line.split("[")[0].split() for line in output.splitlines() if line.startswith("test_it.py::")]
    assert order == [
        ["test_it.py::test_native", "PASSED"],
        ["test_it.py::test_passes", "PASSED"],
        ["test_it.py::test_fails", "FAILED"],
        ["test_it.py::test_with_a_broken_fixture", "PASSED"],
        ["test_it.py::test_with_a_broken_fixture", "ERROR"],
    ]
    assert "assert (6 * 7) == 54" in output
    assert "said before" in output
    assert "OSError: the fixture's end" in output
    assert "= 1 failed, 3 passed, 1 error in " in output
    assert status == pytest.ExitCode.TESTS_FAILED


DEATH = """
@pytest.mark.vm
def test_before():
    pass

@pytest.mark.vm
def test_fatal():
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("c")

@pytest.mark.vm
def test_after():
    pass
"""


def test_a_machine_that_dies_fails_the_tests_that_it_owes(tmp_path: Path) -> None:
    status, output = run_pytest(tmp_path, DEATH)
    assert "test_it.py::test_before PASSED" in output
    assert "test_it.py::test_fatal FAILED" in output
    assert "test_it.py::test_after FAILED" in output
    assert "the virtual machine died before its work was done" in output
    assert "Kernel panic - not syncing: sysrq triggered crash" in output
    assert "= 2 failed, 1 passed in " in output
    assert status == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(
    ("conftest", "reason"),
    [
        pytest.param(
            "from tests.vm import machine; machine.KERNEL_ARGUMENTS += ' rdinit=/nowhere root=/dev/nothing'",
            "Kernel panic - not syncing: VFS: Unable to mount root fs",
            id="no first process",
        ),
        pytest.param(
            "from tests.vm import session; session.PATIENCE_S = 1",
            "the virtual machine told nothing for 1 s",
            id="silence",
        ),
        pytest.param(
            "from tests.vm import image; image.PACKAGES = ('no-such-package',)",
            "apt-get could not install: no-such-package",
            id="not to be built",
        ),
        pytest.param(
            "import os; assert 'LEAFD_VM_PORT' not in os.environ, 'broken only in the guest'",
            "broken only in the guest",
            id="no pytest there",
        ),
    ],
)
def test_a_machine_that_never_gets_to_its_tests_fails_them(tmp_path: Path, conftest: str, reason: str) -> None:
    status, output = run_pytest(tmp_path, "@pytest.mark.vm\ndef test_it(): pass\n", conftest=conftest)
    assert reason in output
    assert "= 1 failed in " in output
    assert status == pytest.ExitCode.TESTS_FAILED


def test_a_marker_that_nobody_can_read_is_refused(tmp_path: Path) -> None:
    status, output = run_pytest(tmp_path, "@pytest.mark.vm(kernel='hurd')\ndef test_it(): pass\n")
    assert "test_it.py::test_it: write @pytest.mark.vm or @pytest.mark.vm(systemd=True)" in output
    assert status == pytest.ExitCode.USAGE_ERROR


def test_never_runs_everything_here(tmp_path: Path) -> None:
    tests = f"@pytest.mark.vm\ndef test_it(): assert platform.release() == {platform.release()!r}\n"
    assert run_pytest(tmp_path, tests, options=("--vm=never",))[0] == pytest.ExitCode.OK


def test_a_command_by_hand_keeps_its_output_and_exit_status() -> None:
    script = REPOSITORY / "tests" / "vm" / "run.py"
    command = [sys.executable, str(script), "--", "sh", "-c", "cat /sys/fs/cgroup/cgroup.controllers; exit 7"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert set(done.stdout.split()) >= CONTROLLERS
    assert done.returncode == 7


@pytest.mark.parametrize("missing", [None, "controllers", "pressure", "systemd"])
def test_a_host_stands_in_for_a_guest_only_with_everything(tmp_path: Path, missing: str | None) -> None:
    files = {
        "controllers": ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids"),
        "pressure": ("proc/pressure/memory", ""),
        "systemd": ("run/systemd/system/unit", ""),
    }
    for name, (path, text) in files.items():
        if name != missing:
            (tmp_path / path).parent.mkdir(parents=True)
            (tmp_path / path).write_text(text)
    assert host_offers("plain", tmp_path) == (missing in {None, "systemd"})
    assert host_offers("systemd", tmp_path) == (missing is None)
