"""The nursery: has shims forked, and keeps what a new shim would need.

It is the keeper: it holds copies of the pidfd of every init, the ends of pipes, terminals and listening sockets, so
that the death of a shim closes nothing. It outlives the supervisor and does nothing else. The forking itself is done by
the zygote (zygote.py), which keeps out of all this. Its socket speaks nursery.proto, one message a packet
(SOCK_SEQPACKET), to root only.

Rules:
1. No thread, and everything imported and rehearsed before the zygote is forked.
2. The interpreter runs from a sealed memfd and is not dumpable, so that a container whose init is still our fork can
   neither read nor overwrite the host's Python through /proc/PID/exe (CVE-2019-5736).
3. The nursery is the parent of the shims, and their subreaper (prctl(2), PR_SET_CHILD_SUBREAPER): when a shim dies, its
   init becomes our child and is reaped here. After that the pidfds that are held tell its status (kernel/pidfd.py,
   `exit_info`).
4. A zygote that dies is replaced when the next shim is asked for.
5. It is renewed in place (renewal.py): the same process goes on with the code that is installed by then.
"""

import gc
import os
import signal as signal_numbers
import socket
import sys
from typing import NamedTuple

from leafshim import __version__, renewal, zygote
from leafshim import loop as loops
from leafshim.api.nursery import Ended, Forget, Held, Keep, Notice, Packet, Renew, Reply, Request, Spawn, Take
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.crashes import crash
from leafshim.errors import Code, InputError, KernelError, LeafError, NotFound, StateError, Unavailable
from leafshim.kernel import fdpass, paths, pidfd, process, signals
from leafshim.kernel.execve import reset_inherited_signals
from leafshim.loop import Loop
from leafshim.rehearsal import rehearse
from leafshim.shim import Shim, authorized

PACKET_MAX = 64 << 10
ENDS_KEPT = 4096
ZYGOTE_PATIENCE = 5.0  # seconds for one fork
RENEWAL_PATIENCE = 30.0  # seconds for the trial of other code, where who asks names none


class Answer(NamedTuple):
    """A reply, copies of descriptors to go with it, and others that go with it for good."""

    reply: Reply
    copies: tuple[int, ...] = ()
    given: tuple[int, ...] = ()


class Nursery:
    """Goes on from `known`; of a new one that is a listening SOCK_SEQPACKET socket alone. Owns all descriptors in it.

    `path`: of that socket, for the command line.
    """

    def __init__(self, loop: Loop, known: renewal.State, path: str) -> None:
        self._loop = loop
        self._path = path
        self._server = socket.socket(fileno=known.server)
        self._supervisors: dict[int, socket.socket] = {}
        self._lines: dict[int, socket.socket] = {}
        """To the shims."""
        self._shims = set(known.shims)
        self._trial: renewal.Trial | None = None
        self._ends = {(pid, started): status for pid, started, status in known.ends}
        """(pid, start time) → wait status of the last that were reaped."""
        self._kept = {container_id: dict(held) for container_id, held in known.kept.items()}
        self._zygote = start_zygote()
        self._arrivals = signals.signalfd({signal_numbers.SIGCHLD, signal_numbers.SIGHUP, signal_numbers.SIGINT})
        self._server.setblocking(False)
        loop.add(self._server.fileno(), loops.READ, lambda _mask: self._accept())
        loop.add(self._arrivals, loops.READ, lambda _mask: self._reap())
        for fd in known.supervisors:
            self._serve(socket.socket(fileno=fd), self._supervisors)
        for fd in known.lines:
            self._serve(socket.socket(fileno=fd), self._lines)

    def go_on(self, asked: int) -> None:
        """Take up what has come since the former code stopped, and answer who asked for its renewal, -1: nobody."""
        if asked in self._supervisors:
            self._send(self._supervisors[asked], Packet(reply=self._survey().reply), [])
        self._reap()

    def _accept(self) -> None:
        try:
            connection, _ = self._server.accept()
        except BlockingIOError:
            return
        if not authorized(*fdpass.peer_credentials(connection)):
            connection.close()
            return
        self._serve(connection, self._supervisors)

    def _serve(self, connection: socket.socket, among: dict[int, socket.socket]) -> None:
        among[connection.fileno()] = connection
        connection.setblocking(False)
        self._listen(connection)

    def _listen(self, connection: socket.socket) -> None:
        self._loop.add(connection.fileno(), loops.READ, lambda _mask: self._receive(connection))

    def _hang_up(self, connection: socket.socket) -> None:
        self._loop.remove(connection.fileno())
        self._supervisors.pop(connection.fileno(), None)
        self._lines.pop(connection.fileno(), None)
        connection.close()

    def _receive(self, connection: socket.socket) -> None:
        """One packet. Whatever is wrong with it is the sender's problem alone."""
        try:
            data, descriptors = fdpass.receive(connection, PACKET_MAX)
        except LeafError:
            data, descriptors = b"", []
        if not data:
            self._hang_up(connection)
            return
        try:
            request = Request.decode(data)
            if request.renew is not None:
                self._try_renewal(request.renew, connection)
                return
            answer = self._answer(request, descriptors)
        except LeafError as error:
            answer = Answer(Reply(code=error.code, message=str(error)))
        finally:
            for fd in descriptors:
                os.close(fd)
        self._send(connection, Packet(reply=answer.reply), [*answer.copies, *answer.given])
        for fd in answer.given:
            os.close(fd)

    def _send(self, connection: socket.socket, packet: Packet, descriptors: list[int]) -> None:
        """A supervisor that does not read is cut off: it can connect again and ask."""
        try:
            fdpass.send(connection, packet.encode(), descriptors)
        except LeafError:
            self._hang_up(connection)

    def _answer(self, request: Request, descriptors: list[int]) -> Answer:
        if request.spawn is not None:
            return self._spawn(request.spawn)
        if request.keep is not None:
            return self._keep(request.keep, descriptors)
        if request.take is not None:
            return self._take(request.take)
        if request.forget is not None:
            return self._forget(request.forget)
        if request.survey is not None:
            return self._survey()
        if request.ended is not None:
            return self._tell_end(request.ended)
        raise InputError("an empty request")

    # Forking.

    def _spawn(self, request: Spawn) -> Answer:
        """A shim, with the line on which it waits for its order (shim.py): whoever asked owns both."""
        crash("nursery-asked")
        orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                pid, fd = self._fork(request.cgroup, theirs)
            except BaseException:
                orders.close()
                raise
        crash("nursery-spawned")
        self._shims.add(pid)
        reply = Reply(code=Code.OK, pid=pid, start_time=pidfd.start_time(pid))
        return Answer(reply, given=(fd, orders.detach()))

    def _fork(self, cgroup: str, orders: socket.socket) -> tuple[int, int]:
        """(pid, pidfd) of a new shim, whose line to us is served. A zygote that is gone is replaced, once."""
        directory = Cgroup(cgroup).open()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        given = [theirs.fileno(), orders.fileno(), directory]
        try:
            try:
                pid, fd = _ask(self._zygote, given)
            except Unavailable:
                self._zygote.close()
                self._zygote = start_zygote()
                pid, fd = _ask(self._zygote, given)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(directory)
        self._serve(ours, self._lines)
        return pid, fd

    def _reap(self) -> None:
        """Shims, and inits whose shim died (rule 4)."""
        signals.drain(self._arrivals)
        while (pid := _next_ended()) is not None:
            started = pidfd.start_time(pid)  # a zombie still has it
            _, status = os.waitpid(pid, 0)
            self._ends[pid, started] = status
            if len(self._ends) > ENDS_KEPT:
                del self._ends[next(iter(self._ends))]
            if self._trial is not None and pid == self._trial.pid:
                self._renew(self._trial, status)
            if pid in self._shims:
                self._shims.discard(pid)
                notice = Packet(notice=Notice(pid=pid, wait_status=status))
                for connection in tuple(self._supervisors.values()):
                    self._send(connection, notice, [])

    # Keeping.

    def _hold(self, container_id: str, name: str, fd: int) -> None:
        held = self._kept.setdefault(container_id, {})
        if name in held:
            os.close(held[name])
        held[name] = fd

    def _keep(self, request: Keep, descriptors: list[int]) -> Answer:
        if len(request.names) != len(descriptors):
            raise InputError(f"{len(request.names)} names for {len(descriptors)} descriptors")
        for name, fd in zip(request.names, descriptors, strict=True):
            self._hold(request.id, name, os.dup(fd))
        crash("nursery-kept")
        return Answer(Reply(code=Code.OK))

    def _take(self, request: Take) -> Answer:
        held = self._kept.get(request.id)
        if held is None:
            raise NotFound(f"nothing is kept for container {request.id}")
        return Answer(Reply(code=Code.OK, names=list(held)), tuple(held.values()))

    def _forget(self, request: Forget) -> Answer:
        held = self._kept.get(request.id, {})
        for name in request.names or tuple(held):
            if name in held:
                os.close(held.pop(name))
        if not held:
            self._kept.pop(request.id, None)
        crash("nursery-forgot")
        return Answer(Reply(code=Code.OK))

    def _tell_end(self, request: Ended) -> Answer:
        """Who asks has seen it end, so if it was a child of ours it can be reaped by now."""
        self._reap()
        status = self._ends.get((request.pid, request.start_time))
        if status is None:
            return Answer(Reply(code=Code.NOT_FOUND, pid=request.pid, message="it was not ours to reap"))
        return Answer(Reply(code=Code.OK, pid=request.pid, wait_status=status))

    def _survey(self) -> Answer:
        held = [Held(id=container_id, names=list(names)) for container_id, names in self._kept.items()]
        return Answer(Reply(code=Code.OK, held=held, version=__version__, nursery_pid=os.getpid()))

    # Renewal.

    def _try_renewal(self, request: Renew, connection: socket.socket) -> None:
        """Begin it. Nothing more is read from who asked before it is answered."""
        if self._trial is not None:
            raise StateError("a renewal is under way")
        patience = request.patience / 1e9 or RENEWAL_PATIENCE
        self._trial = renewal.Trial(self._loop, self._state(connection), request.interpreter, patience)
        self._loop.remove(connection.fileno())

    def _renew(self, trial: renewal.Trial, status: int) -> None:
        """The trial has ended: be the next one, or say why not."""
        self._trial = None
        connection = self._supervisors[trial.connection]
        try:
            trial.judge(status)
            renewal.become(self._state(connection), trial.interpreter, "--socket", self._path)
        except LeafError as error:
            self._listen(connection)
            self._send(connection, Packet(reply=Reply(code=error.code, message=str(error))), [])

    def _state(self, asked: socket.socket) -> renewal.State:
        return renewal.State(
            server=self._server.fileno(),
            asked=asked.fileno(),
            supervisors=tuple(self._supervisors),
            lines=tuple(self._lines),
            shims=tuple(self._shims),
            ends=tuple((*process, status) for process, status in self._ends.items()),
            kept=self._kept,
        )


def _next_ended() -> int | None:
    """A child that has ended and was not reaped; None when there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def start_zygote() -> socket.socket:
    """Fork a zygote: our end of its line."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        kept = theirs.detach()
        os.closerange(3, kept)
        os.closerange(kept + 1, 1 << 30)
        process.set_name("leafd-zygote")
        process.set_dumpable(False)
        zygote.serve(socket.socket(fileno=kept), Shim())
    theirs.close()
    ours.settimeout(ZYGOTE_PATIENCE)
    return ours


def _ask(line: socket.socket, descriptors: list[int]) -> tuple[int, int]:
    """(pid, pidfd) of a new shim."""
    try:
        fdpass.send(line, b"fork", descriptors)
        answer, received = fdpass.receive(line, zygote.PACKET_MAX, 1)
    except KernelError as error:
        raise Unavailable(f"the zygote does not answer: {error}") from error
    if not answer:
        raise Unavailable("the zygote is gone")
    if answer.startswith(zygote.REFUSED):
        number, _, syscall = answer.removeprefix(zygote.REFUSED).decode().partition(" ")
        raise KernelError(syscall, int(number))
    return int(answer), received[0]


def main() -> None:
    """`python -I -m leafshim.nursery (--fd N | --socket PATH) [--cgroup PATH]`: serve until killed.

    `--fd`: an inherited listening socket. `--cgroup`: where to move to first, the absolute path of a leaf. A nursery
    that is renewed is started with `--state N`, a descriptor; with `--trial yes` it ends where it would begin to serve.
    """
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    _leave_the_hosts_interpreter()
    if "--cgroup" in options:
        Cgroup(options["--cgroup"]).write("cgroup.procs", "0")
    known = _known(options)
    if os.getpid() != os.getsid(0):
        os.setsid()
    process.set_name("leafd-nursery")
    process.set_dumpable(False)
    process.set_child_subreaper(True)
    reset_inherited_signals()
    rehearse()
    gc.collect()
    loop = Loop(lambda error: sys.excepthook(type(error), error, error.__traceback__))
    nursery = Nursery(loop, known, options.get("--socket", ""))
    if "--trial" in options:
        os._exit(0)
    gc.freeze()
    nursery.go_on(known.asked)
    crash("nursery-ready")
    loop.run()


def _known(options: dict[str, str]) -> renewal.State:
    if "--state" in options:
        return renewal.State.read(int(options["--state"]))
    if "--fd" in options:
        server = int(options["--fd"])
        os.set_inheritable(server, False)
        return renewal.State(server)
    return renewal.State(fdpass.listen(options["--socket"], kind=socket.SOCK_SEQPACKET).detach())


def _leave_the_hosts_interpreter() -> None:
    """Run on from a sealed copy of the interpreter in memory (rule 3)."""
    if not os.readlink("/proc/self/exe").startswith("/memfd:"):
        copy = paths.sealed_copy("/proc/self/exe", "leafd-python")
        os.execve(f"/proc/self/fd/{copy}", [sys.executable, *sys.orig_argv[1:]], os.environ)


if __name__ == "__main__":
    main()
