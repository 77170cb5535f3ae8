"""memory.low and memory.min that hold: in the leaf, at every level above, and under pressure."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from leafshim.cgroup import protection
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.cgroup.isolator import Isolator
from leafshim.cgroup.layout import MARK, Layout
from leafshim.errors import InputError, KernelError
from leafshim.spec import load_resources

Spawn = Callable[..., tuple[int, int]]
MiB = 1 << 20
PORTION = 24 * MiB

pytestmark = pytest.mark.vm


@pytest.fixture
def layout(cgroup: Cgroup) -> Layout:
    """Below a root that leafd has claimed, two levels below one that is the administrator's."""
    layout = Layout(find_mount(), f"{cgroup.path.removeprefix(find_mount())}/two/levels")
    os.makedirs(layout.root)
    os.setxattr(layout.root, MARK, b"/run/leafd")
    return layout


def limit(layout: Layout, container_id: str, **unified: str) -> None:
    """Make the container if it is not there, and limit it."""
    cgroup = Cgroup(layout.container(container_id))
    isolator = Isolator(layout.mount, cgroup)
    limits = load_resources(json.dumps({"unified": {f"memory.{k}": v for k, v in unified.items()}}).encode()).limits
    if cgroup.exists():
        for _ in isolator.update(limits):
            pass
    else:
        settings = isolator.plan(limits)
        cgroup.child("leaf").create()
        isolator.prepare(settings)


def low(layout: Layout, *ids: str, file: str = "memory.low") -> list[int]:
    """In MiB: of the root, and of these containers."""
    paths = [layout.root, *map(layout.container, ids)]
    return [Cgroup(path).read_number(file) // MiB for path in paths]


def test_found_wanting_10_what_is_above_is_protected_with_it(layout: Layout) -> None:
    """MemoryLow, MemoryMinimum: ours from the container up have the sum, and give it back; what is above has not."""
    limit(layout, "web", low="64M")
    limit(layout, "batch", low="32M", min="8M")
    limit(layout, "idle")
    assert low(layout, "web", "batch", "idle") == [96, 64, 32, 0]
    assert low(layout, "web", "batch", file="memory.min") == [8, 0, 8]
    assert Cgroup(os.path.dirname(layout.root)).read("memory.low") == "0\n"
    assert Cgroup(layout.leaf("web")).read_number("memory.low") == 64 * MiB
    limit(layout, "web", low="16M")
    assert low(layout, "web") == [48, 16]
    for name in ("batch", "idle"):
        Cgroup(layout.container(name)).remove_tree(10)
        protection.release(layout.mount, layout.container(name))
    assert low(layout, "web") == [16, 16]
    limit(layout, "web", low="default")
    assert low(layout, "web", file="memory.min") == low(layout, "web") == [0, 0]


def test_a_nested_container_raises_its_parent_for_as_long_as_it_needs(layout: Layout) -> None:
    limit(layout, "web", low="16M")
    limit(layout, "web/db", low="32M")
    limit(layout, "web/cache", low="8M")
    assert low(layout, "web", "web/db", "web/cache") == [40, 40, 32, 8]
    assert Cgroup(layout.leaf("web")).read_number("memory.low") == 16 * MiB
    limit(layout, "web", low="100M")  # it is enough for all of them
    assert low(layout, "web", "web/db") == [100, 100, 32]
    limit(layout, "web", low="1M")
    assert low(layout, "web", "web/db") == [40, 40, 32]
    with pytest.raises(InputError):
        limit(layout, "web", low="2M", **{"oom.group": "7"})
    assert low(layout, "web", "web/db") == [40, 40, 32]
    Cgroup(layout.container("web/db")).remove_tree(10)
    protection.release(layout.mount, layout.container("web/db"))
    assert low(layout, "web", "web/cache") == [8, 8, 8]


def test_all_of_it_is_as_much_as_there_is(layout: Layout) -> None:
    limit(layout, "web", low="max")
    limit(layout, "batch", low="32M")
    assert Cgroup(layout.root).read("memory.low") == "max\n"


def test_in_a_tree_of_somebody_else_nothing_above_is_touched(layout: Layout) -> None:
    os.removexattr(layout.root, MARK)
    limit(layout, "web", low="64M")
    assert low(layout, "web") == [0, 64]


def test_levels_that_leafd_made_are_kept_up_too(layout: Layout, cgroup: Cgroup) -> None:
    """As far as they are marked without a gap."""
    os.setxattr(cgroup.child("two").path, MARK, b"/run/leafd")
    limit(layout, "web", low="64M")
    assert cgroup.child("two").read_number("memory.low") == 64 * MiB
    assert cgroup.read("memory.low") == "0\n"
    protection.release(layout.mount, layout.container("web"))
    assert low(layout, "web") == [64, 64]


def test_a_protected_container_keeps_its_cache_under_pressure(layout: Layout, cgroup: Cgroup, spawn: Spawn) -> None:
    """Memory is taken right above what is ours: who is not protected loses his, who is does not.

    With memory.min, as the kernel keeps low only as long as it finds enough elsewhere.
    """
    Path("/proc/sys/vm/drop_caches").write_text("1\n")  # what is cached already would be charged to nobody here
    files = _files()
    for name, flags in (("web", {"min": "64M"}), ("batch", {})):
        limit(layout, name, **flags)
        _fill(spawn, Cgroup(layout.leaf(name)), files)
    before = {name: Cgroup(layout.container(name)).read_number("memory.current") for name in ("web", "batch")}
    assert min(before.values()) >= PORTION
    with suppress(KernelError):  # EAGAIN: it found less than that
        cgroup.child("two").write("memory.reclaim", str(PORTION // 2))
    lost = {name: size - Cgroup(layout.container(name)).read_number("memory.current") for name, size in before.items()}
    assert lost["batch"] >= 2 * MiB
    assert lost["web"] < lost["batch"] // 4, "no more than what the kernel's own structures free"


def _files() -> Iterator[str]:
    for directory, _, names in os.walk("/usr/lib"):
        yield from (os.path.join(directory, name) for name in names if name.endswith((".so", ".a", ".py", ".ko")))


def _fill(spawn: Spawn, leaf: Cgroup, files: Iterator[str]) -> None:
    """Have a process in the leaf read the next files, as many as fill its portion of the cache."""
    total, chosen = 0, []
    while total < PORTION:
        path = next(files)
        if os.path.isfile(path) and not os.path.islink(path):
            total += os.stat(path).st_size
            chosen.append(path)
    ready, told = os.pipe()

    def body() -> None:
        for path in chosen:
            with open(path, "rb", buffering=0) as file:
                file.read()
        os.write(told, b"x")
        signal.pause()

    spawn(body, cgroup=leaf)
    assert os.read(ready, 1) == b"x"
