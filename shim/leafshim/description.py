"""The description in the bundle, config.json: read, and kept true: an update that was carried out is in it too.

So a container that is started again has the limits that it had, not those that it was made with.

Rules:
1. It is written when the kernel has accepted the limits and before anybody is told so, to a name beside it, and
   renamed: a reader sees the old description or the new one, whole.
2. Whoever is killed between the kernel's answer and the rename leaves limits in force that a restart would not bring
   back; nobody was told that they were set, and the same update again makes it good.
3. Limits become `linux.resources.unified`, in the words of the kernel's files, since a later change may be one that the
   fields of the specification cannot say. Everything else stays as it is.
"""

import json
import os

from leafshim.bundle import Bundle
from leafshim.cgroup.amend import amend, unified
from leafshim.cgroup.isolator import Settings, translate
from leafshim.errors import KernelError
from leafshim.spec import Spec, load

_LIMITS = ("memory", "cpu", "pids", "blockIO", "hugepageLimits", "rdma", "unified")


class Description:
    """config.json at a path that is given with each reading; parsed and checked again only when it has changed."""

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


class Draft:
    """The description as it will be: `keep` it, or `discard` it."""

    def __init__(self, bundle: Bundle, settings: Settings, devices: object = None) -> None:
        """With `settings` changed and, unless empty, the list of device rules replaced. Written, but not in its place.

        Raises InputError for a description that cannot be read any more, KernelError.
        """
        self._path, self._new = bundle.config, f"{bundle.config}.new"
        try:
            with open(self._path, "rb", buffering=0) as file:
                mode, content = os.fstat(file.fileno()).st_mode & 0o777, file.read()
            document = _amended(content, settings, devices)
            fd = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            try:
                while document:
                    document = document[os.write(fd, document) :]
            finally:
                os.close(fd)
        except OSError as error:
            self.discard()
            raise KernelError.of(error, "write description") from error

    def keep(self) -> None:
        """From now on it is the description. Raises KernelError."""
        try:
            os.rename(self._new, self._path)
        except OSError as error:
            raise KernelError.of(error, "rename description") from error

    def discard(self) -> None:
        """Leave everything as it was."""
        try:
            os.unlink(self._new)
        except OSError:
            pass


def _amended(content: bytes, settings: Settings, devices: object) -> bytes:
    """Raises InputError."""
    former = translate(load(content).linux.resources.limits)
    document = json.loads(content)
    linux = document.get("linux") or {}
    resources = {name: part for name, part in (linux.get("resources") or {}).items() if name not in _LIMITS}
    if lasting := unified(amend(former, settings)):
        resources["unified"] = lasting
    if devices:
        resources["devices"] = devices
    document["linux"] = {**linux, "resources": resources}
    return json.dumps(document).encode()
