"""Where cgroup2 is, on hosts of every kind."""

from pathlib import Path

import pytest

from leafshim.cgroup.hierarchy import find_mount
from leafshim.errors import KernelError, Unsupported

ROOT = "23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw"
TMPFS = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755"
V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
HYBRID = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:2 - cgroup2 cgroup2 rw"
PURE = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"
BOUND = r"90 23 0:26 /leafd/web/leaf /mnt/web\040leaf rw - cgroup2 cgroup2 rw"
ODD = r"91 23 0:26 / /mnt/a\040b\134040 rw - cgroup2 cgroup2 rw"
DECOY = "92 23 0:50 / /mnt/cgroup2 rw - tmpfs cgroup2 rw"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([ROOT, PURE], "/sys/fs/cgroup"),
        ([ROOT, TMPFS, V1, HYBRID], "/sys/fs/cgroup/unified"),
        ([BOUND, ROOT, PURE], "/sys/fs/cgroup"),
        ([BOUND], "/mnt/web leaf"),
        ([ODD], r"/mnt/a b\040"),
        ([DECOY, HYBRID], "/sys/fs/cgroup/unified"),
    ],
)
def test_mount(tmp_path: Path, lines: list[str], expected: str) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("\n".join(lines) + "\n")
    assert find_mount(str(mountinfo)) == expected


@pytest.mark.parametrize("lines", [[], [ROOT, TMPFS, V1], [DECOY]])
def test_host_without_cgroup2(tmp_path: Path, lines: list[str]) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("\n".join(lines))
    with pytest.raises(Unsupported, match="no cgroup2 file system is mounted"):
        find_mount(str(mountinfo))


def test_no_proc(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"read .*missing: No such file"):
        find_mount(str(tmp_path / "missing"))
