"""One process of a container, seen through its shim: its input, its output, its end.

The rules:
1. A session talks to the shim alone. So it goes on, and a new one begins, while leafd is down.
2. An init is attached to before it is started, an exec always is: not one byte of its output is lost. A lossless
   session makes the process wait for it, as a pipeline of a shell does; any other learns how much it `missed`.
3. Input is sent only as fast as the process takes it: less than WINDOW bytes are under way (shim.proto, AttachOutput).
4. leafd is asked only where the shim is, and not even that while it is down: the container's directory lies beside
   leafd's socket.
5. Whoever began an exec has the shim forget it once it has ended (`close`).
"""

import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypedDict, Unpack

from leafd.client import Client
from leafd.describe import Document, describe_exec, parse, wants_terminal
from leafshim.api import shim, task
from leafshim.api.wellknown import Any
from leafshim.bundle import Bundle
from leafshim.cgroup.layout import check_id
from leafshim.errors import DeadlineExceeded, KernelError, LeafError, StateError, Unavailable
from leafshim.kernel import fdpass
from leafshim.ttrpc import client as ttrpc

WINDOW = 1 << 20  # bytes
STDOUT, STDERR = 1, 2
PROCESS_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process"

_CHUNK = 256 << 10
_CONNECT_TIMEOUT = 5.0  # s
_CALL_TIMEOUT = 30.0
_LOCATE_TIMEOUT = 2.0
_ENDED = ("DESTROYING", "STOPPED")


class Output(NamedTuple):
    """What the process wrote. `fd`: 1 or 2; a terminal's is always 1."""

    fd: int
    data: bytes


def connect(socket: str) -> ttrpc.Client:
    """A connection to the shim that listens at `socket`, a path of any length. Raises Unavailable, DeadlineExceeded."""
    return ttrpc.Client(fdpass.connect(socket, timeout=_CONNECT_TIMEOUT), timeout=_CALL_TIMEOUT)


class Session:
    """An attachment to one process. Iterating gives its Output until it has ended; then `exited` says how.

    `missed`: bytes of output that this session was too slow for. Close it, or use it in a `with` block.
    """

    def __init__(
        self,
        client: ttrpc.Client,
        container_id: str,
        *,
        exec_id: str = "",
        stdin: bool = False,
        lossless: bool = False,
        terminal: bool = False,
    ) -> None:
        """Attach to init, or to the exec `exec_id`, by a connection to its shim, which the session then owns.

        `stdin`: this session sends input. `terminal`: the process has one. Returns once attached. Raises NotFound,
        Unavailable and DeadlineExceeded.
        """
        self.container_id = container_id
        self.exec_id = exec_id
        self.terminal = terminal
        self.exited: shim.Exit | None = None
        self.missed = 0
        self._client = client
        self._sent = 0
        self._waiting: deque[Output] = deque()
        self._forget = False
        self._stream = client.stream(shim.ATTACH, shim.AttachInput(exec_id=exec_id, stdin=stdin, lossless=lossless))
        first = self._stream.receive(_CALL_TIMEOUT) or shim.AttachOutput()
        self._consumed_before = self._consumed = first.consumed
        self._take(first)

    @classmethod
    def exec(cls, client: ttrpc.Client, container_id: str, process: Document, *, stdin: bool = False) -> "Session":
        """Run `process`, an OCI process, in the container and attach to it, losslessly.

        Raises as the constructor does, InputError for a process that cannot be, StateError for a container that does
        not run, and what kept the program from being executed.
        """
        exec_id = f"exec-{os.urandom(6).hex()}"
        terminal = process.get("terminal") is True
        request = task.ExecProcessRequest(
            id=container_id,
            exec_id=exec_id,
            terminal=terminal,
            stdin="attach:" if stdin or terminal else "",
            stdout="attach:",
            stderr="" if terminal else "attach:",
            spec=Any(type_url=PROCESS_TYPE, value=json.dumps(process).encode()),
        )
        client.call(task.V3.exec, request)
        session = cls(client, container_id, exec_id=exec_id, stdin=stdin or terminal, lossless=True, terminal=terminal)
        session._forget = True
        try:
            client.call(task.V3.start, task.StartRequest(id=container_id, exec_id=exec_id))
        except LeafError:
            session._drain()
            session.close()
            raise
        return session

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Output]:
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            if self.exited is not None:
                return
            self._receive()

    def fileno(self) -> int:
        """Readable when `receive_ready` may have news; what an earlier call has read already is there without."""
        return self._client.fileno()

    def receive_ready(self) -> list[Output]:
        """What has arrived, without waiting."""
        while self.exited is None and self._stream.ready():
            self._receive()
        ready = list(self._waiting)
        self._waiting.clear()
        return ready

    @property
    def window(self) -> int:
        """How many bytes may be sent now."""
        return max(0, WINDOW - 1 - self._sent + (self._consumed - self._consumed_before))

    def send(self, data: bytes) -> None:
        """Send input; waits while the process takes none, and keeps the output that comes meanwhile. What is sent to a
        process that has ended, or has no input, is lost, as in a pipeline."""
        view = memoryview(data)
        while view and self.exited is None:
            if not self.window:
                self._receive()
                continue
            piece = bytes(view[: min(_CHUNK, self.window)])
            self._stream.send(shim.AttachInput(data=piece))
            self._sent += len(piece)
            view = view[len(piece) :]

    def flush(self) -> None:
        """Wait until the process has taken what was sent: what is under way when a session closes may be lost."""
        while self.exited is None and self._consumed - self._consumed_before < self._sent:
            self._receive()

    def close_stdin(self) -> None:
        """The process reads an end of file after what was sent. A terminal has no such end."""
        if self.exited is None:
            try:
                self._stream.send(shim.AttachInput(close_stdin=True))
            except StateError:  # it has ended, which we have not read yet
                return

    def resize(self, width: int, height: int) -> None:
        """Set the size of the terminal, in characters."""
        if self.exited is None:
            self._stream.send(shim.AttachInput(width=width, height=height))

    def kill(self, number: int) -> None:
        """Send a signal. Raises NotFound when the process has ended."""
        self._client.call(task.V3.kill, task.KillRequest(id=self.container_id, exec_id=self.exec_id, signal=number))

    def communicate(self, data: bytes = b"") -> tuple[bytes, bytes]:
        """Send `data` and the end of input, and wait for the end: what came on standard output and standard error."""
        collected = {STDOUT: bytearray(), STDERR: bytearray()}
        self.send(data)
        self.close_stdin()
        for fd, piece in self:
            collected[fd] += piece
        return bytes(collected[STDOUT]), bytes(collected[STDERR])

    def close(self) -> None:
        """Leave the process alone; an exec of ours that has ended is forgotten."""
        if self._forget and self.exited is not None:
            try:
                self._client.call(task.V3.delete, task.DeleteRequest(id=self.container_id, exec_id=self.exec_id))
            except LeafError:  # the container is gone, and the exec with it
                pass
            self._forget = False
        self._stream.close()
        self._client.close()

    def _drain(self) -> None:
        """Wait for the end that follows a failed start, if the shim gets to tell it."""
        try:
            for _ in self:
                pass
        except LeafError:
            pass

    def _receive(self) -> None:
        message = self._stream.receive()
        if message is None:  # ended without a word on how
            self.exited = shim.Exit(cause="lost", message="the shim ended the stream")
            return
        self._take(message)

    def _take(self, message: shim.AttachOutput) -> None:
        if message.stdout:
            self._waiting.append(Output(STDOUT, message.stdout))
        if message.stderr:
            self._waiting.append(Output(STDERR, message.stderr))
        self._consumed = max(self._consumed, message.consumed)
        # The shim counts the input of all clients: what is beyond what we sent was somebody else's.
        self._consumed_before = max(self._consumed_before, self._consumed - self._sent)
        self.missed += message.missed
        if message.exited is not None:
            self.exited = message.exited


class ProcessOptions(TypedDict, total=False):
    """What `exec` takes for the process, as `leafd.describe.describe_exec`."""

    env: Sequence[str]
    user: str
    cwd: str
    terminal: bool
    size: tuple[int, int] | None


class Place(NamedTuple):
    """Where a container is: its directory and its shim's socket."""

    bundle: Bundle
    shim_socket: str


def locate(socket: str, container_id: str) -> Place:
    """Where a container is that lives: leafd says, or, while nobody answers at its `socket`, the directory beside it.

    Raises NotFound, StateError for one that has ended, and, where there is no shim either, why leafd is silent.
    """
    try:
        with Client(socket, timeout=_LOCATE_TIMEOUT) as client:
            found = client.inspect(container_id)
    except (Unavailable, DeadlineExceeded):
        check_id(container_id)
        bundle = Bundle.of(os.path.dirname(os.path.abspath(socket)), container_id)
        if not os.path.exists(bundle.socket):
            raise
        return Place(bundle, bundle.socket)
    if found.state in _ENDED:
        raise StateError(f"{container_id} is {found.state}")
    return Place(Bundle(found.bundle), found.shim_socket)


def attach(socket: str, container_id: str, *, stdin: bool = False, lossless: bool = False) -> Session:
    """Attach to init of a container of the leafd at `socket`, whether or not leafd answers."""
    place = locate(socket, container_id)
    terminal = wants_terminal(_config(place.bundle))
    return Session(connect(place.shim_socket), container_id, stdin=stdin, lossless=lossless, terminal=terminal)


def execute(
    socket: str, container_id: str, args: Sequence[str], *, stdin: bool = False, **options: Unpack[ProcessOptions]
) -> Session:
    """Run one more command in a container of the leafd at `socket`, whether or not leafd answers.

    Raises NotFound, StateError, InputError, and what kept the program from being executed.
    """
    place = locate(socket, container_id)
    config = _config(place.bundle)
    client = connect(place.shim_socket)
    # Names of users are those of the container's own files, as init sees them now.
    root = f"/proc/{client.call(shim.INFO, shim.InfoRequest()).pid}/root" if options.get("user") else "/"
    return Session.exec(client, container_id, describe_exec(config, args, root=root, **options), stdin=stdin)


def _config(bundle: Bundle) -> Document:
    try:
        with open(bundle.config, "rb") as file:
            return parse(file.read(), bundle.config)
    except OSError as error:
        raise KernelError.of(error, "open") from error
