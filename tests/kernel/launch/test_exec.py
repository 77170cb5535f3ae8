"""One more process in a running container."""

import json
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import InputError, KernelError
from leafshim.launch import Child, Executed, Failed, Plan, Ready, plan_exec
from leafshim.spec import Process, Spec, load, load_process

Document = dict[str, Any]
Config = Callable[..., Document]
Run = Callable[[Document | Plan], tuple[int, str]]
Advance = Callable[[Child], Ready | Executed | Failed]


class Container:
    """A running container, and plans for further processes in it."""

    def __init__(self, child: Child, spec: Spec) -> None:
        self.child = child
        self.spec = spec

    def plan(self, *args: str, **fields: object) -> Plan:
        return plan_exec(self.spec, self.process(*args, **fields), self.child.pidfd)

    def process(self, *args: str, **fields: object) -> Process:
        process = {"args": list(args), "cwd": "/", "env": ["PATH=/usr/bin"]} | fields
        return load_process(json.dumps(process).encode())


@pytest.fixture
def container(start: Any, plan: Any, config: Config, advance: Advance) -> Container:
    document = config("sleep", "1000")
    document["hostname"] = "inside"
    child, output = start(plan(document))
    os.close(output)
    assert isinstance(advance(child), Ready)
    child.release()
    assert isinstance(advance(child), Executed)
    return Container(child, load(json.dumps(document).encode()))


def test_it_is_in_the_container(run: Run, container: Container, leaf: str) -> None:
    own = os.readlink("/proc/self/ns/pid_for_children")
    links = " ".join(f"/proc/self/ns/{kind} /proc/1/ns/{kind}" for kind in ("pid", "ipc", "uts", "mnt", "cgroup"))
    script = f"hostname; tail -1 /proc/self/cgroup; readlink {links}"
    sets = {name: ["CAP_SYS_PTRACE"] for name in ("bounding", "permitted", "effective")}
    status, output = run(container.plan("sh", "-c", script, capabilities=sets))
    hostname, cgroup, *namespaces = output.split()
    assert (status, hostname, cgroup) == (0, "inside", "0::/")
    assert namespaces[::2] == namespaces[1::2]
    assert len(namespaces) == 10
    assert os.readlink("/proc/self/ns/pid_for_children") == own


def test_it_is_its_own_user_in_its_own_place(run: Run, container: Container) -> None:
    fields = {"user": {"uid": 7, "gid": 8, "additionalGids": [9]}, "cwd": "/usr/bin", "oomScoreAdj": 77}
    plan = container.plan(
        "sh", "-c", "id -u; id -g; id -G; pwd; cat /proc/self/oom_score_adj; ls /proc/self/fd", **fields
    )
    assert run(plan)[1].split() == ["7", "8", "8", "9", "/usr/bin", "77", "0", "1", "2", "3"]


def test_its_failures_are_named(run: Run, container: Container) -> None:
    for plan, message in (
        (container.plan("sleepx"), "exec sleepx: No such file or directory"),
        (container.plan("true", cwd="/nowhere"), "chdir /nowhere: No such file or directory"),
        (container.plan("true", cwd="/proc/self/root"), "chdir /proc/self/root: Too many levels of symbolic links"),
    ):
        with pytest.raises(KernelError) as caught:
            run(plan)
        assert str(caught.value) == message


def test_a_release_may_come_before_it_is_ready(start: Any, container: Container, advance: Advance, wait: Any) -> None:
    child, _ = start(container.plan("true"))
    child.release()
    assert isinstance(advance(child), Ready)
    assert isinstance(advance(child), Executed)
    assert wait(child) == 0


def test_it_has_a_terminal_of_the_container(start: Any, container: Container, advance: Advance) -> None:
    child, _ = start(container.plan("sh", "-c", "tty; stty size; echo x >/dev/tty", terminal=True,
                                    consoleSize={"height": 3, "width": 4}))  # fmt: skip
    child.release()
    ready = advance(child)
    assert isinstance(ready, Ready)
    assert ready.console is not None
    assert isinstance(advance(child), Executed)
    text = b""
    poll = select.poll()
    poll.register(ready.console, select.POLLIN)
    while text.count(b"\r\n") < 3:
        assert poll.poll(20_000)
        text += os.read(ready.console, 4096)
    assert text.split(b"\r\n") == [b"/dev/pts/0", b"3 4", b"x", b""]
    os.close(ready.console)


@pytest.mark.parametrize("terminal", [False, True])
def test_it_imports_nothing(
    start: Any, container: Container, advance: Advance, no_imports: None, terminal: bool
) -> None:
    child, _ = start(container.plan("true", terminal=terminal, user={"uid": 1, "gid": 1}, oomScoreAdj=5))
    child.release()
    ready = advance(child)
    assert isinstance(ready, Ready), ready.error if isinstance(ready, Failed) else ready
    assert isinstance(advance(child), Executed)
    if ready.console is not None:
        os.close(ready.console)


def test_a_container_that_has_ended(run: Run, container: Container, wait: Any) -> None:
    plan = container.plan("true")
    container.child.abort()
    wait(container.child)
    with pytest.raises(KernelError, match=r"No such process$"):
        run(plan)


def test_a_terminal_needs_a_devpts(container: Container) -> None:
    spec = container.spec._replace(mounts=())
    with pytest.raises(InputError, match=r"^process\.terminal: needs a devpts mount"):
        plan_exec(spec, container.process("true", terminal=True), container.child.pidfd)


@pytest.mark.vm
def test_it_goes_where_init_is_when_the_leaf_takes_no_process(
    start: Any, container: Container, leaf: str, advance: Advance, wait: Any
) -> None:
    inner = Cgroup(f"{leaf}/inner")
    inner.create()
    inner.write("cgroup.procs", str(container.child.pid))
    parents = list(Path(leaf).parents)[:3]
    for path in (*reversed(parents), leaf):
        Cgroup(str(path)).enable(["pids"])
    child, _ = start(container.plan("sleep", "1000"))
    child.release()
    assert isinstance(advance(child), Ready)
    assert isinstance(advance(child), Executed)
    assert inner.processes() == [container.child.pid, child.pid]
