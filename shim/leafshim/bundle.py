"""A container's directory: what is where.

config.json   the OCI description                      (written by the supervisor, or containerd)
container     the supervisor's own record
checkpoint    the shim's record
shim.sock     the shim's socket
log           the container's output, in CRI format
exit          the exit record, where no other place was named
rootfs/       the mount point of the root file system, in the container's own mount namespace
"""

import os


def directory_name(container_id: str) -> str:
    """The name of a container's directory. An id has no colon, so nested ids (`web/db`) stay apart: `web:db`."""
    return container_id.replace("/", ":")


def id_of(directory: str) -> str:
    """The inverse of `directory_name`."""
    return directory.replace(":", "/")


class Bundle:
    """Paths of one container's directory. Nothing is opened or created here."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def of(cls, root: str, container_id: str) -> "Bundle":
        """The bundle of a container of the supervisor that has its `root` there."""
        return cls(os.path.join(root, "containers", directory_name(container_id)))

    @property
    def config(self) -> str:
        """The OCI description."""
        return os.path.join(self.path, "config.json")

    @property
    def record(self) -> str:
        """The supervisor's record."""
        return os.path.join(self.path, "container")

    @property
    def checkpoint(self) -> str:
        """The shim's record."""
        return os.path.join(self.path, "checkpoint")

    @property
    def socket(self) -> str:
        """The shim's socket."""
        return os.path.join(self.path, "shim.sock")

    @property
    def log(self) -> str:
        """The container's output."""
        return os.path.join(self.path, "log")

    @property
    def exit(self) -> str:
        """The exit record, where CreateOptions names no other place."""
        return os.path.join(self.path, "exit")

    @property
    def rootfs(self) -> str:
        """Where the root file system is mounted."""
        return os.path.join(self.path, "rootfs")
