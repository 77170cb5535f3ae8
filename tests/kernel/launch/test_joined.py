"""A first process in the namespaces of another container: which it is in, and whose they are proven to be."""

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from leafshim.errors import InputError, KernelError
from leafshim.kernel import pidfd
from leafshim.launch import Child, Executed, Failed, Plan, Ready, plan_init
from leafshim.spec import load

Document = dict[str, Any]
Config = Callable[..., Document]
Run = Callable[[Document | Plan], tuple[int, str]]
Advance = Callable[[Child], Ready | Executed | Failed]

KINDS = {"mount": "mnt", "pid": "pid", "uts": "uts"}


@pytest.fixture
def holder(config: Config, start: Any, plan: Any, advance: Advance) -> Child:
    """The init of another container, up to where it waits for its release."""
    child: Child
    child, _ = start(plan(config("sleep", "60")))
    assert isinstance(advance(child), Ready)
    return child


@pytest.fixture
def joined(bundle_rootfs: str, config: Config, holder: Child) -> Callable[..., Plan]:
    """joined(program, argument…, started=…) → a plan in KINDS of the holder, and an ipc namespace of its own."""

    def make(*args: str, started: int, mounts: str = "", terminal: bool = False) -> Plan:
        document = config(*args)
        document["process"]["terminal"] = terminal
        document["mounts"] = []
        del document["hostname"]
        document["linux"]["namespaces"] = [{"type": "ipc"}, {"type": "cgroup"}] + [
            {"type": kind, "path": f"/proc/{holder.pid}/ns/{name}"} for kind, name in KINDS.items()
        ]
        if mounts:
            document["linux"]["namespaces"][2]["path"] = mounts
        spec = load(json.dumps(document).encode())
        return plan_init(spec, [], bundle_rootfs, parent_started=started)

    return make


def test_it_is_in_those_that_it_names_and_in_no_other(run: Run, holder: Child, joined: Callable[..., Plan]) -> None:
    names = ("mnt", "pid", "uts", "ipc")
    script = f"readlink {' '.join(f'/proc/self/ns/{name}' for name in names)}; hostname"
    status, output = run(joined("sh", "-c", script, started=pidfd.start_time(holder.pid)))
    *shown, host = output.splitlines()
    theirs = [os.readlink(f"/proc/{holder.pid}/ns/{name}") for name in names]
    assert (status, host) == (0, "web")
    assert shown[:3] == theirs[:3]
    assert shown[3] not in (theirs[3], os.readlink("/proc/self/ns/ipc"))


@pytest.mark.parametrize("first", ["pid", "mount"])
def test_a_later_process_with_that_number_is_not_taken_for_it(
    run: Run, holder: Child, joined: Callable[..., Plan], first: str
) -> None:
    plan = joined("true", started=pidfd.start_time(holder.pid) + 1)
    if first == "mount":  # which the child finds out, not we
        plan.pid_namespace = None
    with pytest.raises(KernelError, match=f"/proc/{holder.pid}.*: No such process"):
        run(plan)


def test_the_hosts_mounts_are_nobodys_to_join(run: Run, holder: Child, joined: Callable[..., Plan]) -> None:
    with pytest.raises(InputError, match="is the host's mount namespace"):
        run(joined("true", started=0, mounts="/proc/self/ns/mnt"))


def test_a_terminal_is_one_of_the_joined_container(
    start: Any, advance: Advance, wait: Any, holder: Child, joined: Callable[..., Plan]
) -> None:
    child, _ = start(joined("tty", started=pidfd.start_time(holder.pid), terminal=True))
    ready = advance(child)
    assert isinstance(ready, Ready)
    assert ready.console is not None
    child.release()
    assert isinstance(advance(child), Executed)
    assert wait(child) == 0
    assert os.read(ready.console, 100).strip() == b"/dev/pts/0"
    os.close(ready.console)
