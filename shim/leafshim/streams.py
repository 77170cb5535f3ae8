"""The standard streams of one process, between its pipes or terminal, the log and the attached clients.

Where a stream goes is a string, as in containerd's requests:

    ""         /dev/null
    "log:"     the container's log, and the attached clients
    "attach:"  the attached clients only (for stdin: from them)

Rules:
1. The workload never waits for the log, nor for a client, except for one that asked to be `lossless`: then it waits
   for that client as it would in a pipeline of a shell, and only while the client's connection stands.
2. Any other client that does not read misses output; it is told how many bytes.
3. When the process has ended, what is left in its pipes is read to the last byte before its end is told. A pipe that a
   background child still holds open is read until it is empty, not until it is closed: waiting for the child would
   hang the caller for ever.
4. Input is queued up to `INPUT_LIMIT`; a client that sends more than the window allows is cut off.
"""

import errno
import fcntl
import os
import struct
import termios
import time
from collections.abc import Callable

from leafshim import loop as loops
from leafshim.api.shim import AttachInput, AttachOutput, Exit
from leafshim.errors import InputError, KernelError, ResourceExhausted
from leafshim.logs import LogWriter
from leafshim.loop import Loop, Timer
from leafshim.ttrpc.server import Call

NULL = ""
LOG = "log:"
ATTACH = "attach:"
OUTPUT = ("stdout", "stderr", "console")

CHUNK = 64 << 10
HIGH_WATER = 1 << 20
INPUT_LIMIT = 4 << 20
LINGER = 5.0  # seconds without output after which a stream is at rest
PIPE_MAX = 1 << 20  # /proc/sys/fs/pipe-max-size: what a workload can make of our pipe (pipe(7))


class Attachment:
    """One client that watches a process, and perhaps types into it."""

    def __init__(self, call: Call[AttachInput, AttachOutput], first: AttachInput) -> None:
        self.call = call
        self.stdin = first.stdin
        self.lossless = first.lossless
        self._missed = 0

    @property
    def behind(self) -> bool:
        """More waits on the connection than we want to queue."""
        return self.call.pending >= HIGH_WATER

    def output(self, name: str, data: bytes) -> None:
        """Send what the process wrote on `name` (stdout, stderr), or count it as missed."""
        if self.behind and not self.lossless:
            self._missed += len(data)
            return
        message = AttachOutput(missed=self._missed)
        self._missed = 0
        if name == "stderr":
            message.stderr = data
        else:
            message.stdout = data
        self.call.send(message)

    def end(self, exited: Exit) -> None:
        """The last message."""
        self.call.send(AttachOutput(exited=exited, missed=self._missed))
        self.call.finish()


class Streams:
    """The streams of one process. Owns every descriptor in it. `log` is needed where a stream goes to "log:".

    `on_stdin_closed` is called when our end of standard input is closed: whoever has a copy must close it too, or the
    process never reads an end of file.
    """

    def __init__(self, loop: Loop, stdin: str, stdout: str, stderr: str, terminal: bool, log: LogWriter) -> None:
        for name, target in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
            if target not in ((NULL, ATTACH) if name == "stdin" else (NULL, LOG, ATTACH)):
                raise InputError(f"{name}: {target!r} is not a place that this shim can connect it to")
        self.terminal = terminal
        self.targets = (stdin, stdout, stderr)
        self._loop = loop
        self._log = log
        self._targets = {"stdout": stdout, "stderr": stderr}
        self._attachments: list[Attachment] = []
        self._readers: dict[str, int] = {}
        self._watched: set[str] = set()
        self._input = bytearray()
        self._consumed = 0
        self._close_wanted = False
        self._writing = False
        self._stdin = -1
        self._started = False
        self._last_output = 0.0
        self._linger: Timer | None = None
        self._size: tuple[int, int] | None = None
        self._ended: Exit | None = None
        self.on_stdin_closed: Callable[[], None] = lambda: None
        self._child: list[int] = []

    def make(self) -> None:
        """Make the pipes of a process that is to be launched. Raises KernelError."""
        if self.terminal:
            return
        try:
            if self.targets[0] == ATTACH:
                reader, self._stdin = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(self._stdin, False)
            else:
                reader = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            self._child.append(reader)
            for name, target in self._targets.items():
                if target == NULL:
                    self._child.append(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC))
                    continue
                self._readers[name], writer = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(self._readers[name], False)
                self._child.append(writer)
        except OSError as error:
            self.close()
            raise KernelError.of(error, "pipe") from error

    @property
    def child(self) -> tuple[int, int, int] | None:
        """What the process gets as 0, 1 and 2; None where its terminal takes their place."""
        return None if self.terminal else (self._child[0], self._child[1], self._child[2])

    def descriptors(self) -> dict[str, int]:
        """Our ends by name, for the keeper: what a shim that takes over needs."""
        ends = dict(self._readers)
        if self._stdin >= 0 and not self.terminal:
            ends["stdin"] = self._stdin
        return ends

    @property
    def at_rest(self) -> bool:
        """No client, nothing queued, and no output for a while."""
        return self._linger is None and not self._attachments and not self._input and not self._close_wanted

    @property
    def input_waits(self) -> bool:
        """There is input, or its end, that the process has not taken yet."""
        return bool(self._input) or self._close_wanted

    def _quiet(self) -> None:
        """The time to linger is over, unless there was output meanwhile."""
        self._linger = None
        if self._readers:
            self._stay_up()

    def _stay_up(self) -> None:
        until = self._last_output + LINGER
        if self._linger is None and until > time.monotonic():
            self._linger = self._loop.call_at(until, self._quiet)

    def start(self, console: int | None) -> None:
        """The process exists: let go of its ends, take its terminal, and begin to read."""
        for fd in self._child:
            os.close(fd)
        self._child = []
        if console is not None:
            os.set_blocking(console, False)
            self._readers["console"] = self._stdin = console
            if self._size is not None:
                self.resize(*self._size)
        self._begin()

    def resume(self, ends: dict[str, int]) -> None:
        """Go on with our ends of a process that runs, as `descriptors` gave them."""
        self._readers = {name: fd for name, fd in ends.items() if name != "stdin"}
        self._stdin = ends.get("console", ends.get("stdin", -1))
        self._begin()

    def _begin(self) -> None:
        self._started = True
        for name in self._readers:
            self._watch(name)

    def attach(self, attachment: Attachment) -> None:
        """Add a client, from the bytes that come next."""
        attachment.call.on_message = lambda message: self._from_client(attachment, message)
        attachment.call.on_close = lambda: self._client_closed(attachment)
        attachment.call.on_drain = self._resume
        attachment.call.send(AttachOutput())
        if self._ended is not None:
            attachment.end(self._ended)
            return
        self._attachments.append(attachment)

    def _from_client(self, attachment: Attachment, message: AttachInput) -> None:
        if message.width and message.height:
            self.resize(message.width, message.height)
        if message.data and attachment.stdin and self._stdin >= 0:
            if len(self._input) + len(message.data) > INPUT_LIMIT:
                attachment.call.fail(ResourceExhausted("standard input: more than the process has taken so far"))
                self._leave(attachment)
                return
            self._input += message.data
            self._pump_input()
        if message.close_stdin and attachment.stdin:
            self.close_stdin()

    def _client_closed(self, attachment: Attachment) -> None:
        """The client sent its last message, or is gone (call.closed)."""
        if attachment.call.closed:
            self._leave(attachment)

    def _leave(self, attachment: Attachment) -> None:
        if attachment in self._attachments:
            self._attachments.remove(attachment)
        self._resume()

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size (ioctl_tty(2), TIOCSWINSZ), now or when there is one.

        Without a terminal nothing happens, as in containerd.
        """
        self._size = (width, height)
        if "console" in self._readers:
            fcntl.ioctl(self._readers["console"], termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    # Input.

    def close_stdin(self) -> None:
        """Let the process read an end of file once it has read what is queued. A terminal has no such end."""
        if self._stdin >= 0 and not self.terminal:
            self._close_wanted = True
            self._pump_input()

    def _pump_input(self) -> None:
        try:
            while self._input:
                written = os.write(self._stdin, self._input[:CHUNK])
                del self._input[:written]
                self._consumed += written
        except BlockingIOError:
            pass
        except OSError:  # EPIPE, EIO: the process closed its end; nobody will read this any more
            self._consumed += len(self._input)
            self._input.clear()
        self._set_writing(bool(self._input))
        for attachment in self._attachments:
            if attachment.stdin:
                attachment.call.send(AttachOutput(consumed=self._consumed))
        if self._close_wanted and not self._input:
            self._close_input()

    def _set_writing(self, wanted: bool) -> None:
        if wanted == self._writing:
            return
        self._writing = wanted
        if self.terminal:
            self._rearm("console")
        elif wanted:
            self._loop.add(self._stdin, loops.WRITE, lambda _mask: self._pump_input())
        else:
            self._loop.remove(self._stdin)

    def _close_input(self) -> None:
        self._set_writing(False)
        self._close_wanted = False
        if self._stdin >= 0 and not self.terminal:
            os.close(self._stdin)
            self._stdin = -1
            self.on_stdin_closed()
        self._stdin = -1

    # Output.

    def _mask(self, name: str) -> int:
        return loops.READ | (loops.WRITE if name == "console" and self._writing else 0)

    def _watch(self, name: str) -> None:
        self._watched.add(name)
        self._loop.add(self._readers[name], self._mask(name), lambda mask: self._readable(name, mask))

    def _rearm(self, name: str) -> None:
        if name in self._watched:
            self._loop.modify(self._readers[name], self._mask(name))

    def _unwatch(self, name: str) -> None:
        """Removed from epoll, not just masked: a pipe whose writer is gone reports EPOLLHUP for ever."""
        if name in self._watched:
            self._watched.remove(name)
            self._loop.remove(self._readers[name])

    def _readable(self, name: str, mask: int) -> None:
        if mask & loops.WRITE:
            self._pump_input()
        if mask & (loops.READ | loops.CLOSED):
            self._read(name)
            if any(attachment.lossless and attachment.behind for attachment in self._attachments):
                for watched in tuple(self._watched):
                    self._unwatch(watched)

    def _resume(self) -> None:
        """A client has drained or left: read on, unless another one is still behind."""
        if not self._started or any(attachment.lossless and attachment.behind for attachment in self._attachments):
            return
        for name in self._readers:
            if name not in self._watched:
                self._watch(name)

    def _read(self, name: str) -> int:
        """Take one chunk, and pass it on. Its length; 0 when there is none, now or ever."""
        try:
            data = os.read(self._readers[name], CHUNK)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno != errno.EIO:  # EIO is how a terminal says that its other end is closed
                raise
            data = b""
        if not data:
            self._close_reader(name)
            return 0
        self._last_output = time.monotonic()
        self._stay_up()
        target = self._targets["stdout" if name == "console" else name]
        if target == LOG:
            self._log.write("stdout" if name == "console" else name, data)
        for attachment in self._attachments:
            attachment.output(name, data)
        return len(data)

    def _close_reader(self, name: str) -> None:
        self._unwatch(name)
        fd = self._readers.pop(name)
        if fd == self._stdin:
            self._stdin = -1
            self._writing = False
        os.close(fd)

    # The end.

    def drain(self) -> None:
        """The process has ended: take what its pipes still hold, then close everything of ours.

        A child in the background may go on writing as fast as we read, so we take at most what a pipe can have held.
        """
        for name in tuple(self._readers):
            left = PIPE_MAX
            while left > 0 and (taken := self._read(name)):
                left -= taken
        self.close()

    def end(self, exited: Exit) -> None:
        """Tell the attached clients, and those that come later."""
        self._ended = exited
        for attachment in self._attachments:
            attachment.end(exited)
        self._attachments.clear()

    def close(self) -> None:
        """Close every descriptor. Closing twice is fine."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._close_input()
        for name in tuple(self._readers):
            self._close_reader(name)
        for fd in self._child:
            os.close(fd)
        self._child = []
