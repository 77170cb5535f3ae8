"""What a shim tells of the limits that its container hits, awake and asleep.

The names of Apache Mesos's tests of the same (cgroups2_tests.cpp) are kept where there is one.
"""

import os
import signal
from pathlib import Path

import pytest

from leafshim.api import task
from leafshim.api.shim import CreateOptions, Policy, Pressure
from leafshim.errors import InputError, Unsupported
from tests.harness.puppet import Puppet, ended, figures, follow, kinds, limitation, until, wait_for
from tests.harness.shim import Shim
from tests.kernel.shim.test_limits import update
from tests.kernel.shim.test_sleeper import fall_asleep, wake, workers

MiB = 1 << 20
NO_HUGE_PAGES: dict[str, object] = {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}

MAP = "import mmap\ntry: mmap.mmap(-1, 2 << 20, flags=0x40022)\nexcept OSError: pass"  # MAP_HUGETLB, private, anonymous
EAT = "held = bytearray(b'x' * (96 << 20))"


# What this kernel can everywhere: huge pages.


def test_huge_pages_that_are_refused_are_told_and_end_nothing(web: Shim, puppet: Puppet) -> None:
    puppet.run(NO_HUGE_PAGES)
    puppet.do(MAP)
    found = limitation(until(web, "hugetlb")[-1])
    assert (found.resource, found.scope, found.cgroup) == ("hugetlb.2MB", "own", web.cgroup.path)
    assert figures(found) == {"limit": 0, "refused": 1}
    assert found.message == "no more huge pages of 2MB: its own limit; refused 1 (limit 0)"
    assert web.state().status == task.Status.RUNNING


def test_a_sleeping_shim_wakes_up_for_a_limit_and_rings(web: Shim, puppet: Puppet) -> None:
    puppet.run(NO_HUGE_PAGES)
    fall_asleep(web)
    assert workers(web) == []
    puppet.do(MAP)
    puppet.rung()
    wake(web)
    assert kinds(web) == ["create", "start", "hugetlb"]


def test_a_policy_ends_the_container_and_its_exit_says_why(web: Shim, puppet: Puppet) -> None:
    puppet.run(NO_HUGE_PAGES, Policy(hugetlb="kill"))
    fall_asleep(web)  # the policy is the sleeper's too
    puppet.do(MAP)
    puppet.rung()
    wake(web)
    end = ended(web)
    assert (end.cause, end.status, end.signal) == ("limitation", 137, signal.SIGKILL)
    assert end.limitation is not None
    assert (end.limitation.kind, end.limitation.scope, end.message) == ("hugetlb", "own", end.limitation.message)
    assert kinds(web) == ["create", "start", "hugetlb", "exit"]


def test_a_workload_that_fails_all_the_time_does_not_keep_the_shim_busy(web: Shim, puppet: Puppet) -> None:
    puppet.run(NO_HUGE_PAGES)
    puppet.do(MAP)
    first = until(web, "hugetlb")[-1]
    puppet.do(500 * f"{MAP}\n")
    told = 0
    for count, event in enumerate(follow(web, first.sequence), 1):
        told += figures(limitation(event))["refused"]
        assert count <= 2, "told one by one"
        if told == 500:
            break


def test_the_end_of_a_container_tells_what_was_not_told_yet(web: Shim, puppet: Puppet) -> None:
    puppet.run(NO_HUGE_PAGES)
    puppet.do(MAP)
    first = until(web, "hugetlb")[-1]
    puppet.do(MAP + "\nraise SystemExit(3)")
    rest = until(web, "exit", first.sequence)
    assert [event.type for event in rest] == ["hugetlb", "exit"]
    assert figures(limitation(rest[0]))["refused"] == 1
    assert web.wait() == 3


def test_a_worker_that_is_killed_does_not_make_the_past_happen_again(web: Shim, puppet: Puppet) -> None:
    puppet.run(NO_HUGE_PAGES)
    puppet.do(MAP)
    first = until(web, "hugetlb")[-1]
    for worker in workers(web):
        watched = os.pidfd_open(worker)
        os.kill(worker, signal.SIGKILL)
        os.close(watched)
    wake(web)
    puppet.do(MAP)
    second = until(web, "hugetlb", first.sequence)
    assert [(event.sequence, event.type) for event in second] == [(first.sequence + 1, "hugetlb")]
    assert figures(limitation(second[0]))["refused"] == 1


def test_found_wanting_12_a_watch_that_breaks_is_told_and_set_up_again(web: Shim, puppet: Puppet) -> None:
    puppet.run(NO_HUGE_PAGES)
    web.cgroup.write("cgroup.subtree_control", "-hugetlb")
    fall_asleep(web)  # poll(2) sees that the file is gone when it is called, and is not woken up for it
    puppet.rung()
    wake(web)
    file = "leaf/hugetlb.2MB.events"
    wait_for(web, "watch-broken", f"read {web.cgroup.path}/{file}: No such device")
    web.cgroup.write("cgroup.subtree_control", "+hugetlb")
    wait_for(web, "watch-restored", file)
    fall_asleep(web)
    puppet.do(MAP)
    puppet.rung()
    wake(web)
    assert figures(limitation(until(web, "hugetlb", 2)[-1]))["refused"] == 1


def test_what_an_update_limits_is_watched_too(web: Shim, puppet: Puppet) -> None:
    puppet.run()
    update(web, hugepageLimits=NO_HUGE_PAGES["hugepageLimits"])
    fall_asleep(web)
    puppet.do(MAP)
    puppet.rung()
    wake(web)
    assert kinds(web)[-1] == "hugetlb"


def test_nothing_is_watched_any_more_once_it_has_ended(web: Shim, puppet: Puppet) -> None:
    """OomListenerDestruction, OomFutureDiscard: whoever waited lets go, and the cgroup can go."""
    puppet.run(NO_HUGE_PAGES)
    fall_asleep(web)
    wake(web)
    assert "hugetlb.2MB.events" in opened(web)
    web.kill()
    web.wait()
    fall_asleep(web)
    wake(web)
    assert opened(web) & {"hugetlb.2MB.events", "memory.events", "pids.events.local"} == set()
    web.delete()
    assert not web.cgroup.exists()


def opened(web: Shim) -> set[str]:
    """The names of the files that the sleeper has open, while a worker has answered and nothing is under way."""
    web.info()
    return {os.path.basename(os.readlink(each)) for each in Path(f"/proc/{web.pid}/fd").iterdir()}


def test_a_policy_that_cannot_be_followed_is_refused(web: Shim) -> None:
    for policy, message in (
        (Policy(oom="perhaps"), r"^policy\.oom: 'perhaps': must be one of event, kill$"),
        (Policy(pressure=[Pressure(resource="disk", stall=1, window=10**6)]), "^pressure disk: must be of one of"),
        (Policy(pressure=[Pressure(resource="io", stall=1, window=10**5)]), r"window must be 500ms to 10s, not 0\.1 s"),
        (Policy(pressure=[Pressure(resource="io", stall=2 * 10**6, window=10**6)]), "at most the window"),
        (Policy(pressure=2 * [Pressure(resource="io", stall=5, window=10**6)]), "^policy.pressure: io is given twice"),
    ):
        with pytest.raises(InputError, match=message):
            web.create("true", options=CreateOptions(policy=policy))
        assert not web.cgroup.exists()
    with pytest.raises(Unsupported, match=r"^policy\.hugetlb: kill: the container has no cgroup2 controller hugetlb$"):
        web.create("true", options=CreateOptions(policy=Policy(hugetlb="kill")))
    assert not web.cgroup.exists()
    web.create("true")
