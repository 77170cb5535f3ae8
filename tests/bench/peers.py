"""The other runtimes, as they are installed, in a process of their own: `launch NAME` and `exec NAME`, one a line.

crun and runc want cgroup2 at /sys/fs/cgroup. On a hybrid host they get that in a mount namespace of this process alone.
Each line that comes in is one measurement; the answer is its nanoseconds. What is measured is the command line, from
posix_spawn to its end, with the container then running: `RUNTIME run --detach`, `RUNTIME exec`.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    """Serve measurements in the directory given as the first argument, which holds config.json."""
    directory = Path(sys.argv[1])
    _rootfs(directory / "rootfs")
    document = json.loads((directory / "config.json").read_text())
    document["root"] = {"path": "rootfs"}
    document["ociVersion"] = "1.0.2"  # what Debian's crun knows
    for line in sys.stdin:
        what, runtime, container = line.split()
        document["linux"]["cgroupsPath"] = f"/{container}"
        (directory / "config.json").write_text(json.dumps(document))
        print(MEASUREMENTS[what](runtime, container, directory), flush=True)


def _rootfs(path: Path) -> None:
    """The host's own files through an overlay, as leafd's default has it; mounted once."""
    scratch = path.parent / "scratch"
    for directory in (path, scratch):
        directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", scratch], check=True)
    for directory in (scratch / "upper", scratch / "work"):
        directory.mkdir()
    options = f"lowerdir=/,upperdir={scratch}/upper,workdir={scratch}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, path], check=True)


def _timed(*command: str) -> int:
    null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1)]
    began = time.perf_counter_ns()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=null)
    _, status = os.waitpid(pid, 0)
    elapsed = time.perf_counter_ns() - began
    if status != 0:
        raise SystemExit(f"{' '.join(command)}: status {status}")
    return elapsed


def launch(runtime: str, container: str, directory: Path) -> int:
    """Start a container and take it away again; the start counts."""
    elapsed = _timed(runtime, "run", "--detach", "--bundle", str(directory), container)
    subprocess.run([runtime, "delete", "--force", container], check=True)
    return elapsed


def exec_(runtime: str, container: str, directory: Path) -> int:
    """Run `true` in a container that is made for it; the exec counts."""
    subprocess.run([runtime, "run", "--detach", "--bundle", directory, container], check=True, stdin=subprocess.DEVNULL)
    elapsed = _timed(runtime, "exec", container, "true")
    subprocess.run([runtime, "delete", "--force", container], check=True)
    return elapsed


MEASUREMENTS = {"launch": launch, "exec": exec_}


class Peers:
    """The process above, from the outside."""

    def __init__(self, directory: Path, document: dict[str, object], cgroup_mount: str) -> None:
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(document))
        pure = "umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; "
        script = ("" if cgroup_mount == "/sys/fs/cgroup" else pure) + 'exec "$@"'
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
        command += [sys.executable, __file__, str(directory)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="ascii")
        self._number = 0

    def measure(self, what: str, runtime: str) -> int:
        """Nanoseconds of one `launch` or `exec` by `runtime`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._number += 1
        self._process.stdin.write(f"{what} {runtime} leafd-bench-{os.getpid()}-{self._number}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{runtime} {what} failed; see above")
        return int(answer)

    def close(self) -> None:
        """End it; its mounts go with its namespace."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


if __name__ == "__main__":
    main()
