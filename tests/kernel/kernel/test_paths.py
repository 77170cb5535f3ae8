"""Paths that try to leave their root, and memory that tries to change."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leafshim.errors import KernelError
from leafshim.kernel import paths

Spawn = Callable[..., tuple[int, int]]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """A root with a file `secret` beside it and one in it, by descriptor."""
    inside = tmp_path / "root"
    (inside / "etc").mkdir(parents=True)
    (inside / "secret").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    fd = os.open(inside, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def content(root: int, path: str) -> str:
    with open(paths.open_in_root(root, path, os.O_RDONLY)) as file:
        return file.read()


@pytest.mark.parametrize(
    "path", ["secret", "/secret", "../secret", "etc/../../secret", "/../../../secret", "etc//../secret"]
)
def test_dots_and_slashes_mean_the_root(root: int, path: str) -> None:
    assert content(root, path) == "inside"


@pytest.mark.parametrize("target", ["/secret", "../secret", "../../../../secret"])
def test_symlinks_mean_the_root(root: int, tmp_path: Path, target: str) -> None:
    (tmp_path / "root/etc/link").symlink_to(target)
    assert content(root, "etc/link") == "inside"


def test_symlink_to_the_outside_by_its_full_path_finds_nothing(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/link").symlink_to(tmp_path / "secret")
    with pytest.raises(KernelError) as raised:
        content(root, "link")
    assert raised.value.errno == errno.ENOENT
    assert raised.value.path == "link"


def test_magic_links_lead_nowhere() -> None:
    root = os.open("/", os.O_PATH)
    try:
        with pytest.raises(KernelError) as raised:
            paths.open_in_root(root, f"/proc/{os.getpid()}/root/etc", os.O_RDONLY)
        assert raised.value.errno == errno.ELOOP
    finally:
        os.close(root)


def test_beneath_refuses_what_in_root_redirects(root: int) -> None:
    with pytest.raises(KernelError) as raised:
        paths.openat2(root, "../secret", os.O_RDONLY, resolve=paths.RESOLVE_BENEATH)
    assert raised.value.errno == errno.EXDEV


def test_symlink_that_races_never_leads_out(root: int, tmp_path: Path, spawn: Spawn) -> None:
    """A component is exchanged, as fast as can be, for a symlink to the outside, while it is opened 5,000 times."""
    inside = tmp_path / "root"
    (inside / "dir").mkdir()
    (inside / "dir/secret").write_text("inside")
    (inside / "evil").symlink_to("..")

    def attack() -> None:
        while True:
            os.rename(inside / "dir", inside / "spare")
            os.rename(inside / "evil", inside / "dir")
            os.rename(inside / "dir", inside / "evil")
            os.rename(inside / "spare", inside / "dir")

    spawn(attack)
    seen = set()
    for _ in range(5000):
        try:
            seen.add(content(root, "dir/../dir/secret"))
        except KernelError as error:
            assert error.errno in (errno.ENOENT, errno.EAGAIN)  # noqa: PT017
    assert seen <= {"inside"}


def test_opened_descriptor_is_close_on_exec(root: int) -> None:
    fd = paths.open_in_root(root, "secret", os.O_RDONLY)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_created_below_the_root(root: int, tmp_path: Path) -> None:
    os.close(paths.open_in_root(root, "../../new", os.O_CREAT | os.O_WRONLY, mode=0o600))
    assert (tmp_path / "root/new").stat().st_mode & 0o777 == 0o600


def test_filesystem_magic() -> None:
    with open("/proc/self/status") as file:
        assert paths.filesystem_magic(file.fileno()) == paths.PROC_MAGIC
    with open("/dev/null") as file:
        assert paths.filesystem_magic(file.fileno()) != paths.PROC_MAGIC


def test_close_range(spawn: Spawn) -> None:
    def all_but_three() -> None:
        paths.close_range(3)
        assert [fd for fd in range(3, 1000) if os.path.exists(f"/proc/self/fd/{fd}")] == []

    pid, _ = spawn(all_but_three)
    assert os.waitpid(pid, 0)[1] == 0


def test_close_range_may_only_mark(spawn: Spawn) -> None:
    def mark() -> None:
        fd = os.dup(0)
        os.set_inheritable(fd, True)
        paths.close_range(fd, flags=paths.CLOSE_RANGE_CLOEXEC)
        assert not os.get_inheritable(fd)

    pid, _ = spawn(mark)
    assert os.waitpid(pid, 0)[1] == 0


def test_sealed_copy_is_the_program_and_cannot_change() -> None:
    program = shutil.which("true")
    assert program
    fd = paths.sealed_copy(program, "leaf")
    try:
        assert os.pread(fd, 1 << 26, 0) == Path(program).read_bytes()
        for attempt in (
            lambda: os.pwrite(fd, b"x", 0),
            lambda: os.ftruncate(fd, 0),
            lambda: os.ftruncate(fd, 1 << 30),
            lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0),
            lambda: os.write(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY), b"x"),
        ):
            with pytest.raises(PermissionError):
                attempt()
    finally:
        os.close(fd)


def test_interpreter_runs_from_a_sealed_copy_and_finds_its_packages() -> None:
    fd = paths.sealed_copy(os.path.realpath(sys.executable), "leafshim")
    try:
        result = subprocess.run(
            [sys.executable, "-c", "import os, leafshim, msgpack; print(os.readlink('/proc/self/exe'))"],
            executable=f"/proc/self/fd/{fd}",
            pass_fds=[fd],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        os.close(fd)
    assert result.stdout == "/memfd:leafshim (deleted)\n"


def test_copy_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"sealed copy .*missing: No such file"):
        paths.sealed_copy(str(tmp_path / "missing"), "leaf")
