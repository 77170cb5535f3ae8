"""Which controllers a container has: from the mount down to it, also when that changed while leafd was away."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from leafshim.cgroup.devices import Devices
from leafshim.cgroup.figures import Figures, number
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.cgroup.isolator import CONTROLLERS
from tests.harness.leafd import Leafd

MiB = 1 << 20


def patient(directory: Path) -> tuple[str, str]:
    """Flags for a machine that is ten times slower, as a guest is."""
    config = directory / "leafd.toml"
    config.write_text("call_deadline = 50.0\n")
    return ("--config", str(config))


@pytest.fixture
def leafd(tmp_path: Path) -> Iterator[Leafd]:
    """A running leafd, and a patient one."""
    installation = Leafd(tmp_path)
    try:
        installation.start(*patient(tmp_path))
        yield installation
    finally:
        installation.close()


def run(leafd: Leafd, *flags: str) -> Cgroup:
    """A container `web` that sleeps; its cgroup."""
    result = leafd.ctl("run", "-d", "--name", "web", *flags, "--", "sleep", "1000")
    assert (result.returncode, result.stderr) == (0, "")
    return Cgroup(str(leafd.inspect("web")["cgroup"]))


def figures(leafd: Leafd) -> Figures:
    shown: Figures = json.loads(leafd.ctl("--json", "stats", "web").stdout)[0]
    return shown


def test_a_root_that_somebody_elses_processes_are_in_is_refused_with_them(leafd: Leafd) -> None:
    """No controller can be enabled there: one line says which cgroup and which processes, and nothing is left."""
    root = Cgroup(leafd.cgroups_root)
    with subprocess.Popen(["sleep", "1000"]) as squatter:
        root.write("cgroup.procs", str(squatter.pid))
        result = leafd.ctl("run", "-d", "--name", "web", "--hugetlb", "2MB=6M", "--", "sleep", "1000")
        assert (result.returncode, result.stderr) == (
            125,
            f"leafctl: run: {root.path} holds processes ({squatter.pid}): controllers can be enabled only below a "
            "cgroup without any\n",
        )
        assert leafd.ctl("ps", "-q").stdout == ""
        assert not root.child("web").exists()
        squatter.kill()
    run(leafd, "--hugetlb", "2MB=6M")


def test_found_wanting_03_a_root_of_several_levels(tmp_path: Path) -> None:
    """Enabled in every level's subtree_control from the mount on, the root's own included, and never in the leaf."""
    leafd = Leafd(tmp_path)
    top = leafd.cgroups_root
    leafd.name, leafd.cgroups_root = f"{leafd.name}/two/levels", f"{top}/two/levels"
    try:
        leafd.start(*patient(tmp_path))
        web = run(leafd, "--hugetlb", "2MB=6M")
        assert web.read_number("hugetlb.2MB.max") == 6 * MiB
        assert web.path == f"{top}/two/levels/web"
        for level in (find_mount(), top, f"{top}/two", f"{top}/two/levels", web.path):
            assert "hugetlb" in Cgroup(level).enabled()
        assert web.child("leaf").enabled() == frozenset()
    finally:
        leafd.close()
        Cgroup(top).remove_tree(10)


@pytest.mark.vm
def test_every_controller_with_figures_is_on_without_being_asked_for(leafd: Leafd) -> None:
    """AutoLoadSubsystems: there is no list of isolators to load; what the host has is there."""
    web = run(leafd)
    wanted = {each.name for each in CONTROLLERS if each.figures}
    assert wanted >= {"cpu", "io", "memory", "pids"}
    assert web.controllers() >= wanted
    assert web.enabled() >= wanted
    assert web.child("leaf").enabled() == frozenset()
    assert figures(leafd).keys() >= {"cpu", "memory", "pids"}


@pytest.mark.vm
def test_protection_reaches_up_to_the_mount_where_leafd_made_the_way(tmp_path: Path) -> None:
    """Found wanting 10, with a root of several levels; and what a container needed goes with it."""
    leafd = Leafd(tmp_path)
    top = Cgroup(leafd.cgroups_root)
    leafd.name, leafd.cgroups_root = f"{leafd.name}/two/levels", f"{top.path}/two/levels"
    levels = [top, top.child("two"), top.child("two").child("levels")]
    try:
        leafd.start(*patient(tmp_path))
        web = run(leafd, "--memory-low", "32M")
        levels += [web, web.child("leaf")]
        assert [each.read_number("memory.low") // MiB for each in levels] == [32, 32, 32, 32, 32]
        assert leafd.ctl("rm", "-f", "web").returncode == 0
        assert [each.read_number("memory.low") for each in levels[:3]] == [0, 0, 0]
    finally:
        leafd.close()
        top.remove_tree(10)


@pytest.mark.vm
def test_a_controller_that_went_and_came_back_across_restarts(leafd: Leafd, tmp_path: Path) -> None:
    """MemoryBackward, MemoryForward, recovery with new subsystems, isolation changed across a restart.

    A container that began with the memory controller lives on without, and gets it again with its first limit.
    """
    web = run(leafd, "--memory", "64M")
    before = leafd.inspect("web")
    leafd.kill()
    for level in (web, Cgroup(leafd.cgroups_root)):
        level.write("cgroup.subtree_control", "-memory")
    assert not web.has("memory.max")
    leafd.start(*patient(tmp_path))
    after = leafd.inspect("web")
    assert (after["state"], after["pid"], after["problem"]) == ("RUNNING", before["pid"], before["problem"])
    shown = figures(leafd)
    assert number(shown, "memory", "current") == 0
    assert number(shown, "pids", "current") == 1
    leafd.kill()
    result = leafd.ctl("update", "--memory", "48M", "web")
    assert (result.returncode, result.stderr) == (0, "")
    leafd.start(*patient(tmp_path))
    assert web.read_number("memory.max") == 48 * MiB
    assert number(figures(leafd), "memory", "max") == 48 * MiB
    assert leafd.inspect("web")["pid"] == before["pid"]
    assert leafd.ctl("stop", "-t", "0", "web").returncode == 0
    assert not os.path.exists(web.path)


@pytest.mark.vm
def test_isolation_flags_changed_across_a_restart(leafd: Leafd, tmp_path: Path) -> None:
    """What a container has it keeps: limits, device rules, watch and figures. Another flag is for the next ones."""
    leafd.stop()
    leafd.start(*patient(tmp_path), "--isolation", "memory")
    web = run(leafd, "--memory", "64M", "--pids", "9", "--device", "c:10:229:rwm", "--on-pids", "kill")
    assert web.child("leaf").controllers() == {"memory", "pids"}
    rules, shown = Devices().status(web), leafd.inspect("web")["limits"]
    leafd.kill()
    leafd.start(*patient(tmp_path), "--isolation", "none")
    assert web.child("leaf").controllers() == {"memory", "pids"}
    assert (Devices().status(web), leafd.inspect("web")["limits"]) == (rules, shown)
    assert {"memory", "pids"} <= figures(leafd).keys()
    result = leafd.ctl("run", "-d", "--name", "next", "--", "sleep", "1000")
    assert (result.returncode, result.stderr) == (0, "")
    assert Cgroup(str(leafd.inspect("next")["leaf"])).controllers() == frozenset()
    leafd.ctl("exec", "web", "--", "sh", "-c", "for n in 1 2 3 4 5 6 7 8 9 10 11; do sleep 1000 & done; true")
    assert leafd.ctl("wait", "web").returncode == 137
    assert leafd.inspect("web")["exit_cause"] == "limitation"
