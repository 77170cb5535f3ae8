"""What tests read from /proc."""

from pathlib import Path


def children(pid: int) -> set[int]:
    """The children of a process of one thread (proc_tid_children(5)). Raises OSError for one that is gone."""
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
