"""The nursery goes on with the code that is installed, and shims of that code follow."""

import json
import os
import select
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import leafshim
from leafd.describe import describe
from leafd.session import attach
from leafshim.errors import StateError
from leafshim.kernel import pidfd
from tests.harness.release import Release
from tests.harness.sessions import end_input

if TYPE_CHECKING:
    from tests.harness.leafd import Leafd


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """The next release, installed."""
    return Release(tmp_path / "next", "99.1.0")


def restarted(leafd: "Leafd", release: Release) -> None:
    """leafd runs on with the code of that release; nursery and shims stay as they are."""
    leafd.kill()
    leafd.bin = release.bin
    leafd.start()


def test_an_installation_takes_over_nursery_and_shims(leafd: "Leafd", release: Release) -> None:
    with leafd.client as client:
        program = "while read line; do echo got $line; done; exit 3"
        made = client.create("web", describe(["sh", "-c", program]), start=True, stdin=True)
        nursery = client.version().nursery_pid
    restarted(leafd, release)
    with leafd.client as client:
        assert client.version().nursery_version == client.inspect("web").shim_version == leafshim.__version__
        outcome = leafd.ctl("upgrade", "--all")
        assert outcome.returncode == 0, outcome.stderr
        first, second = outcome.stdout.splitlines()
        assert first == f"nursery: {nursery} ({leafshim.__version__} → {release.version})"
        assert second.startswith(f"web: shim {made.shim_pid} ({leafshim.__version__}) → ")
        now = client.inspect("web")
        assert (now.pid, now.shim_version, now.problem) == (made.pid, release.version, "")
        version = client.version()
        assert (version.nursery_pid, version.nursery_version) == (nursery, release.version)
        told = json.loads(leafd.ctl("--json", "version").stdout)
        assert told == dict.fromkeys(("leafctl", "leafd", "nursery"), release.version)
        with attach(str(leafd.socket), "web", stdin=True) as person:
            person.send(b"one\n")
            assert next(iter(person)).data == b"got one\n"
            end_input(person)
        ended = client.wait("web")
        assert ended.exit is not None
        assert ended.exit.status == 3
        client.create("new", describe(["sleep", "1000"]), start=True)
        assert client.inspect("new").shim_version == release.version


def test_what_was_kept_and_forked_before_is_kept_and_reaped_after(leafd: "Leafd", release: Release) -> None:
    with leafd.client as client:
        made = client.create("web", describe(["sh", "-c", "read line; exit 6"]), start=True, stdin=True)
    restarted(leafd, release)
    with leafd.client as client:
        client.renew()
        former = pidfd.pidfd_open(made.shim_pid)
        os.kill(made.shim_pid, signal.SIGKILL)  # forked by the former code, adopted with what that kept
        select.select([former], [], [])
        os.close(former)
        with leafd.client as watcher, watcher.events(follow=True, container_id="web") as events:
            assert any(event.type == "adopted" for event in events)
        assert client.inspect("web").shim_version == release.version
        with attach(str(leafd.socket), "web", stdin=True) as person:
            end_input(person)
        ended = client.wait("web")
        assert ended.exit is not None
        assert ended.exit.status == 6


@pytest.mark.parametrize(
    "code", ["raise RuntimeError('of a release that is broken')\n", "import time; time.sleep(1000)\n"]
)
def test_code_that_cannot_take_over_leaves_the_nursery_in_charge(leafd: "Leafd", release: Release, code: str) -> None:
    with leafd.client as client:
        made = client.create("web", describe(["sleep", "1000"]), start=True)
        nursery = client.version().nursery_pid
    (release.package / "renewal.py").write_text(code)
    config = leafd.root.parent / "leafd.toml"
    config.write_text("renewal_deadline = 2.0\n")
    leafd.kill()
    leafd.bin = release.bin
    leafd.start("--config", str(config))
    with leafd.client as client:
        with pytest.raises(
            StateError, match=r"cannot take the nursery over: .*(that is broken|came to no end in time)"
        ):
            client.renew()
        failed = leafd.ctl("upgrade", "--all")
        assert failed.returncode == 1
        assert "cannot take the nursery over" in failed.stderr
        version = client.version()
        assert (version.nursery_pid, version.nursery_version) == (nursery, leafshim.__version__)
        assert client.inspect("web").shim_pid == made.shim_pid
        client.upgrade("web")
        assert client.inspect("web").shim_version == leafshim.__version__


def test_a_renewal_by_the_same_code_changes_nothing(leafd: "Leafd") -> None:
    with leafd.client as client:
        client.create("web", describe(["sleep", "1000"]), start=True)
        for _ in range(3):
            done = client.renew()
            assert done.former_version == done.version == leafshim.__version__
        client.upgrade("web")
        ended = client.stop("web", grace=0)
        assert ended.exit is not None
        assert ended.exit.cause == "killed"
