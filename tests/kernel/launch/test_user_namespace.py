"""Containers whose root is nobody outside."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leafshim.errors import Unsupported
from leafshim.launch import Child, Executed, Failed, Plan, Ready, plan_exec
from leafshim.spec import load, load_process

Document = dict[str, Any]
Config = Callable[..., Document]
Run = Callable[[Document | Plan], tuple[int, str]]
Advance = Callable[[Child], Ready | Executed | Failed]

FIRST = 200_000


@pytest.fixture
def mapped(config: Config, skeleton: Path) -> Callable[..., Document]:
    """A document with a user namespace, and a network of its own so that sysfs may be mounted."""

    def make(*args: str) -> Document:
        for path in (skeleton, *skeleton.iterdir()):
            os.chown(path, FIRST, FIRST, follow_symlinks=False)
        document = config(*args, skeleton=True)
        document["linux"]["namespaces"] += [{"type": "user"}, {"type": "network"}]
        for name in ("uidMappings", "gidMappings"):
            document["linux"][name] = [{"containerID": 0, "hostID": FIRST, "size": 1000}]
        document["mounts"].append({"destination": "/sys", "type": "sysfs", "options": ["ro", "nosuid"]})
        return document

    return make


def test_root_inside_is_nobody_outside(
    start: Any, plan: Any, mapped: Any, advance: Advance, leaf: str, wait: Any
) -> None:
    script = "id -u; id -g; cat /proc/self/uid_map; echo x >/dev/null; head -c2 /dev/zero | wc -c; "
    script += "touch /dev/shm/x && stat -c %u /dev/shm/x; cat /proc/keys | wc -c"
    document = mapped("sh", "-c", script)
    document["linux"]["maskedPaths"] = ["/proc/keys", "/proc/acpi"]
    document["linux"]["readonlyPaths"] = ["/proc/sys"]
    document["process"]["user"] = {"uid": 5, "gid": 6, "additionalGids": [7]}
    child, output = start(plan(document))
    progress = advance(child)
    assert isinstance(progress, Ready), progress.error if isinstance(progress, Failed) else progress
    # Under its limits, in its leaf, before its first instruction (CVE-2025-47291).
    assert Path(leaf, "cgroup.procs").read_text().split() == [str(child.pid)]
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines())
    assert status["Uid"].split() == [str(FIRST + 5)] * 4
    assert status["Gid"].split() == [str(FIRST + 6)] * 4
    assert status["Groups"].split() == [str(FIRST + 7)]
    child.release()
    assert isinstance(advance(child), Executed)
    assert wait(child) == 0
    assert os.pread(output, 4096, 0).decode().split() == ["5", "6", "0", str(FIRST), "1000", "2", "5", "0"]


def test_a_directory_of_its_own_as_root(run: Run, mapped: Any, skeleton: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)  # as a bundle's parents are: closed to the container's root
    document = mapped("sh", "-c", "id -u; touch /file; stat -c %u /file")
    assert run(document) == (0, "0\n0\n")
    assert (skeleton / "file").stat().st_uid == FIRST


def test_a_terminal_and_an_exec(start: Any, run: Run, plan: Any, mapped: Any, advance: Advance) -> None:
    document = mapped("sleep", "1000")
    document["process"]["terminal"] = True
    child, _ = start(plan(document))
    ready = advance(child)
    assert isinstance(ready, Ready), ready.error if isinstance(ready, Failed) else ready
    assert ready.console is not None
    os.close(ready.console)
    child.release()
    assert isinstance(advance(child), Executed)
    process = {
        "args": ["sh", "-c", "id -u; cat /proc/self/uid_map; hostname"],
        "cwd": "/",
        "env": [],
        "user": {"uid": 9, "gid": 9},
    }
    spec = load(json.dumps(document).encode())
    inside = plan_exec(spec, load_process(json.dumps(process).encode()), child.pidfd)
    assert run(inside) == (0, f"9\n         0     {FIRST}       1000\nweb\n")


def test_the_hosts_own_files_are_refused(plan: Any, mapped: Any) -> None:
    document = mapped("true")
    del document["root"]
    with pytest.raises(Unsupported, match=r"^rootfs\[0\]: host-overlay with a user namespace is not supported yet$"):
        plan(document)
