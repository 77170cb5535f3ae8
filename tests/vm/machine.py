"""One boot of the guest: QEMU in software emulation, with Debian's 6.12 kernel and every cgroup2 controller.

The guest runs one command on the host's own files (`guest/init` says how) and ends. Two virtio ports lead out:
`output`, what the command printed, as it is; `events`, one JSON object a line, of which the last is {"exit": STATUS}.
Only that line says that all went well: QEMU's own exit status and the console prove nothing.

Emulation takes both processors of a small host, so one machine runs at a time: `.build/vm/lock` sees to it.
"""

import fcntl
import json
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self

from tests.vm.image import BUILD, MODULES, MachineError, initrd, kernel

Guest = Literal["plain", "systemd"]
Event = Mapping[str, object]

GUEST_FILES = Path(__file__).parent / "guest"

KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet panic=-1 reboot=t psi=1 mitigations=off nokaslr tsc=reliable random.trust_cpu=on "
    "cgroup_no_v1=all apparmor=0 audit=0"
)

TAIL = 4000


def tail(path: Path) -> str:
    """Return the last characters of a file that may not exist, or say that there are none."""
    text = path.read_bytes()[-TAIL:].decode(errors="replace") if path.exists() else ""
    return text.replace("\r", "").strip() or "(nothing)"


def script(command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> str:
    """Write down a command for the guest's shell, with this environment and no other."""
    assignments = [f"{name}={value}" for name, value in environment.items()]
    return f"cd {shlex.quote(str(directory))} || exit 126\nexec env -i {shlex.join([*assignments, *command])}\n"


class Machine:
    """A booted guest, from the constructor to `close`. Use it as a context manager.

    command, directory: what the guest runs, and where; paths are the host's.
    environment: added to the few variables that the command gets in any case.
    output: what the command prints goes there, as it comes.
    Raises MachineError where it cannot be built.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        directory: Path,
        output: BinaryIO,
        guest: Guest = "plain",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        BUILD.mkdir(parents=True, exist_ok=True)
        self._lock = (BUILD / "lock").open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._run = Path(tempfile.mkdtemp(prefix="run-", dir=BUILD))
        self._console = self._run / "console"
        self._qemu: subprocess.Popen[bytes] | None = None
        self._events, theirs = socket.socketpair()
        try:
            image = kernel()
            initrd(self._run / "initrd")
            shutil.copytree(GUEST_FILES, self._run, dirs_exist_ok=True)
            variables = {"HOME": "/root", "LANG": "C.UTF-8", "PATH": os.environ["PATH"], "TMPDIR": "/run/tmp"}
            (self._run / "job").write_text(script(command, directory, {**variables, **(environment or {})}))
            self._qemu = self._boot(image, guest, output, theirs)
        except BaseException:
            self.close()
            raise
        finally:
            theirs.close()

    def _boot(self, image: Path, guest: Guest, output: BinaryIO, events: socket.socket) -> subprocess.Popen[bytes]:
        shares = {"host": Path("/"), "run": self._run, "modules": MODULES}
        arguments = [
            # Whoever started the guest may be killed outright; the guest must not outlive it.
            *("setpriv", "--pdeathsig", "KILL"),
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"),
            *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"),
            *("-kernel", str(image), "-initrd", str(self._run / "initrd")),
            *("-append", f"{KERNEL_ARGUMENTS} guest={guest}"),
            *("-chardev", f"file,id=console,append=on,path={_escape(self._console)}", "-serial", "chardev:console"),
            *("-add-fd", f"fd={output.fileno()},set=1"),
            *("-chardev", "file,id=output,append=on,path=/dev/fdset/1"),
            *("-chardev", f"socket,id=events,fd={events.fileno()}"),
            *("-device", "virtio-serial-pci"),
            *("-device", "virtserialport,chardev=output,name=output,nr=1"),
            *("-device", "virtserialport,chardev=events,name=events,nr=2"),
        ]
        for name, path in shares.items():
            export = f"local,id={name},readonly=on,multidevs=remap,security_model=none,path={_escape(path)}"
            arguments += ["-fsdev", export, "-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"]
        with self._console.open("ab") as errors:
            return subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=(output.fileno(), events.fileno()),
            )

    def events(self, patience_s: float) -> Iterator[Event]:
        """Yield what the guest tells, as it tells it; {"exit": STATUS} comes last.

        Raises MachineError when it ends before that, or tells nothing for `patience_s` seconds.
        """
        self._events.settimeout(patience_s)
        with self._events.makefile("rb") as lines:
            try:
                for line in lines:
                    event: Event = json.loads(line)
                    yield event
                    if "exit" in event:
                        return
            except TimeoutError:
                raise self._error(f"the virtual machine told nothing for {patience_s:.0f} s") from None
            except (OSError, ValueError) as error:
                raise self._error(f"the virtual machine broke off: {error}") from error
        raise self._error("the virtual machine died before its work was done")

    def _error(self, what: str) -> MachineError:
        return MachineError(f"{what}\n--- its console ends with ---\n{tail(self._console)}")

    def close(self) -> None:
        """End the machine, whatever it does, and remove its files. A second call does nothing."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
        self._events.close()
        shutil.rmtree(self._run, ignore_errors=True)
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def _escape(path: Path) -> str:
    """Quote a path for QEMU, in whose options a comma separates."""
    return str(path).replace(",", ",,")
