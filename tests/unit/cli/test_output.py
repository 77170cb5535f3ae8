"""output.py and views.py: what scripts parse and people read."""

import json

import pytest

from leafd.cli import output, views
from leafd.cli.foreground import launch_failure, seconds
from leafd.names import generate
from leafshim.api.containers import Container, Event, LogChunk
from leafshim.api.shim import Exit
from leafshim.cgroup.layout import check_id
from leafshim.errors import Code, InputError, from_status

MOMENT = 1_700_000_000_123_456_789


def test_a_running_container() -> None:
    shown = views.container(
        Container(id="web", state="RUNNING", pid=12, shim_pid=11, cgroup="/c", leaf="/c/leaf", created_at=MOMENT)
    )
    assert shown["created_at"] == "2023-11-14T22:13:20.123456789Z"
    assert shown["started_at"] is None
    assert shown["exit_status"] is None
    assert shown["exit_cause"] is None
    assert shown["exit"] is None
    assert shown["labels"] == {}
    assert shown["restarts"] == 0
    assert {"id", "state", "pid", "shim_pid", "cgroup", "leaf", "finished_at", "bundle", "shim_socket", "log"} <= set(
        shown
    )


def test_a_stopped_container() -> None:
    ended = Exit(status=0, cause="exited", finished_at=MOMENT, duration=5, memory_peak=7)
    shown = views.container(Container(id="web", state="STOPPED", finished_at=MOMENT, exit=ended))
    assert shown["pid"] is None
    assert shown["exit_status"] == 0
    assert shown["exit_cause"] == "exited"
    assert shown["exit"] == {
        "status": 0,
        "cause": "exited",
        "signal": None,
        "finished_at": "2023-11-14T22:13:20.123456789Z",
        "duration": 5,
        "cpu_usage": None,
        "memory_peak": 7,
        "message": None,
        "limitation": None,
        "oom_kills": 0,
    }


def test_a_status_that_is_not_known_is_null_not_zero() -> None:
    assert views.container(Container(id="web", exit=Exit(cause="lost")))["exit_status"] is None
    assert views.end(Exit(cause="lost")) == "lost ?"


@pytest.mark.parametrize(
    ("container", "status"),
    [
        (Container(problem="its shim does not answer", started_at=1), "its shim does not answer"),
        (Container(exit=Exit(status=137, cause="oom")), "oom 137"),
        (Container(), ""),
    ],
)
def test_the_status_column(container: Container, status: str) -> None:
    assert views.status(container) == status


def test_log_chunks_carry_any_bytes() -> None:
    assert views.log_chunk(LogChunk(timestamp=MOMENT, stream="stdout", data="é\n".encode()))["data"] == "é\n"
    assert views.log_chunk(LogChunk(timestamp=MOMENT, stream="stdout", data=b"\xff"))["data_base64"] == "/w=="


def test_an_event_line() -> None:
    event = Event(sequence=7, timestamp=MOMENT, id="web", type="exit", pid=3, exit=Exit(status=1, cause="exited"))
    assert views.event_line(event) == "     7  2023-11-14T22:13:20.123456789Z  web  exit pid=3 exited 1 after 0 s"
    assert json.loads(json.dumps(views.event(event)))["sequence"] == 7


def test_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit({"text": "a\nb é", "none": None})
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    assert json.loads(text) == {"text": "a\nb é", "none": None}


def test_a_table_in_a_pipe_is_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("ID", "COMMAND"), [("a", "x" * 500), ("long-name", "y")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["ID         COMMAND", f"a          {'x' * 500}", "long-name  y"]
    assert output.state("RUNNING") == "RUNNING"


@pytest.mark.parametrize(
    ("nanoseconds", "text"), [(-5, "0 s"), (59 * 10**9, "59 s"), (3600 * 10**9, "1 h"), (90000 * 10**9, "1 d")]
)
def test_durations(nanoseconds: int, text: str) -> None:
    assert output.duration(nanoseconds) == text


@pytest.mark.parametrize(("text", "value"), [("500ms", 0.5), ("30s", 30), ("5m", 300), ("1.5h", 5400), ("7", 7)])
def test_times(text: str, value: float) -> None:
    assert seconds("--timeout", text) == value


@pytest.mark.parametrize("text", ["", "0", "-1s", "1d", "s", "1 s", "1e3", "٣s"])
def test_bad_times(text: str) -> None:
    with pytest.raises(InputError, match="--timeout"):
        seconds("--timeout", text)


@pytest.mark.parametrize(
    ("code", "message", "status"),
    [
        (Code.NOT_FOUND, "exec nosuch: No such file or directory", 127),
        (Code.PERMISSION_DENIED, "exec /etc/passwd: Permission denied", 126),
        (Code.UNKNOWN, "a: exec ./text: Exec format error", 126),
        (Code.NOT_FOUND, "mount /nonexistent: No such file or directory", 125),
        (Code.NOT_FOUND, "no container web-exec", 125),
        (Code.ALREADY_EXISTS, "exec: taken", 125),
    ],
)
def test_the_status_of_what_could_not_be_run(code: int, message: str, status: int) -> None:
    assert launch_failure("run", from_status(code, message)).status == status


def test_generated_names_are_ids() -> None:
    for _ in range(100):
        check_id(generate())
