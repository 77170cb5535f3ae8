"""Which file is run, and with what. Looked up in the container by the process's own user, as execvp(3) does it."""

import errno
import os
import stat
from typing import NoReturn

from leafshim.errors import KernelError
from leafshim.kernel.execve import Strings, execve
from leafshim.spec import Process

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where an environment has no PATH."""


class Program:
    """The program of a process. Made by the plan; `find` and `run` are the child's last steps."""

    __slots__ = ("_arguments", "_candidates", "_environment", "name")

    def __init__(self, process: Process) -> None:
        self.name = process.args[0]
        self._arguments = Strings(process.args)
        self._environment = Strings(process.env)
        if "/" in self.name:
            self._candidates: tuple[str, ...] = (self.name,)
        else:
            search = next((entry[5:] for entry in process.env if entry.startswith("PATH=")), _DEFAULT_PATH)
            self._candidates = tuple(f"{directory or '.'}/{self.name}" for directory in search.split(":"))

    def find(self) -> str:
        """The file to run. Raises KernelError: ENOENT, or EACCES where there is one that may not be run."""
        for candidate in self._candidates:
            if os.access(candidate, os.X_OK) and stat.S_ISREG(os.stat(candidate).st_mode):
                return candidate
        raise KernelError("exec", self._reason(), self.name)

    def _reason(self) -> int:
        reason = errno.ENOENT
        for candidate in self._candidates:
            try:
                os.stat(candidate)
                reason = errno.EACCES
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    reason = error.errno or errno.EACCES
        return reason

    def run(self, file: str) -> NoReturn:
        """Become the program. Raises KernelError."""
        try:
            execve(file, self._arguments, self._environment)
        except KernelError as error:
            raise KernelError("exec", error.errno, self.name) from None
