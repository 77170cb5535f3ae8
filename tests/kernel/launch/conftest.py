"""Containers for the tests: a cgroup, a bundle, a spec with what engines usually mount, and a way to run it."""

import builtins
import json
import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leafshim.api import task
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.errors import LeafError
from leafshim.kernel import pidfd
from leafshim.kernel.execve import reset_inherited_signals
from leafshim.launch import Child, Executed, Failed, Plan, Ready, plan_init, spawn
from leafshim.spec import load

Document = dict[str, Any]

DEADLINE_MS = 20_000
NAMESPACES = ("pid", "ipc", "uts", "mount", "cgroup")
CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"]
MOUNTS = [
    ("/proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620"),
    ("/dev/shm", "tmpfs", "nosuid,noexec,nodev,mode=1777,size=65536k"),
    ("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
]


@pytest.fixture
def leaf() -> Iterator[str]:
    """The path of a leaf cgroup, `<mount>/leafd-test-…/x/leaf`, removed with all that is in it."""
    top = Cgroup(f"{find_mount()}/leafd-test-launch-{os.getpid()}")
    leaf = Cgroup(f"{top.path}/x/leaf")
    for cgroup in (top, Cgroup(f"{top.path}/x"), leaf):
        cgroup.create()
    yield leaf.path
    top.remove_tree(10)


@pytest.fixture
def bundle_rootfs(tmp_path: Path) -> str:
    """A bundle's empty rootfs directory."""
    path = tmp_path / "rootfs"
    path.mkdir()
    return str(path)


@pytest.fixture
def skeleton(bundle_rootfs: str) -> Path:
    """The same directory as an image of its own: the host's programs by a bind mount of /usr (see `config`)."""
    root = Path(bundle_rootfs)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("usr", "tmp", "etc"):
        (root / name).mkdir()
    return root


@pytest.fixture
def config() -> Callable[..., Document]:
    """config(program, argument…) → a document. With `skeleton` the root is the bundle's directory, not the host's."""

    def make(*args: str, skeleton: bool = False) -> Document:
        document: Document = {
            "ociVersion": "1.2.0",
            "process": {
                "args": list(args),
                "cwd": "/",
                "env": ["PATH=/usr/bin:/bin"],
                "user": {"uid": 0, "gid": 0},
                "capabilities": dict.fromkeys(("bounding", "permitted", "effective"), CAPABILITIES),
            },
            "hostname": "web",
            "mounts": [
                {"destination": destination, "type": fstype, "source": fstype, "options": options.split(",")}
                for destination, fstype, options in MOUNTS
            ],
            "linux": {"namespaces": [{"type": kind} for kind in NAMESPACES]},
        }
        if skeleton:
            document["root"] = {"path": "rootfs"}
            document["mounts"].append({"destination": "/usr", "source": "/usr", "options": ["rbind", "ro"]})
        return document

    return make


@pytest.fixture
def plan(bundle_rootfs: str) -> Callable[[Document], Plan]:
    """The plan of a document's init; over the host's files where the document has no root."""

    def make(document: Document) -> Plan:
        overlay = [] if "root" in document else [task.Mount(type="host-overlay", source="/", options=["size=16777216"])]
        return plan_init(load(json.dumps(document).encode()), overlay, bundle_rootfs)

    return make


@pytest.fixture(scope="session", autouse=True)
def _signals() -> None:
    reset_inherited_signals()  # as the nursery does: what we inherited is not the children's


@pytest.fixture
def children() -> Iterator[list[Child]]:
    """Children that the test started; killed, reaped and closed at its end."""
    children: list[Child] = []
    yield children
    # The last first: an init does not end before its container's other processes have been reaped, some of them by us.
    for child in reversed(children):
        try:
            child.abort()
            os.waitpid(child.pid, 0)
        except (LeafError, ChildProcessError):
            pass
        os.close(child.pidfd)
        child.close()


@pytest.fixture
def start(leaf: str, children: list[Child]) -> Callable[..., tuple[Child, int]]:
    """Spawns a plan: the child, and a descriptor of what it will have written to its standard streams."""

    def start(plan: Plan, cgroup: str = leaf) -> tuple[Child, int]:
        output = os.memfd_create("output")
        null = os.open("/dev/null", os.O_RDONLY)
        children.append(spawn(plan, leaf=cgroup, stdio=None if plan.terminal else (null, output, output)))
        os.close(null)
        return children[-1], output

    return start


@pytest.fixture
def advance() -> Callable[[Child], Ready | Executed | Failed]:
    """Waits until the child has something to say."""

    def advance(child: Child) -> Ready | Executed | Failed:
        poll = select.poll()
        poll.register(child.channel, select.POLLIN)
        while True:
            assert poll.poll(DEADLINE_MS), "the child says nothing"
            progress = child.advance()
            if progress is not None:
                return progress

    return advance


@pytest.fixture
def wait() -> Callable[[Child], int]:
    """Waits until the process has ended: its exit status, or minus the signal's number."""

    def wait(child: Child) -> int:
        poll = select.poll()
        poll.register(child.pidfd, select.POLLIN)
        if not poll.poll(DEADLINE_MS):
            pidfd.send_signal(child.pidfd, 9)
            pytest.fail("the container does not end")
        return os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])

    return wait


@pytest.fixture
def run(
    plan: Callable[[Document], Plan],
    start: Callable[..., tuple[Child, int]],
    advance: Callable[[Child], Ready | Executed | Failed],
    wait: Callable[[Child], int],
) -> Callable[[Document], tuple[int, str]]:
    """Runs a document's container, or a plan, to its end: status and output. Raises the error of a failed launch."""

    def run(what: Document | Plan) -> tuple[int, str]:
        child, output = start(what if isinstance(what, Plan) else plan(what))
        child.release()
        progress = advance(child)
        while isinstance(progress, Ready):
            progress = advance(child)
        status = wait(child)
        text = os.pread(output, 1 << 20, 0).decode(errors="replace")
        os.close(output)
        if isinstance(progress, Failed):
            raise progress.error
        return status, text

    return run


@pytest.fixture
def no_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on an import is an error in every process but this one."""
    us, real = os.getpid(), builtins.__import__

    def guarded(name: str, *rest: Any) -> Any:
        if os.getpid() != us:
            raise RuntimeError(f"import {name}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", guarded)
