"""What a child says about itself, read back from the kernel."""

import errno
import os
import resource
import signal
from collections.abc import Callable

import pytest

from leafshim.errors import InputError, KernelError
from leafshim.kernel import capabilities, namespaces, process, syscalls

Spawn = Callable[..., tuple[int, int]]


def status(field: str) -> str:
    with open("/proc/self/status") as file:
        return next(line.partition(":")[2].strip() for line in file if line.startswith(field + ":"))


def in_child(spawn: Spawn, body: Callable[[], object], flags: int = 0) -> None:
    pid, _ = spawn(body, flags=flags)
    assert os.waitpid(pid, 0)[1] == 0


def set_ambient(ambient: int) -> None:
    for arguments in capabilities.setting_ambient(ambient):
        syscalls.prctl(*arguments)


def test_ids_are_exactly_those(spawn: Spawn) -> None:
    def become() -> None:
        syscalls.setgroups(3, process.groups([7, 4_294_967_294, 9]))
        process.set_gid(1001)
        process.set_uid(1002)
        assert os.getresuid() == (1002,) * 3
        assert os.getresgid() == (1001,) * 3
        assert sorted(os.getgroups()) == [7, 9, 4_294_967_294]
        with pytest.raises(KernelError, match="setresuid: Operation not permitted"):
            process.set_uid(0)

    in_child(spawn, become)


def test_no_groups_at_all(spawn: Spawn) -> None:
    def become() -> None:
        syscalls.setgroups(0, process.groups([]))
        assert os.getgroups() == []

    in_child(spawn, become)


def test_limits(spawn: Spawn) -> None:
    def limit() -> None:
        syscalls.setrlimit(process.RLIMIT["RLIMIT_NOFILE"], process.limit(100, 200))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (100, 200)
        syscalls.setrlimit(process.RLIMIT["RLIMIT_CPU"], process.limit(5, process.RLIM_INFINITY))
        assert resource.getrlimit(resource.RLIMIT_CPU) == (5, resource.RLIM_INFINITY)
        with pytest.raises(KernelError) as raised:
            syscalls.setrlimit(process.RLIMIT["RLIMIT_NOFILE"], process.limit(300, 200))
        assert raised.value.errno == errno.EINVAL

    in_child(spawn, limit)


def test_numbers_of_limits_are_the_kernels() -> None:
    for name, number in process.RLIMIT.items():
        assert getattr(resource, name, number) == number


def test_names(spawn: Spawn) -> None:
    def rename() -> None:
        syscalls.sethostname(b"leaf", 4)
        process.set_domain_name("example")
        process.set_name("shim:a-long-container-id")
        assert os.uname().nodename == "leaf"
        with open("/proc/sys/kernel/domainname") as file:
            assert file.read() == "example\n"
        assert status("Name") == "shim:a-long-con"

    in_child(spawn, rename, namespaces.CLONE_NEWUTS)


def test_not_dumpable(spawn: Spawn) -> None:
    def hide() -> None:
        process.set_uid(1002)
        process.set_dumpable(True)
        assert os.stat("/proc/self/status").st_uid == 1002
        process.set_dumpable(False)
        assert os.stat("/proc/self/status").st_uid == 0

    in_child(spawn, hide)


def test_no_new_privileges(spawn: Spawn) -> None:
    def give_up() -> None:
        syscalls.prctl(*process.NO_NEW_PRIVILEGES)
        assert status("NoNewPrivs") == "1"

    in_child(spawn, give_up)


def test_subreaper_gets_the_orphans(spawn: Spawn) -> None:
    def adopt() -> None:
        process.set_child_subreaper(True)
        reader, writer = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:
                os.read(reader, 1)
                os._exit(33)
            os._exit(0)
        os.wait()
        os.write(writer, b"x")
        assert os.wait()[1] == 33 << 8

    in_child(spawn, adopt)


def test_parent_death_signal(spawn: Spawn) -> None:
    def parent() -> None:
        process.set_child_subreaper(True)
        reader, writer = os.pipe()
        middle = os.fork()
        if middle == 0:
            if os.fork() == 0:
                process.set_parent_death_signal(signal.SIGKILL)
                os.write(writer, b"x")
                signal.pause()
            signal.pause()
        os.read(reader, 1)
        os.kill(middle, signal.SIGKILL)
        os.wait()
        assert os.WTERMSIG(os.wait()[1]) == signal.SIGKILL

    in_child(spawn, parent)


def test_capabilities_are_exactly_those(spawn: Spawn) -> None:
    wanted = capabilities.to_set(["CAP_KILL", "CAP_CHECKPOINT_RESTORE"])

    def limit() -> None:
        capabilities.limit_bounding(wanted)
        syscalls.prctl(*process.KEEP_CAPABILITIES)
        process.set_uid(1002)
        syscalls.capset(*capabilities.structures(wanted, wanted, wanted))
        set_ambient(capabilities.to_set(["CAP_KILL"]))
        for name, expected in (("Bnd", wanted), ("Prm", wanted), ("Eff", wanted), ("Inh", wanted), ("Amb", 1 << 5)):
            assert int(status(f"Cap{name}"), 16) == expected
        with pytest.raises(KernelError, match="prctl: Operation not permitted"):
            set_ambient(capabilities.to_set(["CAP_SYS_ADMIN"]))

    in_child(spawn, limit)


def test_no_capabilities_at_all(spawn: Spawn) -> None:
    def drop() -> None:
        capabilities.limit_bounding(0)
        set_ambient(0)
        syscalls.capset(*capabilities.structures(0, 0, 0))
        assert {int(status(f"Cap{name}"), 16) for name in ("Bnd", "Prm", "Eff", "Inh", "Amb")} == {0}

    in_child(spawn, drop)


def test_every_capability_of_this_kernel_has_its_name() -> None:
    with open("/proc/sys/kernel/cap_last_cap") as file:
        assert int(file.read()) == len(capabilities.NAMES) - 1


@pytest.mark.parametrize("name", ["CAP_", "kill", "cap_kill", "CAP_ALL", ""])
def test_unknown_capability_is_refused(name: str) -> None:
    with pytest.raises(InputError):
        capabilities.to_set([name])
