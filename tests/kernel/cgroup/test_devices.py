"""Device programs on a real cgroup: what a process in it can open and make. The names are those of Mesos's tests."""

import errno
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from leafshim.cgroup import devices
from leafshim.cgroup.device_rules import DEFAULT, Access, Entry, of_rules
from leafshim.cgroup.devices import Devices, configure, prepare, read
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import KernelError, StateError, Unsupported
from leafshim.kernel import bpf
from leafshim.spec import DeviceRule

Spawn = Callable[..., tuple[int, int]]
Ask = Callable[[Cgroup, str, int], bool]

NULL = "/dev/null"
READ, WRITE, BOTH = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
DENY_ALL = DeviceRule(False, "a", None, None, "rwm")


def access(allow: Iterable[str] = (), deny: Iterable[str] = ()) -> Access:
    return Access.of(map(Entry.parse, allow), map(Entry.parse, deny))


def attached(cgroup: Cgroup) -> tuple[int, ...]:
    directory = cgroup.open()
    try:
        return bpf.attached(directory, bpf.CGROUP_DEVICE)
    finally:
        os.close(directory)


@pytest.fixture
def opens(spawn: Spawn) -> Ask:
    """opens(cgroup, path, flags): whether a process in the cgroup may open the device. A refusal is EPERM."""

    def ask(cgroup: Cgroup, path: str, flags: int) -> bool:
        def body() -> None:
            try:
                os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
            except OSError as error:
                os._exit(error.errno or 0)

        pid, _ = spawn(body, cgroup=cgroup)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, errno.EPERM)
        return status == 0

    return ask


@pytest.fixture
def makes(spawn: Spawn, tmp_path: Path) -> Callable[[Cgroup, int, int], bool]:
    """makes(cgroup, kind, number): whether a process in the cgroup may make that device node."""

    def ask(cgroup: Cgroup, kind: int, number: int) -> bool:
        path = tmp_path / "node"

        def body() -> None:
            try:
                os.mknod(path, kind | 0o600, number)
            except PermissionError:
                os._exit(errno.EPERM)

        pid, _ = spawn(body, cgroup=cgroup)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, errno.EPERM)
        path.unlink(missing_ok=True)
        return status == 0

    return ask


@pytest.mark.parametrize(
    ("lists", "granted", "refused"),
    [
        pytest.param(access(), [], [READ, WRITE, BOTH], id="nothing is allowed by default"),
        pytest.param(access([], ["c 1:3 rwm"]), [], [BOTH], id="deny"),
        pytest.param(access(["c 1:3 rwm"]), [BOTH], [], id="allow"),
        pytest.param(access(["c 1:3 r"]), [READ], [BOTH], id="allow to read"),
        pytest.param(access(["c 1:3 w"]), [WRITE], [BOTH, READ], id="allow to write"),
        pytest.param(access(["c 1:3 w", "b 1:3 w"], ["c 1:3 w"]), [], [WRITE], id="on both lists"),
        pytest.param(access(["c 1:3 w"], ["b 1:3 w"]), [WRITE], [BOTH, READ], id="deny another type"),
        pytest.param(access(["b 1:3 rwm"]), [], [BOTH, READ], id="allow another type"),
        pytest.param(access(["a *:* rwm"]), [WRITE, BOTH, READ], [], id="allow all"),
        pytest.param(access(["a *:* rwm"], ["c 1:3 w"]), [READ], [WRITE, BOTH], id="allow all but one access"),
        pytest.param(access([], ["a *:* rwm"]), [], [WRITE, BOTH, READ], id="deny all"),
        pytest.param(access(["a *:* rwm"], ["a *:* rwm"]), [], [WRITE, BOTH, READ], id="allow and deny all"),
        pytest.param(access(["a *:* rw"], ["c 1:3 w"]), [READ], [WRITE, BOTH], id="deny what writes"),
    ],
)
def test_device_controller(cgroup: Cgroup, opens: Ask, lists: Access, granted: list[int], refused: list[int]) -> None:
    """DeviceController, its 13 cases; and none of them holds any more once the program is detached."""
    configure(cgroup, lists)
    assert [flags for flags in granted if not opens(cgroup, NULL, flags)] == []
    assert [flags for flags in refused if opens(cgroup, NULL, flags)] == []
    detach(cgroup)
    assert [flags for flags in granted + refused if not opens(cgroup, NULL, flags)] == []


def detach(cgroup: Cgroup) -> None:
    [number] = attached(cgroup)
    directory, program = cgroup.open(), bpf.open_id(number)
    try:
        bpf.detach(directory, bpf.CGROUP_DEVICE, program)
    finally:
        os.close(program)
        os.close(directory)


def test_wildcards_and_other_devices(cgroup: Cgroup, opens: Ask) -> None:
    configure(cgroup, access(["c 1:* rw"], ["c *:7 w", "c 1:9 rwm"]))
    assert opens(cgroup, "/dev/zero", BOTH)
    assert opens(cgroup, "/dev/full", READ)
    assert not opens(cgroup, "/dev/full", BOTH)
    assert not opens(cgroup, "/dev/urandom", READ)
    assert not opens(cgroup, "/dev/ptmx", BOTH)


def test_the_defaults(cgroup: Cgroup, opens: Ask, makes: Callable[[Cgroup, int, int], bool]) -> None:
    prepare(cgroup, [DENY_ALL])
    for name in ("null", "zero", "full", "random", "urandom", "ptmx"):
        assert opens(cgroup, f"/dev/{name}", BOTH), name
    assert makes(cgroup, stat.S_IFBLK, os.makedev(8, 0))
    assert makes(cgroup, stat.S_IFCHR, os.makedev(10, 200))
    assert not opens(cgroup, "/dev/kmsg", READ)
    assert not opens(cgroup, "/dev/console", WRITE)


def test_to_make_a_node_is_an_access_of_its_own(cgroup: Cgroup, makes: Callable[[Cgroup, int, int], bool]) -> None:
    configure(cgroup, access(["c 1:3 rw", "b *:* m"]))
    assert makes(cgroup, stat.S_IFBLK, os.makedev(8, 0))
    assert not makes(cgroup, stat.S_IFCHR, os.makedev(1, 3))


def test_rules_of_a_description(cgroup: Cgroup, opens: Ask) -> None:
    prepare(cgroup, [])
    assert attached(cgroup) == ()
    prepare(cgroup, [DENY_ALL, DeviceRule(True, "c", 1, 11, "r")])
    assert opens(cgroup, "/dev/kmsg", READ)
    assert not opens(cgroup, "/dev/kmsg", WRITE)


def test_atomic_replace(cgroup: Cgroup, opens: Ask) -> None:
    """AtomicReplace, Reconfigure_Normal: one program at any time, and it is the new one."""
    assert attached(cgroup) == ()
    configure(cgroup, access([], ["c 1:3 w"]))
    [first] = attached(cgroup)
    configure(cgroup, access(["c 1:3 w"]))
    [second] = attached(cgroup)
    assert first != second
    assert opens(cgroup, NULL, WRITE)
    assert not opens(cgroup, NULL, READ)
    detach(cgroup)
    assert opens(cgroup, NULL, BOTH)


def test_a_replacement_leaves_no_gap(cgroup: Cgroup, spawn: Spawn) -> None:
    """A process opens what is denied before and after, all the time while programs come and go."""
    lists = [access(["c 1:3 r"]), access(["c 1:3 r", "c 1:5 r"])]
    configure(cgroup, lists[0])
    ours, theirs = os.pipe()

    def body() -> None:
        os.close(ours)
        refused = 0
        while True:
            try:
                os.close(os.open(NULL, WRITE))
            except PermissionError:
                refused += 1
                if refused == 1000:
                    os.write(theirs, b"1")
            else:
                os._exit(1)

    pid, pidfd = spawn(body, cgroup=cgroup)
    os.close(theirs)
    assert os.read(ours, 1) == b"1"
    for turn in range(200):
        configure(cgroup, lists[turn % 2])
    os.close(ours)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    assert pidfd >= 0


def test_get_bpf_fd_by_id(cgroup: Cgroup) -> None:
    """GetBpfFdById."""
    configure(cgroup, access())
    [number] = attached(cgroup)
    program = bpf.open_id(number)
    try:
        found = bpf.describe(program)
    finally:
        os.close(program)
    assert (found.id, found.type, found.name) == (number, bpf.PROG_TYPE_CGROUP_DEVICE, devices.NAME)
    detach(cgroup)
    with pytest.raises(KernelError, match="No such file"):
        bpf.open_id(number)


@pytest.mark.parametrize(
    "lists",
    [
        access(),
        Access.of(DEFAULT),
        access(["a *:* rwm"]),
        access(["a *:* m"], ["c 3:1 m"]),
        access(["c 1:3 rm"], ["a *:* w"]),  # where the verifier finds dead code
        access([f"c {major}:{minor} rw" for major in range(20) for minor in range(20)], ["b *:* rwm"]),
    ],
    ids=["nothing", "defaults", "everything", "wildcard", "dead code", "many"],
)
def test_recover(cgroup: Cgroup, lists: Access) -> None:
    """Recover, Configure_Normal, Configure_AllowWildcard: what is in force is read from the kernel alone."""
    assert read(cgroup) is None
    assert Devices().status(cgroup) == {}
    configure(cgroup, lists)
    assert read(cgroup) == lists
    assert Devices().status(cgroup) == {"devices": str(lists)}
    Devices().recover(cgroup)


def test_a_nested_cgroup_has_no_more_than_the_one_around_it(cgroup: Cgroup, opens: Ask) -> None:
    nested = cgroup.child("nested")
    nested.create()
    configure(cgroup, access(["c 1:3 rw"]))
    configure(nested, access(["a *:* rwm"], ["c 1:3 w"]))
    assert read(nested) != read(cgroup)
    assert opens(nested, NULL, READ)
    assert not opens(nested, NULL, WRITE)
    assert not opens(nested, "/dev/zero", READ)


def test_a_strangers_program_stays(cgroup: Cgroup, opens: Ask) -> None:
    attach(cgroup, (bpf.set_to(0, 1), bpf.EXIT))
    configure(cgroup, access(["c 1:3 r"]))
    configure(cgroup, access(["c 1:3 rw"]))
    assert len(attached(cgroup)) == 2
    assert read(cgroup) == access(["c 1:3 rw"])
    assert opens(cgroup, NULL, BOTH)


def test_two_of_ours_are_an_error(cgroup: Cgroup) -> None:
    for lists in (access(), access(["c 1:3 r"])):
        attach(cgroup, devices.compile_access(lists))
    with pytest.raises(StateError, match="has 2 device programs of ours"):
        Devices().recover(cgroup)


def attach(cgroup: Cgroup, code: bpf.Code) -> None:
    directory = cgroup.open()
    program = bpf.load(bpf.PROG_TYPE_CGROUP_DEVICE, "test", code)
    try:
        bpf.attach(directory, bpf.CGROUP_DEVICE, program)
    finally:
        os.close(program)
        os.close(directory)


def test_without_the_right_only_what_was_asked_for_is_an_error(cgroup: Cgroup, spawn: Spawn) -> None:
    def body() -> None:
        os.setresuid(65534, 65534, 65534)
        prepare(cgroup, [DENY_ALL])
        with pytest.raises(Unsupported, match="device rules: the kernel takes no cgroup device programs from us"):
            prepare(cgroup, [DENY_ALL, DeviceRule(True, "c", 10, 229, "rw")])
        Devices().recover(cgroup)
        assert Devices().status(cgroup) == {}

    pid, _ = spawn(body)
    assert os.waitpid(pid, 0)[1] == 0
    assert attached(cgroup) == ()


def test_what_the_verifier_says_is_in_the_error() -> None:
    with pytest.raises(bpf.Rejected, match=r"bpf PROG_LOAD bad: Permission denied: .*R3 !read_ok") as caught:
        bpf.load(bpf.PROG_TYPE_CGROUP_DEVICE, "bad", [bpf.load_word(0, 3, 0), bpf.EXIT])
    assert "r0 = *(u32 *)(r3 +0)" in caught.value.log


def test_the_defaults_are_what_an_empty_list_of_allowed_devices_gives() -> None:
    assert of_rules((DENY_ALL,)) == Access.of(DEFAULT)
