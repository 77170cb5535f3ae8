"""The container's description as it was last read: config.json is parsed and checked again only when it has changed."""

import os

from leafshim.errors import KernelError
from leafshim.spec import Spec, load


class Description:
    """config.json at a path that is given with each reading."""

    def __init__(self) -> None:
        self._version: tuple[int, int, int] | None = None
        self._spec: Spec | None = None

    def read(self, path: str) -> Spec:
        """What the file says. Raises InputError that names the offending field, KernelError."""
        try:
            with open(path, "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                version = (status.st_ino, status.st_size, status.st_mtime_ns)
                if self._spec is None or version != self._version:
                    self._spec = None
                    self._spec = load(file.read())
                    self._version = version
        except OSError as error:
            raise KernelError.of(error, "read") from error
        return self._spec
