"""A container's first process, on the real kernel: what it finds, what it leaves, and how a launch fails."""

import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leafshim.errors import KernelError, LeafError, StateError, Unsupported
from leafshim.kernel.execve import reset_inherited_signals
from leafshim.kernel.syscalls import rt_sigaction
from leafshim.launch import Child, Executed, Failed, Plan, Ready

Document = dict[str, Any]
Config = Callable[..., Document]
Run = Callable[[Document | Plan], tuple[int, str]]
Advance = Callable[[Child], Ready | Executed | Failed]


def test_the_container_is_its_own_machine_over_the_hosts_files(run: Run, config: Config) -> None:
    script = "echo $$; hostname; cat /proc/self/cgroup | tail -1; echo changed >/leafd-test-file; cat /leafd-test-file"
    status, output = run(config("sh", "-c", script))
    assert status == 0
    assert output.split() == ["1", "web", "0::/", "changed"]
    assert not os.path.exists("/leafd-test-file")


def test_nothing_is_left_on_the_host(run: Run, config: Config, bundle_rootfs: str) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    assert run(config("true")) == (0, "")
    assert Path("/proc/self/mountinfo").read_text() == before
    assert os.listdir(bundle_rootfs) == []


def test_what_engines_mount_is_there(run: Run, config: Config) -> None:
    document = config("cat", "/proc/self/mounts")
    document["mounts"].append(
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
    )
    document["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]})
    mounts = {line.split()[1]: line.split()[2:4] for line in run(document)[1].splitlines()}
    assert {path: fstype for path, (fstype, _) in mounts.items()} == {
        "/": "overlay",
        "/proc": "proc",
        "/dev": "tmpfs",
        "/dev/pts": "devpts",
        "/dev/shm": "tmpfs",
        "/dev/mqueue": "mqueue",
        "/sys": "sysfs",
        "/sys/fs/cgroup": "cgroup2",
    }
    assert set(mounts["/dev/shm"][1].split(",")) >= {"rw", "nosuid", "nodev", "noexec", "size=65536k"}
    assert mounts["/sys"][1].startswith("ro,")


def test_the_usual_devices_work(run: Run, config: Config) -> None:
    script = "head -c3 /dev/zero | wc -c; head -c3 /dev/urandom | wc -c; echo x >/dev/null; stat -c %a /dev/null; "
    script += "readlink /dev/fd /dev/stdin /dev/ptmx; ls /dev | wc -w"
    assert run(config("sh", "-c", script))[1].split() == [
        "3", "3", "666", "/proc/self/fd", "/proc/self/fd/0", "pts/ptmx", "14",
    ]  # fmt: skip


def test_devices_of_the_spec(run: Run, config: Config) -> None:
    document = config("stat", "-c", "%F %t:%T %a %u:%g", "/dev/deep/fuse", "/dev/pipe")
    document["linux"]["devices"] = [
        {"path": "/dev/deep/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6},
        {"path": "/dev/pipe", "type": "p"},
    ]
    assert run(document)[1].splitlines() == ["character special file a:e5 640 5:6", "fifo 0:0 666 0:0"]


def test_bind_mounts(run: Run, config: Config, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("content")
    script = "cat /made/for/it/file; cat /made/file; touch /made/for/it/new || echo ro"
    document = config("sh", "-c", script + "; echo more >>/made/file")
    document["mounts"] += [
        {"destination": "/made/for/it", "source": f"{tmp_path}/data", "options": ["rbind", "ro", "rprivate"]},
        {"destination": "/made/file", "source": f"{tmp_path}/data/file", "options": ["bind", "noexec"]},
    ]
    output = run(document)[1]
    assert output.startswith("contentcontent")
    assert "ro" in output.split("\n")
    assert (tmp_path / "data" / "file").read_text() == "contentmore\n"


def test_one_source_bound_twice(run: Run, config: Config, tmp_path: Path) -> None:
    document = config("sh", "-c", "touch /a/x; touch /b/y || echo ro")
    for destination, options in (("/a", ["bind"]), ("/b", ["bind", "ro"])):
        document["mounts"].append({"destination": destination, "source": str(tmp_path), "options": options})
    assert "ro" in run(document)[1].split("\n")
    assert (tmp_path / "x").exists()


def test_a_root_of_its_own_and_read_only(run: Run, config: Config, skeleton: Path) -> None:
    document = config("sh", "-c", "touch /x || echo ro; touch /tmp/y || echo ro; ls /", skeleton=True)
    document["root"]["readonly"] = True
    output = run(document)[1].split("\n")
    assert output.count("ro") == 2
    assert output[-10:] == ["bin", "dev", "etc", "lib", "lib64", "proc", "sbin", "tmp", "usr", ""]


def test_masked_and_read_only_paths(run: Run, config: Config) -> None:
    script = "wc -c </proc/keys; ls /proc/acpi /proc/bus/none; echo 1 >/proc/sys/kernel/panic || echo ro"
    document = config("sh", "-c", script)
    document["linux"]["maskedPaths"] = ["/proc/keys", "/proc/acpi", "/proc/not-there"]
    document["linux"]["readonlyPaths"] = ["/proc/sys", "/proc/not-there"]
    output = run(document)[1].split("\n")
    assert output[0] == "0"
    assert "ro" in output


def test_who_the_process_is(run: Run, config: Config) -> None:
    document = config("sh", "-c", "id -u; id -g; umask; pwd; ulimit -n; ulimit -c; cat /proc/self/oom_score_adj; env")
    process = document["process"]
    process["user"] = {"uid": 1234, "gid": 2345, "umask": 0o27}
    process["cwd"] = "/usr"
    process["env"] = ["PATH=/usr/bin", "B=2", "A=1 and more"]
    process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 20, "hard": 30}]
    process["oomScoreAdj"] = 321
    output = run(document)[1].splitlines()
    assert output[:5] == ["1234", "2345", "0027", "/usr", "20"]
    assert output[6] == "321"
    assert set(output[7:]) == {"PATH=/usr/bin", "B=2", "A=1 and more", "PWD=/usr"}


def test_namespaces_of_the_host_are_joined(run: Run, config: Config, start: Any, plan: Any, advance: Advance) -> None:
    holder, _ = start(plan(config("sleep", "60")))
    assert isinstance(advance(holder), Ready)
    document = config("hostname")
    del document["hostname"]
    document["linux"]["namespaces"] = [{"type": "mount"}, {"type": "ipc"}, {"type": "cgroup"}] + [
        {"type": kind, "path": f"/proc/{holder.pid}/ns/{kind}"} for kind in ("uts", "pid")
    ]
    own = os.readlink("/proc/self/ns/pid_for_children")
    assert run(document) == (0, "web\n")
    assert os.readlink("/proc/self/ns/pid_for_children") == own


def test_a_new_network_has_loopback_and_its_own_sysctls(run: Run, config: Config) -> None:
    files = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shmmax", "/sys/class/net/lo/flags"]
    document = config("cat", *files)
    document["linux"]["namespaces"].append({"type": "network"})
    document["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "4096"}
    document["mounts"].append({"destination": "/sys", "type": "sysfs", "options": ["ro"]})
    assert run(document)[1].split() == ["1", "4096", "0x9"]  # IFF_UP | IFF_LOOPBACK


def test_no_instruction_of_the_program_before_the_release(
    start: Any, plan: Any, config: Config, advance: Advance, leaf: str, wait: Any
) -> None:
    child, output = start(plan(config("echo", "ran")))
    ready = advance(child)
    assert isinstance(ready, Ready)
    assert ready.console is None
    assert Path(leaf, "cgroup.procs").read_text().split() == [str(child.pid)]
    assert os.pread(output, 10, 0) == b""
    assert child.advance() is None
    child.release()
    assert isinstance(advance(child), Executed)
    assert wait(child) == 0
    assert os.pread(output, 10, 0) == b"ran\n"


def test_a_child_whose_parent_is_gone_exits(start: Any, plan: Any, config: Config, advance: Advance, wait: Any) -> None:
    child, output = start(plan(config("echo", "ran")))
    assert isinstance(advance(child), Ready)
    child.close()
    assert wait(child) == 1
    assert os.pread(output, 10, 0) == b""


def test_a_child_killed_before_its_release_has_failed(start: Any, plan: Any, config: Config, advance: Advance) -> None:
    child, _ = start(plan(config("true")))
    assert isinstance(advance(child), Ready)
    child.abort()
    progress = advance(child)
    assert isinstance(progress, Failed)
    assert isinstance(progress.error, StateError)


def _set(path: str, value: object) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        *parents, name = path.split(".")
        for parent in parents:
            document = document[parent]
        document[name] = value

    return change


def _mount(**mount: object) -> Callable[[Document], None]:
    return lambda document: document["mounts"].append(mount)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("process.args", ["sleepx"]), "exec sleepx: No such file or directory"),
        (_set("process.args", ["/etc/passwd"]), "exec /etc/passwd: Permission denied"),
        (_set("process.args", ["/usr"]), "exec /usr: Permission denied"),
        (_set("process.cwd", "/nowhere"), "chdir /nowhere: No such file or directory"),
        (_set("process.cwd", "/etc/passwd"), "chdir /etc/passwd: Not a directory"),
        (_mount(destination="/x", type="nofs"), "mount /x: No such device"),
        (_mount(destination="/x", type="tmpfs", options=["no=such"]), "mount /x: Invalid argument"),
        (_mount(destination="/x", source="/nowhere", options=["bind"]), "open /nowhere: No such file or directory"),
        (_mount(destination="/etc/passwd/x", type="tmpfs"), "mount /etc/passwd/x: Not a directory"),
        (_set("linux.namespaces", [{"type": "mount"}, {"type": "uts"}, {"type": "ipc", "path": "/etc/passwd"}]),
         "join ipc namespace /etc/passwd: Invalid argument"),
        # This root has no CAP_SYS_RESOURCE, as in many a container.
        (_set("process.rlimits", [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2**40}]),
         "setrlimit RLIMIT_NOFILE: Operation not permitted"),
    ],
)  # fmt: skip
def test_a_failed_step_is_named(run: Run, config: Config, change: Callable[[Document], None], message: str) -> None:
    document = config("true")
    change(document)
    with pytest.raises(KernelError) as caught:
        run(document)
    assert str(caught.value) == message


def test_a_score_below_ours_is_a_clear_error(run: Run, config: Config) -> None:
    document = config("true")
    document["process"]["oomScoreAdj"] = -1000
    own = int(Path("/proc/self/oom_score_adj").read_text())
    Path("/proc/self/oom_score_adj").write_text("1")
    try:
        status, _ = run(document)
        assert status == 0
    except KernelError as error:
        refusal = str(error)
        assert refusal == "set oom_score_adj -1000: Permission denied"
    finally:
        Path("/proc/self/oom_score_adj").write_text(str(own))


def test_a_capability_that_we_lack_is_refused_before_anything_happens(plan: Any, config: Config) -> None:
    document = config("true")
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    document["process"]["capabilities"] = {"bounding": ["CAP_SYS_RESOURCE"], "permitted": ["CAP_SYS_RESOURCE"]}
    if int(status["CapBnd"], 16) >> 24 & 1:
        plan(document)
    else:
        with pytest.raises(Unsupported, match=r"^process\.capabilities: not ours to give: CAP_SYS_RESOURCE$"):
            plan(document)


def test_a_missing_cgroup(start: Any, plan: Any, config: Config) -> None:
    with pytest.raises(KernelError, match="No such file or directory"):
        start(plan(config("true")), "/nowhere")


def test_a_name_in_the_search_path_that_may_not_be_run(run: Run, config: Config, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\necho no\n")
    document = config("tool")
    document["mounts"].append({"destination": "/opt/x", "source": str(tmp_path), "options": ["bind"]})
    document["process"]["env"] = ["PATH=/nowhere:/opt/x:/usr/bin"]
    with pytest.raises(KernelError, match=r"^exec tool: Permission denied$"):
        run(document)


def test_a_bad_interpreter_is_found_at_the_release(run: Run, config: Config, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/nowhere\n")
    (tmp_path / "tool").chmod(0o755)
    document = config("/opt/x/tool")
    document["mounts"].append({"destination": "/opt/x", "source": str(tmp_path), "options": ["bind"]})
    with pytest.raises(KernelError, match=r"^exec /opt/x/tool: No such file or directory$"):
        run(document)


def test_signals_are_as_programs_expect_them(run: Run, config: Config) -> None:
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ignored = struct.pack("4Q", signal.SIG_IGN, 0, 0, 0)
    rt_sigaction(32, ignored, None, 8)  # as whoever is started by glibc's posix_spawn has it
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    reset_inherited_signals()
    try:
        output = run(config("cat", "/proc/self/status"))[1]
    finally:
        signal.signal(signal.SIGHUP, old)
        rt_sigaction(32, bytes(32), None, 8)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    status = dict(line.split(":\t", 1) for line in output.splitlines())
    assert [int(status[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0]


def test_every_launch_gives_back_its_descriptors(run: Run, config: Config) -> None:
    run(config("true"))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        run(config("true"))
        with pytest.raises(LeafError):
            run(config("sleepx"))
    # What is left is each child's pidfd and channel, which the fixture closes at the end.
    assert len(os.listdir("/proc/self/fd")) == before + 2 * 6
