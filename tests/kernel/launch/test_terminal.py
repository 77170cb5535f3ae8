"""Terminals: the pair is the container's own, the master comes to us, and nothing else is taken for one."""

import errno
import fcntl
import os
import select
import struct
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leafshim.errors import InputError, KernelError, Unsupported
from leafshim.launch import Child, Executed, Failed, Plan, Ready

Document = dict[str, Any]
Config = Callable[..., Document]
Advance = Callable[[Child], Ready | Executed | Failed]


def read_all(console: int) -> str:
    """What a terminal shows until its last slave is closed."""
    text = b""
    poll = select.poll()
    poll.register(console, select.POLLIN)
    while poll.poll(20_000):
        try:
            text += os.read(console, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # how a master says end of file
                raise
            os.close(console)
            return text.decode()
    pytest.fail("the terminal says nothing")


def on_terminal(start: Any, plan: Plan, advance: Advance) -> str:
    """Runs a plan with a terminal, and gives what it showed."""
    child, output = start(plan)
    os.close(output)
    progress = advance(child)
    if isinstance(progress, Failed):
        raise progress.error
    assert isinstance(progress, Ready)
    assert progress.console is not None
    child.release()
    assert isinstance(advance(child), Executed)
    return read_all(progress.console)


def terminal(config: Config, script: str) -> Document:
    document = config("sh", "-c", script)
    document["process"]["terminal"] = True
    return document


def test_streams_controlling_terminal_console_and_size(start: Any, plan: Any, config: Config, advance: Advance) -> None:
    document = terminal(
        config, "tty; stty size; echo to-console >/dev/console; echo to-tty >/dev/tty; stat -c %u $(tty)"
    )
    document["process"]["user"] = {"uid": 1000, "gid": 1000}
    document["process"]["consoleSize"] = {"height": 33, "width": 99}
    lines = on_terminal(start, plan(document), advance).split("\r\n")
    assert lines[:4] == ["/dev/pts/0", "33 99", "to-console", "to-tty"]
    assert lines[4] == "1000"


def test_the_master_is_a_terminal(start: Any, plan: Any, config: Config, advance: Advance) -> None:
    document = terminal(config, "read line; echo got $line; stty size")
    child, _ = start(plan(document))
    ready = advance(child)
    assert isinstance(ready, Ready)
    assert ready.console is not None
    assert not os.get_inheritable(ready.console)
    fcntl.ioctl(ready.console, termios.TIOCSWINSZ, struct.pack("4H", 5, 6, 0, 0))
    os.write(ready.console, b"hello\n")
    child.release()
    assert isinstance(advance(child), Executed)
    assert read_all(ready.console).split("\r\n") == ["hello", "got hello", "5 6", ""]


def test_needs_a_devpts_and_no_streams(start: Any, plan: Any, config: Config) -> None:
    document = terminal(config, "true")
    made = plan(document)
    assert "open terminal /dev/pts/ptmx" in made.describe()
    document["mounts"] = [mount for mount in document["mounts"] if mount["type"] != "devpts"]
    with pytest.raises(InputError, match=r"^process\.terminal: needs a devpts mount at /dev/pts$"):
        plan(document)


@pytest.mark.parametrize("impostor", ["symlink", "null", "other"])
def test_an_impostor_is_no_terminal(
    start: Any, plan: Any, config: Config, advance: Advance, tmp_path: Path, impostor: str
) -> None:
    """A volume over /dev/pts (CVE-2025-52565): a symlink, another device, the right device on another file system."""
    if impostor == "symlink":
        (tmp_path / "ptmx").symlink_to("/dev/null")
    else:
        os.mknod(tmp_path / "ptmx", 0o20666, os.makedev(1, 3) if impostor == "null" else os.makedev(5, 2))
    document = terminal(config, "true")
    document["mounts"].append({"destination": "/dev/pts", "source": str(tmp_path), "options": ["bind"]})
    with pytest.raises((KernelError, Unsupported), match=r"/dev/pts/ptmx"):
        on_terminal(start, plan(document), advance)


def test_the_console_is_bound_where_it_leads_inside(
    start: Any, plan: Any, config: Config, advance: Advance, skeleton: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "pts").mkdir()
    (volume / "console").symlink_to(victim)
    document = config("sh", "-c", "echo to-console >/dev/console", skeleton=True)
    document["process"]["terminal"] = True
    document["mounts"] = [mount for mount in document["mounts"] if mount["destination"] != "/dev"]
    devpts = next(mount for mount in document["mounts"] if mount["type"] == "devpts")
    document["mounts"].remove(devpts)
    document["mounts"] += [{"destination": "/dev", "source": str(volume), "options": ["bind"]}, devpts]
    document["mounts"] = [m for m in document["mounts"] if m["destination"] not in ("/dev/shm", "/dev/mqueue")]
    with pytest.raises(KernelError, match=r"^bind terminal /dev/console: "):
        on_terminal(start, plan(document), advance)
    assert victim.read_text() == "untouched"
