"""The layout and its inverse, after Mesos's Cgroups2Paths and Cgroups2ParsePaths, and what Mesos gets wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from leafshim.cgroup.layout import Layout, check_id
from leafshim.errors import InputError

MOUNT = "/sys/fs/cgroup"
ROOTS = ["leafd", "mesos", "a/b/c", "system.slice/leafd-containers.scope", "leaf", "agent"]

names = some.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,15}", fullmatch=True)
ids = some.lists(names, min_size=1, max_size=5).map("/".join)


def is_id(text: str) -> bool:
    try:
        return check_id(text) == text
    except InputError:
        return False


@pytest.mark.parametrize(
    ("container_id", "path"),
    [
        ("web", "/sys/fs/cgroup/leafd/web"),
        ("web/db", "/sys/fs/cgroup/leafd/web/mesos/db"),
        ("web/db/cache", "/sys/fs/cgroup/leafd/web/mesos/db/mesos/cache"),
        ("web/web", "/sys/fs/cgroup/leafd/web/mesos/web"),
    ],
)
def test_paths(container_id: str, path: str) -> None:
    layout = Layout(MOUNT)
    assert layout.container(container_id) == path
    assert layout.leaf(container_id) == path + "/leaf"
    assert layout.name(container_id) == path.removeprefix(MOUNT)
    assert layout.id_of(path) == container_id
    assert layout.id_of(path + "/leaf") == container_id
    assert layout.id_of(path + "/") == container_id


def test_below_a_parent_that_another_layout_has_made() -> None:
    layout = Layout(MOUNT, "new", "inner")
    assert layout.below("/sys/fs/cgroup/old/web/mesos/db", "web/db/log") == "/sys/fs/cgroup/old/web/mesos/db/inner/log"
    with pytest.raises(InputError, match="inner is reserved"):
        layout.below("/sys/fs/cgroup/old/web", "web/inner")


def test_our_own() -> None:
    layout = Layout(MOUNT, "a/b")
    assert layout.root == "/sys/fs/cgroup/a/b"
    assert layout.agent_leaf == "/sys/fs/cgroup/a/b/agent/leaf"
    assert layout.shims == "/sys/fs/cgroup/a/b/agent/shims"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/leafd",
        "/sys/fs/cgroup/leafd/",
        "/sys/fs/cgroup/leafd/agent",
        "/sys/fs/cgroup/leafd/agent/leaf",
        "/sys/fs/cgroup/leafd/agent/shims",
        "/sys/fs/cgroup/leafd/leaf",
        "/sys/fs/cgroup/leafd/mesos",
        "/sys/fs/cgroup/leafd/mesos/db",
        "/sys/fs/cgroup/leafd/web/mesos",
        "/sys/fs/cgroup/leafd/web/mesos/leaf",
        "/sys/fs/cgroup/leafd/web/mesos/mesos/db",
        "/sys/fs/cgroup/leafd/web/mesos/agent",
        "/sys/fs/cgroup/leafd/web/db",
        "/sys/fs/cgroup/leafd/web//leaf",
        "/sys/fs/cgroup/leafd/web/../db",
        "/sys/fs/cgroup/leafd-two/web",
        "/sys/fs/cgroup/other/web",
        "/sys/fs/cgroup/other/leafd/web",
        "leafd/web",
        "web",
    ],
)
def test_what_is_no_container(path: str) -> None:
    assert Layout(MOUNT).id_of(path) is None


@pytest.mark.parametrize("below", ["app", "leaf", "mesos", "mesos/db", "mesos/db/leaf", "agent", "web", "leaf/leaf"])
def test_cgroups_that_a_workload_makes_below_its_leaf_are_no_containers(below: str) -> None:
    layout = Layout(MOUNT)
    assert layout.id_of(f"{layout.leaf('web')}/{below}") is None
    assert layout.id_of(f"{layout.leaf('web/db')}/{below}") is None


@given(ids.filter(is_id), some.sampled_from(ROOTS))
def test_inverse_of_every_id_under_every_root(container_id: str, root: str) -> None:
    layout = Layout(MOUNT, root)
    assert layout.id_of(layout.container(container_id)) == container_id
    assert layout.id_of(layout.leaf(container_id)) == container_id


@given(some.text("webmsoaglft/.", max_size=40))
def test_whatever_has_an_id_has_that_ids_path(inside: str) -> None:
    layout = Layout(MOUNT)
    path = f"{layout.root}/{inside}"
    container_id = layout.id_of(path)
    if container_id is not None:
        assert path.rstrip("/") in (layout.container(container_id), layout.leaf(container_id))


@given(ids.filter(is_id), ids.filter(is_id))
def test_no_two_ids_share_a_path(one: str, other: str) -> None:
    layout = Layout(MOUNT)
    assert (layout.container(one) == layout.container(other)) == (one == other)
    assert layout.container(one) != layout.leaf(other)


def test_separator_is_configurable() -> None:
    layout = Layout(MOUNT, separator="nested")
    assert layout.container("web/db") == "/sys/fs/cgroup/leafd/web/nested/db"
    assert layout.id_of("/sys/fs/cgroup/leafd/web/nested/db/leaf") == "web/db"
    assert layout.container("mesos") == "/sys/fs/cgroup/leafd/mesos"
    with pytest.raises(InputError, match="nested is reserved"):
        layout.container("nested")


@pytest.mark.parametrize("root", ["leafd", "/leafd", "leafd/", "/leafd/"])
def test_slashes_around_the_root_mean_nothing(root: str) -> None:
    assert Layout(MOUNT, root).root == "/sys/fs/cgroup/leafd"


@pytest.mark.parametrize("root", ["", "/", ".", "..", "a/../b", "a//b", "a/.", "a\nb", "a\0b", "../leafd"])
def test_root_that_is_no_path(root: str) -> None:
    with pytest.raises(InputError, match="cgroups root"):
        Layout(MOUNT, root)


@pytest.mark.parametrize("separator", ["", "leaf", "agent", ".", "..", "a/b", "-x", "a b", "a\n"])
def test_separator_that_is_no_name(separator: str) -> None:
    with pytest.raises(InputError, match="separator"):
        Layout(MOUNT, separator=separator)


@pytest.mark.parametrize(
    "good", ["a", "0", "A.b_c-d", "a" * 64, "x..", "web/db", "/".join(["a" * 39] * 5), "memory", "leaf2"]
)
def test_ids(good: str) -> None:
    assert check_id(good) == good


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        ".",
        "..",
        "../a",
        "a/..",
        "a/../b",
        ".hidden",
        "-rf",
        "_x",
        "a b",
        "a\n",
        "a\0",
        "a\x1b[2J",
        "a:b",
        "a%",
        "ä",
        "١",
        "a" * 65,
        "/".join(["a" * 40] * 5),
        "agent",
        "leaf",
        "mesos",
        "web/leaf",
        "web/agent/x",
        "mesos/web",
        "cgroup.procs",
        "memory.max",
        "web/cpu.max",
        "hugetlb.2MB.max",
    ],
)
def test_hostile_and_reserved_ids(bad: str) -> None:
    with pytest.raises(InputError) as raised:
        check_id(bad)
    assert str(raised.value).isprintable()
