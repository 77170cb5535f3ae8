"""`make demo`: a container outlives its supervisor, and an orphan does not. Every claim in the transcript is checked.

The commands are real, run by a shell as they stand there (what ends with & is started from here, so that its end can
be waited for), and so is what they print. A claim that does not hold ends the demonstration with status 1, after the
same clean-up.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.harness.leafd import BIN, DEADLINE, Leafd

COUNTER = "i=0; while :; do i=$((i+1)); echo $i; sleep 1; done"


class BrokenClaim(Exception):
    """Something in the transcript is not true."""


class Transcript:
    """Prints what happens as a person would see it in their terminal. `environment` is the shell's."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = {**os.environ, **environment, "PATH": f"{BIN}:{os.environ['PATH']}"}

    def say(self, text: str) -> None:
        """A line of the narrator's."""
        print(f"\n# {text}", flush=True)

    def show(self, command: str) -> None:
        """A command that is not run here but was, or is, elsewhere."""
        print(f"$ {command}", flush=True)

    def run(self, command: str) -> str:
        """Run `command` in a shell, and show both it and all that it prints."""
        self.show(command)
        output = subprocess.run(
            ["bash", "-c", command],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=DEADLINE,
        ).stdout
        print(output, end="", flush=True)
        return output

    def claim(self, text: str, holds: bool) -> None:
        """Say `text` and whether it is true. Raises BrokenClaim when it is not."""
        print(f"  {'✓' if holds else '✗ NOT TRUE:'} {text}", flush=True)
        if not holds:
            raise BrokenClaim(text)


def main() -> int:
    """The exit status: 0 when every claim held."""
    with tempfile.TemporaryDirectory(prefix="leafd-demo-") as directory:
        leafd = Leafd(Path(directory))
        transcript = Transcript({"LEAFD_SOCKET": str(leafd.socket), "DEMO": directory, "CGROUP": leafd.cgroups_root})
        try:
            _demonstrate(leafd, transcript)
        except BrokenClaim as broken:
            print(f"\nbroken: {broken}", file=sys.stderr)
            return 1
        finally:
            leafd.close()
        transcript.claim("no process, cgroup or mount of it is left", not os.path.exists(leafd.cgroups_root))
    print("\nEvery claim above was checked, and holds.")
    return 0


def _demonstrate(leafd: Leafd, transcript: Transcript) -> None:
    transcript.say("A supervisor, with its state in a directory of its own ($DEMO) and a cgroup of its own ($CGROUP).")
    _start(leafd, transcript)
    _report_host(leafd, transcript)

    transcript.say("A container that counts, once a second.")
    transcript.run(f"leafctl run -d --name counter -- sh -c {shlex.quote(COUNTER)}")
    counted = _numbers(transcript.run("leafctl logs -f counter | head -n 3"))
    transcript.claim("it counts", counted == [1, 2, 3])
    transcript.run("leafctl ps")
    before = leafd.inspect("counter")

    transcript.say("Kill the supervisor, without a chance to prepare for it.")
    assert leafd.process is not None
    transcript.show(f"kill -9 {leafd.process.pid}")
    leafd.kill()
    answer = transcript.run("leafctl ps")
    transcript.claim("nobody supervises now", "nobody listens" in answer)
    seen = _numbers(transcript.run("leafctl attach --no-stdin counter | head -n 3"))
    transcript.claim("the container goes on counting, as its shim says", len(seen) == 3 and _unbroken(seen))
    answer = transcript.run("leafctl exec counter -- echo still at your service")
    transcript.claim("commands can be run in it, too", answer == "still at your service\n")

    transcript.say("Start the supervisor again.")
    _start(leafd, transcript)
    transcript.run("leafctl ps")
    after = leafd.inspect("counter")
    transcript.claim(f"the container has the same pid, {before['pid']}", after["pid"] == before["pid"])
    transcript.claim(f"and the same shim, {before['shim_pid']}", after["shim_pid"] == before["shim_pid"])
    transcript.claim("it was started once", after["started_at"] == before["started_at"] and after["restarts"] == 0)
    counted = _numbers(transcript.run("leafctl logs counter"))
    transcript.claim(
        f"the count is unbroken, 1 to {counted[-1]}, also from {seen[0]} to {seen[-1]} when nobody supervised",
        counted[0] == 1 and _unbroken(counted) and set(seen) <= set(counted),
    )

    transcript.say("Kill the container's shim, which is the parent of its first process.")
    transcript.show(f"kill -9 {after['shim_pid']}")
    os.kill(int(str(after["shim_pid"])), signal.SIGKILL)
    _await(leafd, "adopted")
    transcript.run("leafctl ps")
    adopted = leafd.inspect("counter")
    transcript.claim("the container has the same pid", adopted["pid"] == before["pid"])
    transcript.claim(f"and another shim, {adopted['shim_pid']}", adopted["shim_pid"] not in (0, before["shim_pid"]))
    seen = _numbers(transcript.run("leafctl attach --no-stdin counter | head -n 2"))
    counted = _numbers(leafd.ctl("logs", "counter").stdout)
    transcript.claim(f"the count is unbroken, 1 to {counted[-1]}", counted[0] == 1 and _unbroken(counted))

    transcript.say("Plant an orphan: a cgroup of ours with a process in it, and no container that owns it.")
    orphan = _plant(leafd, transcript)
    last = _last_event(leafd)
    answer = transcript.run("leafctl recover")
    transcript.claim("recovery found one orphan", "orphans 1," in answer)
    status = orphan.wait(DEADLINE)
    transcript.claim("its process was killed", status == -signal.SIGKILL)
    transcript.run(f"leafctl events --since {last}")
    types = [event["type"] for event in _events(leafd, last)]
    transcript.claim("and that is on record", "orphan-reaped" in types)
    gone = transcript.run('ls -d "$CGROUP"/orphan')
    transcript.claim("its cgroup is gone", "No such file" in gone)
    transcript.claim("the container was left alone", leafd.inspect("counter")["pid"] == before["pid"])

    transcript.say("Clean up.")
    transcript.run("leafctl stop -t 1 counter")
    ended = leafd.inspect("counter")
    transcript.claim("the true exit status is known: ended on request", ended["exit_cause"] == "killed")
    transcript.run("leafctl rm counter; leafctl ps")
    transcript.claim("no container is left", json.loads(leafd.ctl("--json", "ps").stdout) == [])
    transcript.show(f"kill {leafd.process.pid}")
    transcript.claim("the supervisor ends when asked to", leafd.stop() == 0)


def _start(leafd: Leafd, transcript: Transcript) -> None:
    transcript.show(f"leafd --root $DEMO/run --state $DEMO/lib --cgroups-root {leafd.name} &")
    leafd.start()


def _report_host(leafd: Leafd, transcript: Transcript) -> None:
    transcript.run("leafctl doctor")
    with leafd.client as client:
        offered = client.version().controllers
    missing = [name for name in ("cpu", "cpuset", "io", "memory", "pids") if name not in offered]
    if missing:
        transcript.say(f"cgroup2 has no {', '.join(missing)} here. Containers run; limits that need them are refused:")
        flag = {"cpu": "--cpus 1", "cpuset": "--cpuset-cpus 0", "memory": "--memory 64M", "pids": "--pids 10"}
        name = next((name for name in missing if name in flag), "")
        if name:
            answer = transcript.run(f"leafctl run {flag[name]} -- true")
            transcript.claim("the missing controller is named", f"no {name} controller" in answer)


def _plant(leafd: Leafd, transcript: Transcript) -> "subprocess.Popen[bytes]":
    """A process in a cgroup that looks like a container's. It is ours, so that its end can be told."""
    transcript.run('mkdir -p "$CGROUP"/orphan/leaf')
    script = 'echo $$ > "$CGROUP"/orphan/leaf/cgroup.procs; echo; exec sleep 1000'
    transcript.show(f"sh -c '{script.replace(' echo;', '')}' &")
    environment = {**os.environ, "CGROUP": leafd.cgroups_root}
    process = subprocess.Popen(["sh", "-c", script], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it has moved
    process.stdout.close()
    transcript.run('cat "$CGROUP"/orphan/leaf/cgroup.procs')
    return process


def _await(leafd: Leafd, kind: str) -> None:
    """Wait for an event of that kind."""
    with leafd.client as client, client.events(follow=True) as events:
        next(event for event in events if event.type == kind)


def _numbers(text: str) -> list[int]:
    return [int(line) for line in text.splitlines() if line.isdecimal()]


def _unbroken(numbers: Sequence[int]) -> bool:
    return list(numbers) == list(range(numbers[0], numbers[0] + len(numbers)))


def _events(leafd: Leafd, since: int) -> list[dict[str, object]]:
    lines = leafd.ctl("--json", "events", "--since", str(since)).stdout.splitlines()
    return [json.loads(line) for line in lines]


def _last_event(leafd: Leafd) -> int:
    return int(str(_events(leafd, 0)[-1]["sequence"]))


if __name__ == "__main__":
    sys.exit(main())
