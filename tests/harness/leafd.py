"""A real leafd for tests and benchmarks: own directories, own cgroups root, nothing left afterwards."""

import json
import os
import pty
import secrets
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

from leafd.client import Client
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.cgroup.layout import Layout
from leafshim.errors import Unavailable
from tests.harness.procfs import children

BIN = Path(sys.executable).parent
DEADLINE = 60.0  # s; for a command that should take milliseconds, on a busy machine
_RETRY = 0.01  # s; between looks for a socket that is not there yet


class Leafd:
    """One installation of leafd, whose daemon can be killed and started again.

    `root`, `state`: its directories. `cgroups_root`: absolute path of the cgroup that everything of it is below.
    `process`: the daemon, None while it is down.
    """

    def __init__(self, directory: Path) -> None:
        self.root = directory / "run"
        self.state = directory / "lib"
        self.socket = self.root / "leafd.sock"
        self.output = directory / "leafd.log"
        self.name = f"leafd-test-{os.getpid()}-{secrets.token_hex(4)}"
        self.cgroups_root = os.path.join(find_mount(), self.name)
        self.process: subprocess.Popen[bytes] | None = None
        self.bin = BIN
        """Where `leafd` and `leafctl` are: those of another release may take their place."""
        self.environment: dict[str, str] = {}
        """Variables that the daemon has besides ours."""

    @property
    def client(self) -> Client:
        """A new connection; the caller closes it (`with leafd.client as client`)."""
        return Client(str(self.socket))

    def start(self, *flags: str, prepare: Callable[[], None] | None = None) -> None:
        """Start the daemon; returns once it serves. `prepare()` is called in its process before it is leafd."""
        assert self.process is None, "leafd runs already"
        command = [str(self.bin / "leafd"), "--root", str(self.root), "--state", str(self.state)]
        command += ["--cgroups-root", self.name, *flags]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                preexec_fn=prepare,
                env={**os.environ, **self.environment},
            )
        while not self._answers():
            try:
                status = self.process.wait(_RETRY)
            except subprocess.TimeoutExpired:
                continue
            self.process = None
            raise AssertionError(f"leafd ended with status {status}: {self.output.read_text()}")

    def _answers(self) -> bool:
        """Whether leafd serves. Once it listens, this waits until it has recovered."""
        try:
            with self.client as client:
                client.version()
        except Unavailable:
            return False
        return True

    def patient(self) -> tuple[str, str]:
        """Flags for a machine that is ten times slower, as a guest is."""
        config = self.root.parent / "leafd.toml"
        config.write_text("call_deadline = 50.0\n")
        return ("--config", str(config))

    def cgroup_of(self, container_id: str) -> Cgroup:
        """The non-leaf of a container that is made or will be."""
        return Cgroup(Layout(find_mount(), self.name).container(container_id))

    def kill(self) -> None:
        """kill -9 of the daemon alone."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, and the daemon's exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        assert self.process is not None, "leafd does not run"
        self.process.send_signal(number)
        status = self.process.wait(DEADLINE)
        self.process = None
        return status

    def spare(self) -> set[int]:
        """The pids of the shim that leafd keeps ready, and of its worker."""
        with self.client as client:
            spare = client.version().spare_pid
        return {spare, *children(spare)} if spare else set()

    def command(self, *arguments: str) -> list[str]:
        """leafctl for this leafd, with `arguments`."""
        return [str(self.bin / "leafctl"), "--socket", str(self.socket), *arguments]

    def ctl(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run leafctl to its end, whatever its status. `stdin`: all that it can read there."""
        return subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, encoding="utf-8", timeout=DEADLINE
        )

    def inspect(self, container_id: str) -> dict[str, object]:
        """What `leafctl inspect` says, as JSON."""
        result = self.ctl("--json", "inspect", container_id)
        assert result.returncode == 0, result.stderr
        shown: dict[str, object] = json.loads(result.stdout)
        return shown

    def close(self) -> None:
        """End everything that was started here, and prove that nothing is left."""
        if self.process is not None:
            self.kill()
        cgroups = Cgroup(self.cgroups_root)
        if cgroups.exists():
            cgroups.remove_tree(DEADLINE)
        strays = self._processes()
        for pid in strays:
            os.kill(pid, signal.SIGKILL)
        mounts = Path("/proc/self/mountinfo").read_text()
        assert not strays, f"outside their cgroup: {strays}"
        assert f" {self.root.parent}/" not in mounts
        assert not os.path.exists(self.cgroups_root)

    def _processes(self) -> dict[int, str]:
        """pid → command line of whoever has this installation's root in its command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                try:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if f"{self.root}/" in line or line.rstrip().endswith(str(self.root)):
                    found[int(entry.name)] = line
        return found


class Terminal:
    """A person at a terminal (a pty) who runs one command there."""

    def __init__(self, command: list[str], columns: int = 80, rows: int = 24) -> None:
        self._leader, follower = pty.openpty()
        self._follower = follower
        termios.tcsetwinsize(follower, (rows, columns))
        self.before = termios.tcgetattr(follower)
        self.process = subprocess.Popen(
            command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
        )
        self._seen = b""

    def expect(self, text: bytes) -> bytes:
        """What was shown up to and including `text`; fails when the terminal stays silent without it."""
        while text not in self._seen:
            ready, _, _ = select.select([self._leader], [], [], DEADLINE)
            assert ready, f"{text!r} is not in {self._seen!r}"
            self._seen += os.read(self._leader, 65536)
        shown, _, self._seen = self._seen.partition(text)
        return shown + text

    def type(self, keys: bytes) -> None:
        """Type."""
        os.write(self._leader, keys)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window, and say so as a terminal does."""
        termios.tcsetwinsize(self._follower, (rows, columns))
        self.process.send_signal(signal.SIGWINCH)

    def status(self) -> int:
        """The command's exit status, once it has ended and left the terminal as it was."""
        status = self.process.wait(DEADLINE)
        assert termios.tcgetattr(self._follower) == self.before
        return status

    def close(self) -> None:
        """Take the terminal away."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE)
        os.close(self._leader)
        os.close(self._follower)
