"""Records and directories: whole or quarantined, here or in the trash."""

import os
from pathlib import Path

import pytest

from leafd.store import KIND, Record, Store, private_directory
from leafshim import record
from leafshim.errors import DamagedRecord, NotFound
from leafshim.state import RUNNING


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path))
    made.prepare()
    return made


def _record(container_id: str = "web", **more: object) -> Record:
    return Record(container_id, "boot", f"/cgroup/{container_id}", **more)  # type: ignore[arg-type]


def _put(store: Store, entry: Record) -> None:
    os.mkdir(store.bundle(entry.id).path)
    store.write(entry)


def test_a_record_comes_back_as_it_was(store: Store) -> None:
    entry = _record(
        state=RUNNING,
        labels={"a": "b"},
        args=["x", "y"],
        restarts=3,
        exit={"status": None, "cause": "lost"},
        stopping=True,
    )
    _put(store, entry)
    assert store.read("web") == entry


def test_nested_ids_have_directories_of_their_own(store: Store) -> None:
    _put(store, _record("web"))
    _put(store, _record("web/db"))
    (Path(store.containers) / "not a container").mkdir()
    assert store.ids() == ["web", "web/db"]
    assert store.read("web/db").id == "web/db"


@pytest.mark.parametrize(
    "value",
    [
        {"id": "web", "boot_id": "b"},
        {"id": "db", "boot_id": "b", "cgroup": "/c"},
        {"id": "web", "boot_id": "b", "cgroup": "/c", "state": "FLYING"},
        {"id": "web", "boot_id": "b", "cgroup": "/c", "pid": "7"},
        {"id": "web", "boot_id": "b", "cgroup": "/c", "remove": 1},
        {"id": "web", "boot_id": "b", "cgroup": "/c", "color": "red"},
    ],
)
def test_a_record_that_cannot_be_trusted_is_moved_aside(store: Store, value: dict[str, record.Value]) -> None:
    bundle = store.bundle("web")
    os.mkdir(bundle.path)
    record.write(bundle.record, KIND, value)
    with pytest.raises(DamagedRecord, match=r"containers/web/container: "):
        store.read("web")
    assert os.path.exists(f"{bundle.record}.damaged")
    with pytest.raises(NotFound):
        store.read("web")


def test_a_torn_record_is_moved_aside(store: Store) -> None:
    _put(store, _record())
    path = store.bundle("web").record
    os.truncate(path, 30)
    with pytest.raises(DamagedRecord, match="torn"):
        store.read("web")
    assert os.path.exists(f"{path}.damaged")


def test_discarding_is_whole_and_may_be_repeated(store: Store) -> None:
    _put(store, _record())
    store.discard("web")
    store.discard("web")
    assert store.ids() == []
    assert os.listdir(os.path.join(store.root, "trash")) == []


def test_the_trash_of_a_killed_supervisor_is_emptied(store: Store, tmp_path: Path) -> None:
    (tmp_path / "trash" / "1-1-web" / "rootfs").mkdir(parents=True)
    store.prepare()
    assert os.listdir(tmp_path / "trash") == []


def test_directories_are_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir(mode=0o755)
    private_directory(str(path))
    assert path.stat().st_mode & 0o777 == 0o700
