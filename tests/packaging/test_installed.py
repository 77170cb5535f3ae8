"""The Debian package on a host with systemd: whatever is done to the service, containers keep their processes."""

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm.session import PORT

PATIENCE = 250.0  # s; the guest is slow
DELEGATED = Path("/sys/fs/cgroup/system.slice/leafd-containers.service")
CONTAINERS = DELEGATED / "leafd"


def do(*command: str | Path) -> str:
    """Run a command that has to succeed; what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
    journal = ["journalctl", "--no-pager", "--lines=40", "--unit=leafd.service"]
    if done.returncode:
        log = subprocess.run(journal, capture_output=True, text=True, timeout=PATIENCE).stdout
        raise AssertionError(f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}\n{log}")
    return done.stdout


def show(unit: str, key: str) -> str:
    return do("systemctl", "show", "--value", f"--property={key}", unit).strip()


def gone(pid: int) -> None:
    """Return when the process has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], PATIENCE)[0], f"{pid} lives on"
    finally:
        os.close(pidfd)


class Host:
    """The host with the package installed, and one container with a limit."""

    def __init__(self, package: Path) -> None:
        self.package = package
        do("dpkg", "--install", package)
        do("leafctl", "run", "-d", "--name", "web", "--memory", "64M", "--", "sleep", "100000")
        self.before = self.facts()

    def facts(self) -> tuple[object, ...]:
        """What has to stay as it is: state, init, shim, and the limit in the kernel's file."""
        shown = json.loads(do("leafctl", "--json", "inspect", "web"))
        limit = (CONTAINERS / "web" / "memory.max").read_text().strip()
        return shown["state"], shown["pid"], shown["shim_pid"], limit

    @property
    def init(self) -> int:
        """The container's first process."""
        pid = self.before[1]
        assert isinstance(pid, int)
        return pid


@pytest.fixture(scope="module")
def host(packages: Path) -> Iterator[Host]:
    assert not os.path.lexists("/etc/leafd"), "this host has a leafd of its own, which purging would remove"
    if PORT in os.environ:  # the guest's own copy of a host that may forbid services to start, and slow triggers
        for path in ("/usr/sbin/policy-rc.d", "/var/lib/man-db/auto-update"):
            Path(path).unlink(missing_ok=True)
        drop_in = Path("/etc/leafd/leafd.toml.d/00-slow.toml")
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text("call_deadline = 100.0\nlaunch_deadline = 200.0\nrecovery_budget = 50.0\n")
    (package,) = packages.glob("*.deb")
    yield Host(package)
    subprocess.run(["dpkg", "--purge", "leafd"], capture_output=True, timeout=PATIENCE)


@pytest.mark.vm(systemd=True)
def test_installed_it_runs_and_its_containers_are_in_a_cgroup_of_their_own(host: Host) -> None:
    assert show("leafd.service", "ActiveState") == show("leafd.socket", "ActiveState") == "active"
    assert show("leafd.service", "StartLimitIntervalUSec") == "0"
    assert host.before[0] == "RUNNING"
    assert host.before[3] == str(64 << 20)
    assert f"0::/{CONTAINERS.relative_to('/sys/fs/cgroup')}/web/leaf\n" in Path(f"/proc/{host.init}/cgroup").read_text()
    inside = Path(f"/sys/fs/cgroup{show('leafd.service', 'ControlGroup')}")
    assert (inside / "cgroup.procs").read_text().split() == [show("leafd.service", "MainPID")]
    assert [path for path in inside.iterdir() if path.is_dir()] == []
    assert oct(Path("/run/leafd/leafd.sock").stat().st_mode & 0o777) == "0o600"


def kill_outright(host: Host) -> None:
    pid = int(show("leafd.service", "MainPID"))
    os.kill(pid, signal.SIGKILL)
    gone(pid)


def stop_and_start(host: Host) -> None:
    do("systemctl", "stop", "leafd.service")
    do("systemctl", "start", "leafd.service")


def remove_and_install(host: Host) -> None:
    do("dpkg", "--remove", "leafd")
    do("dpkg", "--install", host.package)


@pytest.mark.vm(systemd=True)
@pytest.mark.parametrize("act", [
    lambda host: do("systemctl", "restart", "leafd.service"),
    kill_outright,
    stop_and_start,
    lambda host: do("systemctl", "reload", "leafd.service"),
    lambda host: do("systemctl", "daemon-reload"),
    lambda host: do("systemctl", "daemon-reexec"),
    lambda host: do("systemctl", "set-property", "leafd.service", "CPUWeight=50"),
    lambda host: do("dpkg", "--install", host.package),
    remove_and_install,
], ids=["restart", "kill-9", "stop-start", "reload", "daemon-reload", "daemon-reexec", "set-property", "upgrade",
        "remove-install"])  # fmt: skip
def test_the_container_has_the_same_processes_and_limits_after(host: Host, act: Callable[[Host], object]) -> None:
    act(host)
    assert host.facts() == host.before  # asked through the socket: waits for the leafd that comes
    assert show("leafd.service", "ActiveState") == "active"


@pytest.mark.vm(systemd=True)
def test_a_wrong_setting_refuses_the_reload_and_nothing_else(host: Host) -> None:
    pid = show("leafd.service", "MainPID")
    bad = Path("/etc/leafd/leafd.toml.d/10-bad.toml")
    bad.write_text("verbose = 1\n")
    try:
        done = subprocess.run(["systemctl", "reload", "leafd"], capture_output=True, timeout=PATIENCE)
        check = ["leafd", "--config", "/etc/leafd/leafd.toml", "--check-config"]
        checked = subprocess.run(check, capture_output=True, text=True, timeout=PATIENCE)
    finally:
        bad.unlink()
    assert done.returncode == 1
    assert (checked.returncode, checked.stderr) == (1, f"leafd: {bad}: verbose: must be of type bool\n")
    assert show("leafd.service", "MainPID") == pid
    assert host.facts() == host.before


@pytest.mark.vm(systemd=True)
def test_purged_nothing_is_left(host: Host) -> None:
    do("dpkg", "--purge", "leafd")
    gone(host.init)
    left = ["/etc/leafd", "/run/leafd", "/var/lib/leafd", "/usr/lib/leafd", "/usr/bin/leafd"]
    assert [path for path in left if os.path.lexists(path)] == []
    assert show("leafd-containers.service", "ActiveState") == "inactive"
    assert not DELEGATED.exists()
