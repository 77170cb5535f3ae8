"""Standard streams: to the log, to clients and from them, byte for byte."""

import hashlib
import os
from pathlib import Path

import pytest

from leafshim import logs
from leafshim.api import shim, task
from leafshim.errors import InputError, StateError
from tests.harness.shim import ID, Shim


def logged(web: Shim, stream: str = "") -> bytes:
    lines = Path(web.bundle.log).read_bytes().splitlines(keepends=True)
    entries = [logs.parse(line) for line in lines]
    return b"".join(entry.data for entry in entries if stream in ("", entry.stream))


def test_streams_are_told_apart_in_the_log(web: Shim) -> None:
    web.run("sh", "-c", "echo out; echo err >&2; printf tail")
    web.wait()
    assert logged(web, "stdout") == b"out\ntail"
    assert logged(web, "stderr") == b"err\n"


def test_a_burst_before_the_exit_is_complete(web: Shim) -> None:
    web.run("sh", "-c", "seq 1 300000 && exit 4")
    assert web.wait() == 4
    assert logged(web) == b"".join(b"%d\n" % number for number in range(1, 300_001))


def test_a_full_log_does_not_block_the_workload(web: Shim) -> None:
    web.run("sh", "-c", "head -c 3000000 /dev/zero", options=shim.CreateOptions(log_max_size=100_000))
    assert web.wait() == 0
    assert os.path.getsize(web.bundle.log) <= 100_000


def test_an_exec_talks_both_ways(web: Shim) -> None:
    web.run("sleep", "1000")
    data = os.urandom(1_500_000)
    web.add_exec("cat", "sh", "-c", "cat; echo done >&2")
    with web.connect() as client:
        stream = web.attach(client, "cat", stdin=True)
        web.start("cat")
        out, err, consumed, sent = bytearray(), bytearray(), 0, 0
        while True:
            while sent < len(data) and sent - consumed < 500_000:
                stream.send(shim.AttachInput(data=data[sent : sent + 65536]))
                sent += len(data[sent : sent + 65536])
                if sent == len(data):
                    stream.send(shim.AttachInput(close_stdin=True))
            message = next(iter(stream))
            out += message.stdout
            err += message.stderr
            consumed = max(consumed, message.consumed)
            if message.exited is not None:
                break
        assert message.exited.status == 0
        assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()
        assert err == b"done\n"


def test_a_child_in_the_background_does_not_keep_the_client_waiting(web: Shim) -> None:
    web.run("sleep", "1000")
    web.add_exec("bg", "sh", "-c", "(while :; do echo noise; done) & echo mine")
    with web.connect() as client:
        stream = web.attach(client, "bg")
        web.start("bg")
        *_, last = stream
        assert last.exited is not None
        assert last.exited.status == 0


def test_a_terminal(web: Shim) -> None:
    web.run("sleep", "1000")
    web.add_exec("tty", "sh", "-c", "tty; stty size; read line; echo got $line", terminal=True)
    with web.connect() as client:
        stream = web.attach(client, "tty", stdin=True)
        stream.send(shim.AttachInput(width=101, height=33))
        web.start("tty")
        stream.send(shim.AttachInput(data=b"hello\n"))
        output = b"".join(message.stdout for message in stream)
    assert b"/dev/pts/0\r\n" in output
    assert b"33 101\r\n" in output
    assert b"got hello\r\n" in output


def test_a_client_that_comes_late_is_told_the_end(web: Shim) -> None:
    web.run("sleep", "1000")
    web.add_exec("quick", "sh", "-c", "exit 9")
    web.start("quick")
    assert web.wait("quick") == 9
    with web.connect() as client:
        (last,) = web.attach(client, "quick")
        assert last.exited is not None
        assert last.exited.status == 9


def test_a_client_that_does_not_read_misses_output_and_the_workload_runs_on(web: Shim) -> None:
    web.create("sh", "-c", "head -c 8000000 /dev/zero; exit 6")
    with web.connect() as lazy:
        stream = web.attach(lazy, lossless=False)
        web.start()
        assert web.wait() == 6
        received = missed = 0
        for message in stream:
            received += len(message.stdout)
            missed += message.missed
        assert missed > 0
        assert received + missed == 8_000_000


def test_a_lossless_client_gets_every_byte(web: Shim) -> None:
    web.create("sh", "-c", "seq 1 400000")
    with web.connect() as client:
        stream = web.attach(client)
        web.start()
        digest = hashlib.sha256()
        for message in stream:
            digest.update(message.stdout)
    expected = hashlib.sha256(b"".join(b"%d\n" % number for number in range(1, 400_001)))
    assert digest.digest() == expected.digest()


def test_a_client_that_vanishes_holds_nobody_up(web: Shim) -> None:
    web.create("sh", "-c", "seq 1 400000")
    client = web.connect()
    web.attach(client)
    web.start()
    client.close()
    assert web.wait() == 0


def test_standard_input_of_init(web: Shim) -> None:
    web.create("sh", "-c", "read line; echo got $line", stdin="attach:")
    with web.connect() as client:
        stream = web.attach(client, stdin=True)
        web.start()
        stream.send(shim.AttachInput(data=b"this\n"))
        assert b"".join(message.stdout for message in stream) == b"got this\n"


def test_close_io_is_an_end_of_file(web: Shim) -> None:
    web.run("sleep", "1000")
    web.add_exec("cat", "cat")
    web.start("cat")
    web.client.call(task.V3.close_io, task.CloseIORequest(id=ID, exec_id="cat", stdin=True))
    assert web.wait("cat") == 0


def test_execs_end_before_init_in_the_events(web: Shim) -> None:
    web.run("sleep", "1000")
    web.add_exec("long", "sleep", "1000", stdin="", stdout="")
    web.start("long")
    web.kill()
    assert web.wait() == 137
    assert web.wait("long") == 137
    with web.connect() as client, client.stream(shim.EVENTS, shim.EventsRequest()) as stream:
        kinds = []
        for event in stream:
            kinds.append(event.type)
            if event.type == "exit":
                break
    assert kinds == ["create", "start", "exec-added", "exec-started", "exec-exited", "exit"]


def test_a_place_that_we_do_not_know_is_refused(web: Shim) -> None:
    web.run("sleep", "1000")
    with pytest.raises(InputError, match="binary:"):
        web.add_exec("logger", "true", stdout="binary:///bin/sh")


def test_an_exec_cannot_be_started_twice(web: Shim) -> None:
    web.run("sleep", "1000")
    web.add_exec("once", "true", stdin="", stdout="")
    web.start("once")
    with pytest.raises(StateError):
        web.start("once")
    web.wait("once")
    web.delete("once")


def test_a_hundred_execs_leave_no_descriptor(web: Shim) -> None:
    web.run("sleep", "1000")

    def cycle(number: int) -> None:
        web.add_exec(f"e{number}", "true")
        web.start(f"e{number}")
        web.wait(f"e{number}")
        web.delete(f"e{number}")

    cycle(0)
    before = len(os.listdir(f"/proc/{web.pid}/fd"))
    for number in range(1, 101):
        cycle(number)
    assert len(os.listdir(f"/proc/{web.pid}/fd")) == before
