"""leafctl run, update and stats: limits from the flag to the kernel's file, and back."""

import json
import os
from pathlib import Path

import pytest

from leafd import limits
from leafshim.cgroup.hierarchy import Cgroup
from tests.harness.leafd import Leafd

MiB = 1 << 20


@pytest.fixture
def leafd(patient: Leafd) -> Leafd:
    """A running leafd, and a patient one."""
    return patient


def held(leafd: Leafd, container: str, *files: str) -> dict[str, str]:
    cgroup = Cgroup(str(leafd.inspect(container)["cgroup"]))
    return {file: cgroup.read(file).strip() for file in files}


def succeed(leafd: Leafd, *arguments: str) -> str:
    result = leafd.ctl(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_a_limit_goes_as_far_as_the_host_has_its_controller(leafd: Leafd) -> None:
    succeed(leafd, "run", "-d", "--name", "web", "--hugetlb", "2MB=6M", "--", "sleep", "1000")
    assert held(leafd, "web", "hugetlb.2MB.max", "hugetlb.2MB.rsvd.max") == {
        "hugetlb.2MB.max": str(6 * MiB),
        "hugetlb.2MB.rsvd.max": str(6 * MiB),
    }
    succeed(leafd, "update", "--hugetlb", "2MB=max", "web")
    assert held(leafd, "web", "hugetlb.2MB.max") == {"hugetlb.2MB.max": "max"}
    refused = leafd.ctl("update", "--hugetlb", "3MB=6M", "web")
    assert (refused.returncode, refused.stderr) == (
        1,
        "leafctl: update: hugetlb.3MB.rsvd.max: this kernel does not have it\n",
    )
    figures = json.loads(succeed(leafd, "--json", "stats", "web"))
    assert [each["id"] for each in figures] == ["web"]
    assert figures[0]["hugetlb"]["2MB"]["current"] == 0
    assert figures[0]["hugetlb"]["2MB"]["max"] is None
    assert succeed(leafd, "stats").splitlines()[1].split()[0] == "web"


def test_update_needs_something_to_change_and_somebody_to_change_it_for(leafd: Leafd) -> None:
    nothing = leafd.ctl("update", "web")
    assert (nothing.returncode, nothing.stderr) == (
        2,
        "leafctl: update: nothing to change: give a limit, as --memory 512M\n",
    )
    nobody = leafd.ctl("update", "--pids", "5", "web")
    assert nobody.returncode == 1
    assert nobody.stderr.startswith("leafctl: update: ")
    assert "web" in nobody.stderr


def restarted(leafd: Leafd, container: str) -> None:
    """End the container, and wait until its restart policy has started it again."""
    with leafd.client as client:
        *_, last = (event.sequence for event in client.events())
        client.kill(container)
        with client.events(last, follow=True, container_id=container) as events:
            next(event for event in events if event.type == "restarted")


def test_an_update_outlives_a_restart_and_leafd(leafd: Leafd, tmp_path: Path) -> None:
    succeed(leafd, "run", "-d", "--name", "web", "--restart", "always", "--hugetlb", "2MB=6M", "--", "sleep", "1000")
    leafd.kill()
    succeed(leafd, "update", "--hugetlb", "2MB=8M", "web")
    leafd.start(*leafd.patient())
    files = ("hugetlb.2MB.max", "hugetlb.2MB.rsvd.max")
    for restarts in (1, 2):
        restarted(leafd, "web")
        assert leafd.inspect("web")["restarts"] == restarts
        assert held(leafd, "web", *files) == dict.fromkeys(files, str(8 * MiB))
        assert leafd.inspect("web")["limits"] == dict.fromkeys(files, str(8 * MiB))
    succeed(leafd, "update", "--hugetlb", "2MB=max", "web")
    restarted(leafd, "web")
    assert leafd.inspect("web")["limits"] == {}


def test_limits_of_what_does_not_run_are_those_it_would_be_started_with(leafd: Leafd) -> None:
    succeed(leafd, "run", "-d", "--name", "web", "--hugetlb", "2MB=6M", "--", "sleep", "1000")
    succeed(leafd, "update", "--hugetlb", "2MB=8M", "web")
    succeed(leafd, "stop", "-t", "0", "web")
    assert leafd.inspect("web")["limits"] == {
        "hugetlb.2MB.max": str(8 * MiB),
        "hugetlb.2MB.rsvd.max": str(8 * MiB),
    }


@pytest.mark.vm
def test_an_update_of_every_limit_outlives_a_restart(leafd: Leafd) -> None:
    number = os.stat("/dev/loop0").st_rdev
    device = f"{os.major(number)}:{os.minor(number)}"
    succeed(leafd, "run", "-d", "--name", "web", "--restart", "always", "--memory", "128M", "--memory-high", "100M",
            "--cpus", "0.5", "--pids", "50", "--io-max", f"{device},rbps=2M", "--", "sleep", "1000")  # fmt: skip
    succeed(
        leafd, "update", "--memory", "256M", "--memory-low", "64M", "--memory-high", "max", "--memory-swap", "384M",
        "--cpus", "1.5", "--cpu-weight", "250", "--cpuset-cpus", "0", "--pids", "100",
        "--io-max", f"{device},wiops=50", "--io-weight", "300", "--hugetlb", "2MB=4M", "web",
    )  # fmt: skip
    promised = {
        "memory.max": str(256 * MiB),
        "memory.low": str(64 * MiB),
        "memory.high": "max",
        "memory.swap.max": str(128 * MiB),
        "cpu.max": "150000 100000",
        "cpu.weight": "250",
        "cpuset.cpus": "0",
        "pids.max": "100",
        "io.max": f"{device} rbps={2 * MiB} wbps=max riops=max wiops=50",
        "io.weight": "default 300",
        "hugetlb.2MB.max": str(4 * MiB),
    }
    assert held(leafd, "web", *promised) == promised
    restarted(leafd, "web")
    assert held(leafd, "web", *promised) == promised
    limits = leafd.inspect("web")["limits"]
    assert isinstance(limits, dict)
    assert limits == {file: limits.get(file) for file in promised.keys() - {"memory.high"} | {"hugetlb.2MB.rsvd.max"}}
    succeed(
        leafd, "update", "--memory", "max", "--memory-low", "0", "--memory-swap", "max", "--cpus", "max",
        "--cpu-weight", "100", "--cpuset-cpus", "default", "--pids", "max",
        "--io-max", f"{device},rbps=max,wiops=max", "--io-weight", "100", "--hugetlb", "2MB=max", "web",
    )  # fmt: skip
    restarted(leafd, "web")
    assert leafd.inspect("web")["limits"] == {}
    assert held(leafd, "web", "memory.max", "memory.high", "cpu.max", "pids.max") == {
        "memory.max": "max",
        "memory.high": "max",
        "cpu.max": "max 100000",
        "pids.max": "max",
    }


@pytest.mark.vm
def test_found_wanting_15_every_flag_is_in_its_file(leafd: Leafd, tmp_path: Path) -> None:
    """All limits that there are, exactly as docs/limits.md promises them; and all of them off again."""
    number = os.stat("/dev/loop0").st_rdev
    device = f"{os.major(number)}:{os.minor(number)}"
    flags = [
        "--memory", "256M", "--memory-low", "64M", "--memory-high", "200M", "--memory-swap", "384M",
        "--cpus", "1.5", "--cpu-weight", "250", "--cpuset-cpus", "0,1", "--cpuset-mems", "0", "--pids", "100",
        "--io-max", "/dev/loop0,rbps=1M,wiops=50", "--io-weight", "300", "--hugetlb", "2MB=4M",
        "--unified", "memory.oom.group=1",
    ]  # fmt: skip
    assert set(flags[::2]) == {limits.flag(name) for name in limits.CONTROLLERS}, "a flag that nobody looks at"
    succeed(leafd, "run", "-d", "--name", "web", *flags, "--", "sleep", "1000")
    promised = {
        "memory.max": str(256 * MiB),
        "memory.low": str(64 * MiB),
        "memory.high": str(200 * MiB),
        "memory.swap.max": str(128 * MiB),
        "cpu.max": "150000 100000",
        "cpu.weight": "250",
        "cpuset.cpus": "0-1",
        "cpuset.mems": "0",
        "pids.max": "100",
        "io.max": f"{device} rbps={MiB} wbps=max riops=max wiops=50",
        "io.weight": "default 300",
        "hugetlb.2MB.max": str(4 * MiB),
        "hugetlb.2MB.rsvd.max": str(4 * MiB),
        "memory.oom.group": "1",
    }
    assert held(leafd, "web", *promised) == promised
    assert Cgroup(str(leafd.inspect("web")["leaf"])).read_number("memory.low") == 64 * MiB
    assert Cgroup(leafd.cgroups_root).read_number("memory.low") == 64 * MiB, "or it would protect nothing"
    leafd.kill()  # limits are the kernel's: nobody has to keep them, and the shim changes them
    succeed(
        leafd, "update", "--memory", "max", "--memory-low", "0", "--memory-high", "max", "--memory-swap", "max",
        "--cpus", "max", "--cpu-weight", "100", "--cpuset-cpus", "default", "--cpuset-mems", "default",
        "--pids", "max", "--io-max", f"{device},rbps=max,wiops=max", "--io-weight", "100", "--hugetlb", "2MB=max",
        "--unified", "memory.oom.group=default", "web",
    )  # fmt: skip
    leafd.start(*leafd.patient())
    assert held(leafd, "web", *promised) == {
        "memory.max": "max",
        "memory.low": "0",
        "memory.high": "max",
        "memory.swap.max": "max",
        "cpu.max": "max 100000",
        "cpu.weight": "100",
        "cpuset.cpus": Cgroup(leafd.cgroups_root).read("cpuset.cpus.effective").strip(),
        "cpuset.mems": "0",
        "pids.max": "max",
        "io.max": "",
        "io.weight": "default 100",
        "hugetlb.2MB.max": "max",
        "hugetlb.2MB.rsvd.max": "max",
        "memory.oom.group": "0",
    }


@pytest.mark.vm
def test_memory_is_not_taken_from_who_uses_it(leafd: Leafd) -> None:
    program = "held = bytearray(b'x' * (96 << 20)); print('held', flush=True); import time; time.sleep(1000)"
    succeed(leafd, "run", "-d", "--name", "web", "--memory", "256M", "--", "python3", "-c", program)
    with leafd.client as client, client.logs("web", follow=True) as log:
        assert next(iter(log)).data == b"held\n"
    figures = json.loads(succeed(leafd, "--json", "stats", "web"))[0]
    assert figures["memory"]["current"] > 96 * MiB
    assert figures["memory"]["max"] == 256 * MiB
    assert figures["memory"]["swap"]["max"] is None
    assert (figures["pids"]["current"], figures["pids"]["max"]) == (1, None)
    refused = leafd.ctl("update", "--memory", "32M", "--pids", "7", "web")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"leafctl: update: memory.max {32 * MiB}: ")
    assert refused.stderr.endswith("; nothing was changed\n")
    assert held(leafd, "web", "memory.max", "pids.max") == {"memory.max": str(256 * MiB), "pids.max": "max"}
    succeed(leafd, "update", "--memory", "32M", "--kill", "web")
    assert leafd.ctl("wait", "web").returncode == 137
    assert leafd.inspect("web")["exit_cause"] == "oom"
