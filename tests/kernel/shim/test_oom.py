"""OOM kills, forks beyond a limit and pressure, where the controllers are: what the shim tells, and what ends."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from leafshim.api import shim, task
from leafshim.api.shim import CreateOptions, Policy, Pressure
from leafshim.cgroup.controller import enable_down
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from tests.harness.puppet import Puppet, ended, figures, kinds, limitation, until
from tests.harness.shim import Shim
from tests.kernel.shim.test_limits import update
from tests.kernel.shim.test_sleeper import fall_asleep, wake, workers

pytestmark = pytest.mark.vm

MiB = 1 << 20
EAT = f"held = bytearray(b'x' * {96 * MiB})"
SMALL: dict[str, object] = {"memory": {"limit": 48 * MiB}}
LARGE: dict[str, object] = {"memory": {"limit": 512 * MiB}}
BUSY = "while True: pass"


@pytest.fixture
def above(web: Shim, tmp_path: Path) -> Iterator[Cgroup]:
    """A cgroup above the container's, with a limit of memory; made before the container is."""
    above = web.cgroup
    above.create()
    enable_down(find_mount(), above, ["memory"])
    above.write("memory.max", str(48 * MiB))
    web.cgroup = above.child("web")
    yield above
    web.client.close()
    above.remove_tree(30)


def test_oom_detection(web: Shim, puppet: Puppet) -> None:
    """OomDetection: the limit of its own, hit by init."""
    puppet.run(SMALL)
    puppet.do(EAT)
    end = ended(web)
    assert (end.cause, end.status, end.oom_kills) == ("oom", 137, 1)
    assert end.limitation is not None
    assert (end.limitation.kind, end.limitation.resource) == ("oom", "memory")
    assert (end.limitation.scope, end.limitation.cgroup) == ("own", web.cgroup.path)
    told = figures(end.limitation)
    assert (told["limit"], told["kills"]) == (48 * MiB, 1)
    assert told["peak"] > 40 * MiB
    assert told.keys() == {"anon", "file", "kernel", "current", "peak", "limit", "kills"}
    assert end.message == end.limitation.message
    assert end.message.startswith("out of memory: its own limit; killed 1 (anon ")
    events = web.client.call(shim.COLLECT, shim.EventsRequest()).events
    assert [event.type for event in events] == ["create", "start", "oom", "exit"]
    assert events[2].limitation == end.limitation


def test_found_wanting_09_an_oom_while_the_shim_sleeps_is_told_before_the_exit(web: Shim, puppet: Puppet) -> None:
    puppet.run(SMALL)
    fall_asleep(web)
    puppet.do(EAT)
    puppet.rung()
    wake(web)
    assert ended(web).cause == "oom"
    assert kinds(web) == ["create", "start", "oom", "exit"]


def test_an_oom_of_a_mere_child_is_an_event(web: Shim, puppet: Puppet) -> None:
    pid = puppet.run(SMALL)
    fall_asleep(web)
    puppet.fork(EAT)
    puppet.rung()
    wake(web)
    found = limitation(until(web, "oom")[-1])
    assert (found.scope, figures(found)["kills"]) == ("own", 1)
    fall_asleep(web)  # which it does only once it is sure that the victim was another
    os.kill(pid, signal.SIGKILL)
    wake(web)
    end = ended(web)
    assert (end.cause, end.limitation, end.oom_kills) == ("signalled", None, 1)


def test_an_oom_of_an_exec_is_the_execs(web: Shim, puppet: Puppet) -> None:
    puppet.run(SMALL)
    web.add_exec("eat", "python3", "-c", EAT, stdin="", stdout="")
    web.start("eat")
    assert web.wait("eat") == 137
    events = until(web, "exec-exited")
    assert [event.type for event in events][-2:] == ["oom", "exec-exited"]
    end = events[-1].exit
    assert end is not None
    assert end.cause == "oom"
    assert end.limitation == events[-2].limitation
    assert web.state().status == task.Status.RUNNING


def test_the_policy_kill_ends_the_container_with_any_process(web: Shim, puppet: Puppet) -> None:
    puppet.run(SMALL, Policy(oom="kill"))
    assert web.cgroup.child("leaf").read("memory.oom.group") == "1\n"
    fall_asleep(web)
    puppet.fork(EAT)
    puppet.rung()
    wake(web)
    end = ended(web)
    assert end.cause == "oom"
    assert end.limitation is not None
    assert end.limitation.scope == "own"
    assert kinds(web) == ["create", "start", "oom", "exit"]


def test_the_policy_kill_does_not_need_the_kernel_to_kill_all(web: Shim, puppet: Puppet) -> None:
    puppet.run(SMALL, Policy(oom="kill"))
    web.cgroup.child("leaf").write("memory.oom.group", "0")
    puppet.fork(EAT)
    end = ended(web)
    assert (end.cause, end.oom_kills) == ("oom", 1)


def test_memory_oom_group_of_the_description_kills_init_too(web: Shim, puppet: Puppet) -> None:
    puppet.run({**SMALL, "unified": {"memory.oom.group": "1"}})
    puppet.fork(EAT)
    end = ended(web)
    assert end.cause == "oom"
    assert end.oom_kills == 3  # of two processes: the kernel counts the first victim of a group once more


def test_a_limit_above_is_named(web: Shim, above: Cgroup, puppet: Puppet) -> None:
    puppet.run(LARGE)
    puppet.do(EAT)
    end = ended(web)
    assert end.limitation is not None
    assert (end.cause, end.limitation.scope, end.limitation.cgroup) == ("oom", "ancestor", above.path)
    assert figures(end.limitation)["limit"] == 48 * MiB
    assert f"the limit of {above.path}" in end.message


def test_a_host_without_memory_is_named(web: Shim, puppet: Puppet) -> None:
    puppet.run()
    first = "open('/proc/self/oom_score_adj', 'w').write('1000')"  # before anything else of the guest
    puppet.do(f"{first}\nheld = []\nwhile True: held.append(bytearray(b'x' * {8 * MiB}))")
    end = ended(web)
    assert end.limitation is not None
    assert (end.cause, end.limitation.scope, end.limitation.cgroup) == ("oom", "host", "")
    assert "limit" not in figures(end.limitation)


def test_found_wanting_08_an_oom_of_a_nested_container_is_not_its_parents(
    web: Shim, puppet: Puppet, tmp_path_factory: pytest.TempPathFactory
) -> None:
    puppet.run({"memory": {"limit": 200 * MiB}})
    for resources, scope in ((SMALL, "own"), (LARGE, "ancestor")):
        nested = Shim(tmp_path_factory.mktemp("nested"))
        nested.cgroup = Cgroup(f"{web.cgroup.path}/mesos/db")
        eater = Puppet(nested, tmp_path_factory.mktemp("eater"))
        try:
            eater.run(resources)
            eater.do(EAT.replace(str(96 * MiB), str(400 * MiB)))
            end = ended(nested)
            assert end.limitation is not None
            assert (end.cause, end.limitation.scope) == ("oom", scope)
            assert end.limitation.cgroup == (nested if scope == "own" else web).cgroup.path
        finally:
            eater.close()
            nested.close()
    fall_asleep(web)
    wake(web)  # each worker looks at everything when it begins
    assert web.state().status == task.Status.RUNNING
    web.kill()
    assert ended(web).cause == "killed"
    assert kinds(web) == ["create", "start", "exit"]


def test_found_wanting_08_a_past_oom_is_past_for_a_new_worker(web: Shim, puppet: Puppet) -> None:
    puppet.run(SMALL, Policy())
    puppet.fork(EAT)
    last = until(web, "oom")[-1].sequence
    for worker in workers(web):
        os.kill(worker, signal.SIGKILL)
    wake(web)
    puppet.fork("pass")
    web.kill(signal.SIGTERM)
    web.kill()
    assert [event.type for event in until(web, "exit", last)] == ["exit"]
    assert ended(web).cause == "killed"


def test_forks_that_fail_are_told(web: Shim, puppet: Puppet) -> None:
    puppet.run({"pids": {"limit": 1}})
    puppet.do("import os\ntry: os.fork()\nexcept OSError: pass")
    found = limitation(until(web, "pids")[-1])
    assert (found.resource, found.scope, found.cgroup) == ("pids", "own", web.cgroup.path)
    assert figures(found) == {"current": 1, "limit": 1, "failed": 1}
    assert web.state().status == task.Status.RUNNING


def test_forks_that_fail_end_it_by_policy(web: Shim, puppet: Puppet) -> None:
    puppet.run({"pids": {"limit": 1}}, Policy(pids="kill"))
    fall_asleep(web)
    puppet.do("import os\nwhile True:\n try: os.fork()\n except OSError: pass")
    puppet.rung()
    wake(web)
    end = ended(web)
    assert end.limitation is not None
    assert (end.cause, end.limitation.kind) == ("limitation", "pids")


def test_pressure_is_told(web: Shim, puppet: Puppet) -> None:
    trigger = Pressure(resource="cpu", stall=50_000, window=1_000_000)
    puppet.run({"cpu": {"quota": 10_000, "period": 100_000}}, Policy(pressure=[trigger]))
    fall_asleep(web)
    puppet.do(f"import subprocess; subprocess.Popen(['python3', '-c', '{BUSY}'])")
    puppet.rung()
    wake(web)
    found = limitation(until(web, "pressure")[-1])
    assert (found.resource, found.scope, found.cgroup) == ("cpu", "own", web.cgroup.path)
    told = figures(found)
    assert (told["stall"], told["window"], told["full"]) == (50_000, 1_000_000, 0)
    assert told["total"] > 0
    assert web.state().status == task.Status.RUNNING


def test_pressure_ends_it_by_policy(web: Shim) -> None:
    """Of two triggers the one whose policy it is: the other alone would be an event."""
    mild = Pressure(resource="cpu", stall=50_000, window=1_000_000)
    strict = Pressure(resource="cpu", stall=800_000, window=1_000_000, action="kill")
    web.run("sh", "-c", "while :; do :; done", options=CreateOptions(policy=Policy(pressure=[mild, strict])))
    update(web, cpu={"quota": 10_000, "period": 200_000})
    end = ended(web)
    assert end.limitation is not None
    assert (end.cause, end.limitation.kind, end.limitation.resource) == ("limitation", "pressure", "cpu")
    assert figures(end.limitation)["stall"] == 800_000


def test_a_time_limit_is_told_like_any_other(web: Shim) -> None:
    web.run("sleep", "1000", options=CreateOptions(timeout=50_000_000))
    assert web.wait() == 137
    end = ended(web)
    assert end.limitation is not None
    assert (end.cause, end.limitation.kind, figures(end.limitation)) == ("limitation", "timeout", {"limit": 50_000_000})
    assert kinds(web) == ["create", "start", "timeout", "exit"]
