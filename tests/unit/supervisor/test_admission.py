"""What a Create request must satisfy, and what becomes of it."""

import json
from pathlib import Path

import pytest

from leafd.admission import admit
from leafd.config import Config
from leafd.describe import Document, describe
from leafd.journal import Journal
from leafd.launch import Environment
from leafd.nursery import Nursery
from leafd.spares import Spares
from leafd.store import Store
from leafshim.api.containers import CreateRequest
from leafshim.cgroup.layout import Layout
from leafshim.errors import InputError


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    config = Config(root=str(tmp_path / "run"), state=str(tmp_path / "lib"), overlay_size=7 << 20)
    nursery = Nursery(f"{config.root}/nursery.sock", "/cg/leafd/agent/leaf", 1.0)
    journal = Journal.open(str(tmp_path / "events"), 1 << 20)
    return Environment(
        config,
        "boot",
        Layout("/cg", "top/leafd"),
        Store(config.root),
        journal,
        nursery,
        Spares(nursery, "/cg/leafd/agent/shims"),
    )


def _request(document: Document | None = None, **more: object) -> CreateRequest:
    document = document or describe(("true",))
    return CreateRequest(id="web", spec=json.dumps(document).encode(), **more)  # type: ignore[arg-type]


def test_the_cgroup_is_ours_to_choose(environment: Environment) -> None:
    document = describe(("true",))
    namespaces = [{"type": name} for name in ("pid", "mount", "ipc", "uts", "cgroup")]
    document["linux"] = {"cgroupsPath": "/elsewhere", "namespaces": namespaces}
    entry, config = admit(_request(document), environment)
    assert json.loads(config)["linux"]["cgroupsPath"] == "/top/leafd/web"
    assert entry.cgroup == "/cg/top/leafd/web"


def test_without_a_root_it_runs_on_the_hosts_files_without_ours(environment: Environment) -> None:
    entry, config = admit(_request(), environment)
    assert entry.overlay_size == 7 << 20
    hidden = {mount["destination"] for mount in json.loads(config)["mounts"] if mount["type"] == "tmpfs"}
    assert any(environment.config.root.startswith(path) for path in hidden)
    assert any(environment.config.state.startswith(path) for path in hidden)
    assert admit(_request(overlay_size=1 << 20), environment)[0].overlay_size == 1 << 20


def test_a_rootfs_takes_the_place_of_the_descriptions(environment: Environment, tmp_path: Path) -> None:
    document = describe(("true",))
    document["root"] = {"path": "/nowhere", "readonly": True}
    entry, config = admit(_request(document, rootfs=str(tmp_path)), environment)
    assert json.loads(config)["root"] == {"path": str(tmp_path), "readonly": True}
    assert entry.overlay_size == 0
    with pytest.raises(InputError, match=r"root.path: /nowhere: is no directory"):
        admit(_request(document), environment)


@pytest.mark.parametrize(("name", "number"), [("SIGINT", 2), ("QUIT", 3), ("9", 9)])
def test_the_images_stop_signal(environment: Environment, name: str, number: int) -> None:
    document = describe(("true",))
    document["annotations"] = {"org.opencontainers.image.stopSignal": name}
    assert admit(_request(document), environment)[0].stop_signal == number


def test_a_stop_signal_that_is_none(environment: Environment) -> None:
    document = describe(("true",))
    document["annotations"] = {"org.opencontainers.image.stopSignal": "SIGNAL"}
    with pytest.raises(InputError, match="'SIGNAL' is no signal"):
        admit(_request(document), environment)


def test_numbers_go_on_after_an_earlier_container_of_that_name(environment: Environment) -> None:
    assert admit(_request(), environment)[0].sequence == 0
    environment.journal.append("exit", "web", shim_sequence=3)
    assert admit(_request(), environment)[0].sequence == 3
