"""Containers as the tree shows them, what the core controller counts, and enabling controllers."""

import os
import signal
from collections.abc import Callable

import pytest

from leafshim.cgroup.controller import Controller, enable_down
from leafshim.cgroup.core import Core
from leafshim.cgroup.figures import number
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.cgroup.layout import Layout
from leafshim.errors import KernelError, StateError, Unsupported

Spawn = Callable[..., tuple[int, int]]


@pytest.fixture
def layout(cgroup: Cgroup) -> Layout:
    mount = find_mount()
    return Layout(mount, f"{cgroup.path.removeprefix(mount)}/two/levels")


def enable(layout: Layout, container_id: str, *controllers: str) -> None:
    enable_down(layout.mount, Cgroup(layout.container(container_id)), controllers)


def create(layout: Layout, *ids: str) -> None:
    for container_id in ids:
        Cgroup(layout.leaf(container_id)).create()


def test_walk_finds_containers_and_nothing_else(layout: Layout) -> None:
    assert list(layout.containers()) == []
    create(layout, "web", "web/db", "web/db/cache", "batch")
    Cgroup(layout.agent_leaf).create()
    Cgroup(layout.shims).create()
    Cgroup(layout.container("half")).create()
    for own in ("leaf", "mesos/db/leaf", "agent", "app"):
        Cgroup(f"{layout.leaf('web')}/{own}").create()
    Cgroup(f"{layout.root}/_foreign/leaf").create()
    assert list(layout.containers()) == ["batch", "half", "web", "web/db", "web/db/cache"]


def test_core_counts_the_leaf_and_the_workloads_own_cgroups(spawn: Spawn, layout: Layout) -> None:
    core: Controller = Core()
    create(layout, "web", "web/db")
    web, leaf, own = Cgroup(layout.container("web")), Cgroup(layout.leaf("web")), Cgroup(layout.leaf("web") + "/own")
    own.create()
    pid, _ = spawn(signal.pause, cgroup=leaf)
    spawn(signal.pause, cgroup=own)
    spawn(signal.pause, cgroup=Cgroup(layout.leaf("web/db")))
    usage = core.usage(web)
    assert (usage["procs"], usage["threads"]) == (2, 2)
    assert usage["events"] == {"populated": 1, "frozen": 0}
    assert number(usage, "stat", "nr_descendants") == 5
    assert core.watch(web) == ()
    core.isolate(web, pid)
    with pytest.raises(StateError, match=f"process {os.getpid()} is not in {leaf.path}"):
        core.isolate(web, os.getpid())


def test_core_recovers_only_what_has_a_leaf(layout: Layout) -> None:
    create(layout, "web")
    web = Cgroup(layout.container("web"))
    Core().recover(web)
    web.child("leaf").remove()
    with pytest.raises(StateError, match="leaf is gone"):
        Core().recover(web)


def test_missing_controller_is_a_clear_error(layout: Layout) -> None:
    create(layout, "web")
    with pytest.raises(Unsupported, match=f"no cgroup2 controller warp in {layout.mount}$"):
        enable(layout, "web", "warp")


@pytest.mark.vm
def test_controllers_are_enabled_from_the_root_to_the_container_and_not_in_the_leaf(layout: Layout) -> None:
    create(layout, "web/db")
    enable(layout, "web/db", "memory", "pids")
    container = Cgroup(layout.container("web/db"))
    while container.path != layout.mount:
        assert container.enabled() >= {"memory", "pids"}
        container = Cgroup(os.path.dirname(container.path))
    leaf = Cgroup(layout.leaf("web/db"))
    assert leaf.enabled() == frozenset()
    assert leaf.controllers() >= {"memory", "pids"}
    Cgroup(layout.container("web/db")).write("pids.max", "7")
    assert Cgroup(layout.container("web/db")).read("pids.max") == "7\n"


@pytest.mark.vm
def test_enabling_again_writes_nothing(spawn: Spawn, layout: Layout) -> None:
    create(layout, "web")
    enable(layout, "web", "pids")
    spawn(signal.pause, cgroup=Cgroup(layout.leaf("web")))
    enable(layout, "web", "pids")


@pytest.mark.vm
def test_limits_are_in_force_at_the_first_instruction(spawn: Spawn, layout: Layout) -> None:
    create(layout, "web")
    enable(layout, "web", "pids")
    Cgroup(layout.container("web")).write("pids.max", "1")

    def fork() -> None:
        with pytest.raises(BlockingIOError):
            os.fork()

    pid, _ = spawn(fork, cgroup=Cgroup(layout.leaf("web")))
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.vm
def test_cgroup_with_processes_takes_no_controllers_for_its_children(spawn: Spawn, layout: Layout) -> None:
    create(layout, "web")
    spawn(signal.pause, cgroup=Cgroup(layout.container("web")))
    with pytest.raises(StateError, match=r"/web holds processes \(\d+\): controllers can be enabled only below"):
        enable(layout, "web", "memory")


@pytest.mark.vm
def test_clone_into_a_cgroup_with_controllers_for_its_children_is_an_error(spawn: Spawn, layout: Layout) -> None:
    """EBUSY is an answer, no reason to fall back: an exec asks for another cgroup then."""
    create(layout, "web")
    enable(layout, "web", "memory")
    with pytest.raises(KernelError, match="clone3: Device or resource busy"):
        spawn(signal.pause, cgroup=Cgroup(layout.container("web")))
