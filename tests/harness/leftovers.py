"""What must not be left once all containers of a leafd are removed."""

import os
import re
import time
from collections import Counter
from pathlib import Path

from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.cgroup.layout import Layout
from tests.harness.leafd import DEADLINE, Leafd

MOST_DYING = 100  # cgroups that the kernel has not freed yet
_RETRY = 0.05  # s


class Leftovers:
    """How a leafd without containers looks at the beginning, to be compared with how it looks at the end."""

    def __init__(self, leafd: Leafd) -> None:
        self._leafd = leafd
        self._layout = Layout(find_mount(), leafd.name)
        self._before = self._look()

    def check(self) -> int:
        """Nothing is left; the number of cgroups that are dying."""
        assert list(self._layout.containers()) == []
        for directory in (self._leafd.root / "containers", self._leafd.root / "trash", self._leafd.state / "exits"):
            assert os.listdir(directory) == []
        assert str(self._leafd.root) not in Path("/proc/self/mountinfo").read_text()
        deadline = time.monotonic() + DEADLINE
        while (now := self._look()) != self._before and time.monotonic() < deadline:
            time.sleep(
                _RETRY
            )  # a spare shim is being made, one ends that was told to, a descriptor is about to be closed
        assert now == self._before, f"more than before: {now - self._before}, less: {self._before - now}"
        statistics = dict(line.split() for line in Cgroup(self._leafd.cgroups_root).read("cgroup.stat").splitlines())
        dying = int(statistics["nr_dying_descendants"])
        assert dying <= MOST_DYING
        return dying

    def _look(self) -> Counter[str]:
        """Descriptors of leafd and the nursery by their kind, processes, sockets."""
        with self._leafd.client as client:
            version = client.version()
            client.recover()
        seen: Counter[str] = Counter()
        for name, pid in (("leafd", version.pid), ("nursery", version.nursery_pid)):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                try:
                    target = os.readlink(entry)
                except OSError:
                    continue
                seen[f"{name} {re.sub('[0-9]+', 'N', target)}"] += 1
        seen["shims"] = len(Cgroup(self._layout.shims).processes())
        seen.update(f"socket {path.name}" for path in self._leafd.root.rglob("*") if path.is_socket())
        return seen
