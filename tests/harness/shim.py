"""A real shim in a process of its own, without supervisor or nursery, and a client of its socket."""

import json
import os
import secrets
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from leafd.describe import describe
from leafshim import shim as shim_main
from leafshim.api import shim, task
from leafshim.api.wellknown import Any
from leafshim.bundle import Bundle
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.kernel import fdpass, signals
from leafshim.kernel.execve import reset_inherited_signals
from leafshim.ttrpc.client import Client, Stream

ID = "web"
PROCESS_URL = "types.containerd.io/opencontainers/runtime-spec/1/Process"
TIMEOUT = 30.0


class Shim:
    """One shim and its container `web`. `client`: a connection; `connect()` gives more."""

    def __init__(self, directory: Path) -> None:
        self.bundle = Bundle(str(directory))
        os.mkdir(self.bundle.rootfs)
        self._begin()

    def _begin(self) -> None:
        self.cgroup = Cgroup(os.path.join(find_mount(), f"leafd-test-{os.getpid()}-{secrets.token_hex(4)}"))
        nursery, line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours, orders = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                nursery.close()
                ours.close()
                reset_inherited_signals()
                arrivals = signals.signalfd(shim_main.SIGNALS)
                shim_main.Shim().live(line.fileno(), orders.fileno(), arrivals)
            finally:
                os._exit(0)
        line.close()
        orders.close()
        nursery.close()
        with fdpass.listen(self.bundle.socket) as listener:
            fdpass.send(ours, f"{ID}\0{self.bundle.path}".encode(), [listener.fileno()])
        ours.close()
        self.client = self.connect()

    def connect(self) -> Client:
        """A connection of its own."""
        return Client(self.bundle.socket, TIMEOUT)

    def create(
        self,
        *args: str,
        terminal: bool = False,
        stdin: str = "",
        options: shim.CreateOptions | None = None,
        mounts: Sequence[dict[str, object]] = (),
        resources: dict[str, object] | None = None,
        **changes: object,
    ) -> int:
        """Task.Create on the host's own files; the pid of init. `changes` replace top-level parts of `process`."""
        document = describe(list(args), terminal=terminal)
        process = document["process"]
        linux = document["linux"]
        assert isinstance(process, dict)
        assert isinstance(linux, dict)
        document["mounts"] = [*document["mounts"], *mounts]  # type: ignore[misc]
        process |= changes
        linux["resources"] |= resources or {}
        linux["cgroupsPath"] = self.cgroup.path.removeprefix(find_mount())
        Path(self.bundle.config).write_text(json.dumps(document))
        request = task.CreateTaskRequest(
            id=ID,
            bundle=self.bundle.path,
            rootfs=[task.Mount(type="host-overlay", source="/", options=["size=16777216"])],
            terminal=terminal,
            stdin=stdin,
            stdout="log:",
            stderr="" if terminal else "log:",
            options=Any.pack(options or shim.CreateOptions()),
        )
        return self.client.call(task.V3.create, request).pid

    def start(self, exec_id: str = "") -> int:
        """Task.Start; the pid."""
        return self.client.call(task.V3.start, task.StartRequest(id=ID, exec_id=exec_id)).pid

    def run(self, *args: str, **rest: object) -> int:
        """Create and start."""
        self.create(*args, **rest)  # type: ignore[arg-type]
        return self.start()

    def wait(self, exec_id: str = "") -> int:
        """Task.Wait; the exit status."""
        return self.client.call(task.V3.wait, task.WaitRequest(id=ID, exec_id=exec_id)).exit_status

    def kill(self, number: int = signal.SIGKILL, exec_id: str = "", everything: bool = False) -> None:
        """Task.Kill."""
        self.client.call(task.V3.kill, task.KillRequest(id=ID, exec_id=exec_id, signal=number, all=everything))

    def delete(self, exec_id: str = "") -> task.DeleteResponse:
        """Task.Delete."""
        return self.client.call(task.V3.delete, task.DeleteRequest(id=ID, exec_id=exec_id))

    def state(self, exec_id: str = "") -> task.StateResponse:
        """Task.State."""
        return self.client.call(task.V3.state, task.StateRequest(id=ID, exec_id=exec_id))

    def info(self) -> shim.InfoResponse:
        """Shim.Info."""
        return self.client.call(shim.INFO, shim.InfoRequest())

    def add_exec(
        self, exec_id: str, *args: str, terminal: bool = False, stdin: str = "attach:", stdout: str = "attach:"
    ) -> None:
        """Task.Exec."""
        process = {"args": list(args), "cwd": "/", "env": ["PATH=/usr/bin:/bin"], "terminal": terminal}
        process["user"] = {"uid": 0, "gid": 0}
        self.client.call(
            task.V3.exec,
            task.ExecProcessRequest(
                id=ID,
                exec_id=exec_id,
                terminal=terminal,
                stdin=stdin,
                stdout=stdout,
                stderr="" if terminal else stdout,
                spec=Any(type_url=PROCESS_URL, value=json.dumps(process).encode()),
            ),
        )

    def attach(
        self, client: Client, exec_id: str = "", stdin: bool = False, lossless: bool = True
    ) -> Stream[shim.AttachInput, shim.AttachOutput]:
        """Shim.Attach on a connection of its own, attached when this returns."""
        stream = client.stream(shim.ATTACH)
        stream.send(shim.AttachInput(exec_id=exec_id, stdin=stdin, lossless=lossless))
        assert next(iter(stream)) == shim.AttachOutput()
        return stream

    def again(self) -> None:
        """Another shim in the place of this one, whose container is deleted."""
        self.client.call(task.V3.shutdown, task.ShutdownRequest(id=ID))
        self.client.close()
        os.waitpid(self.pid, 0)
        self._begin()

    def close(self) -> None:
        """End the shim, then everything of the container."""
        self.client.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        if self.cgroup.exists():
            self.cgroup.remove_tree(TIMEOUT)
        defects = Path(self.bundle.path, "defects")
        assert not defects.exists(), defects.read_text()
