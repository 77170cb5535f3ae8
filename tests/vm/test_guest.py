"""What the guests offer that the host's kernel does not, and that the tests marked `vm` rely on."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup with every controller that the guest has, removed afterwards."""
    controllers = (CGROUPS / "cgroup.controllers").read_text().split()
    (CGROUPS / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
    path = CGROUPS / f"leafd-test-guest-{os.getpid()}"
    path.mkdir()
    yield path
    path.rmdir()


@pytest.mark.vm
def test_every_controller_is_there() -> None:
    controllers = set((CGROUPS / "cgroup.controllers").read_text().split())
    assert controllers >= {"cpu", "io", "memory", "pids", "cpuset", "hugetlb"}


@pytest.mark.vm
@pytest.mark.parametrize("resource", ["cpu", "io", "memory"])
def test_pressure_is_measured_for_the_machine_and_for_each_cgroup(resource: str, cgroup: Path) -> None:
    assert Path("/proc/pressure", resource).read_text().startswith("some avg10=")
    assert (cgroup / f"{resource}.pressure").read_text().startswith("some avg10=")


@pytest.mark.vm
def test_memory_max_kills_what_exceeds_it(cgroup: Path) -> None:
    (cgroup / "memory.max").write_text(str(32 << 20))
    program = f"open('{cgroup}/cgroup.procs', 'w').write('0'); bytearray(b'x') * (256 << 20)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], check=False)
    events = dict(line.split() for line in (cgroup / "memory.events").read_text().splitlines())
    assert done.returncode == -signal.SIGKILL
    assert int(events["oom_kill"]) == 1


@pytest.mark.vm
def test_the_guest_cannot_touch_the_hosts_files() -> None:
    marker = Path(__file__).with_name("written-in-the-guest")
    marker.touch()
    assert "overlay / " in Path("/proc/mounts").read_text()
    marker.unlink()


@pytest.mark.vm(systemd=True)
def test_systemd_is_the_first_process_and_runs_a_unit() -> None:
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    unit = ["systemd-run", "--quiet", "--wait", "--pipe", "--property=Delegate=yes"]
    done = subprocess.run([*unit, "cat", "/proc/self/cgroup"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("0::/system.slice/run-")
