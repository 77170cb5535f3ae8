"""leafctl run --parent: what its flags come to, and what does not go together."""

import json
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.harness.leafd import Leafd, Terminal


def _succeed(leafd: "Leafd", *arguments: str) -> str:
    result = leafd.ctl(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.fixture
def web(leafd: "Leafd") -> "Leafd":
    """A leafd with a container `web`, which runs as nobody and has no network."""
    flags = ("--user", "nobody", "--net", "none", "--env", "A=b", "--cwd", "/usr", "--hostname", "around")
    _succeed(leafd, "run", "-d", "--name", "web", *flags, "--", "sleep", "1000")
    return leafd


def test_a_family_on_the_command_line(web: "Leafd") -> None:
    assert _succeed(web, "run", "-d", "--parent", "web", "--name", "db", "--", "sleep", "1000") == "web/db\n"
    assert _succeed(web, "run", "-d", "--name", "web/db/log", "--", "sleep", "1000") == "web/db/log\n"
    generated = _succeed(web, "run", "-d", "--parent", "web", "--", "sleep", "1000").strip()
    assert generated.startswith("web/")
    shown = {each["id"]: each for each in json.loads(_succeed(web, "--json", "ps"))}
    assert {
        container_id: (each["parent"], each["share_cgroups"], each["class"]) for container_id, each in shown.items()
    } == {
        "web": (None, False, "default"),
        "web/db": ("web", True, "default"),
        "web/db/log": ("web/db", True, "default"),
        generated: ("web", True, "default"),
    }
    _succeed(web, "stop", "-t", "0", "web")
    assert web.inspect("web/db")["exit_status"] == 137
    _succeed(web, "rm", "web")
    assert json.loads(_succeed(web, "--json", "ps")) == []


def test_the_network_and_the_user_are_the_parents_unless_asked_otherwise(web: "Leafd") -> None:
    around = os.readlink(f"/proc/{web.inspect('web')['pid']}/ns/net")
    script = "readlink /proc/self/ns/net; id -un; hostname"
    run = ("run", "--rm", "--parent", "web", "--name", "db")
    assert _succeed(web, *run, "--", "sh", "-c", script).split() == [around, "nobody", "db"]
    ours = os.readlink("/proc/self/ns/net")
    assert _succeed(web, *run, "--net", "host", "--user", "root", "--", "sh", "-c", script).split() == [
        ours,
        "root",
        "db",
    ]
    own, *_ = _succeed(web, *run, "--net", "none", "--", "sh", "-c", script).split()
    assert own not in (around, ours)
    assert _succeed(web, *run, "--share", "uts,ipc", "--share", "net", "--", "hostname") == "around\n"


def test_names_of_users_are_those_of_the_files_that_it_has(leafd: "Leafd") -> None:
    known = "echo mine:x:1234:1235::/:/bin/sh >>/etc/passwd; echo ready; exec sleep 1000"
    _succeed(leafd, "run", "-d", "--name", "web", "--", "sh", "-c", known)
    with leafd.client as client, client.logs("web", follow=True) as log:
        next(iter(log))
    run = ("run", "--rm", "--parent", "web", "--name", "db", "--user", "mine")
    assert _succeed(leafd, *run, "--class", "debug", "--", "id", "-g") == "1235\n"
    refused = leafd.ctl(*run, "--", "id", "-g")
    assert (refused.returncode, "mine" in refused.stderr) == (125, True), "which has the host's"


def test_a_debug_container_at_a_terminal(web: "Leafd", terminal: "type[Terminal]") -> None:
    person = terminal(web.command("run", "-it", "--rm", "--parent", "web", "--class", "debug", "--", "sh"))
    person.expect(b"$ ")
    person.type(b"echo $A $PWD $(id -un) $(hostname) $(cat /proc/1/comm) $(tty)\n")
    person.expect(b"\r\nb /usr nobody around sleep /dev/pts/0\r\n")
    person.type(b"exit 4\n")
    assert person.status() == 4


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--share", "net"], "--share needs --parent"),
        (["--share-cgroups"], "--share-cgroups needs --parent"),
        (["--class", "debug"], "--class debug needs --parent"),
        (["--parent", "web", "--share", "net,time"], "Invalid value for '--share': 'time' must be of net, ipc"),
        (["--parent", "web", "--share", "net", "--net", "none"], "--net does not go with the network of its parent"),
        (["--parent", "web", "--class", "debug", "--hostname", "x"], "a host name of its own: does not go with"),
        (["--parent", "web", "--share", "mnt,pid", "--mount", "type=tmpfs,dst=/x"], "mounts and devices of its own"),
        (["--parent", "web", "--share", "mnt"], "share: web/x: who shares mnt must share pid"),
        (["--parent", "web", "--hugetlb", "2MB=4M"], "linux.resources: web/x shares the cgroups of web, and so has no"),
        (["--parent", "nobody"], "nobody: no such container"),
        (["--parent", "web", "--class", "debug", "--no-share-cgroups"], "share_cgroups: web/x: a debug container"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(web: "Leafd", flags: list[str], complaint: str) -> None:
    refused = web.ctl("run", "--name", "x", *flags, "--", "true")
    assert refused.returncode == 125
    assert refused.stderr.startswith(f"leafctl: run: {complaint}")
    assert [each["id"] for each in json.loads(_succeed(web, "--json", "ps"))] == ["web"]
