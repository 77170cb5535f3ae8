"""bundle: all that can be found, as one tar file for a bug report.

It holds no value of the environment, and nothing that the workload wrote; command lines it does hold.
"""

import io
import json
import os
import tarfile
import time
from collections.abc import Mapping

from leafd.inspection.target import Target
from leafshim.bundle import directory_name
from leafshim.errors import AlreadyExists, KernelError

_HIDDEN = "(hidden)"


def default_name(target: Target) -> str:
    """A file name that says which container and when."""
    return f"leafd-debug-{directory_name(target.id)}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.tar"


def write(path: str, target: Target, topics: Mapping[str, object]) -> list[str]:
    """Make the file at `path`, for its owner alone; the names in it. Raises AlreadyExists, KernelError."""
    content = {f"{topic}.json": _json(value) for topic, value in topics.items()}
    content["host.json"] = _json({"kernel": os.uname().release, "machine": os.uname().machine, "time": time.time_ns()})
    for name, source in (
        ("config.json", target.bundle.config),
        ("defects", os.path.join(target.bundle.path, "defects")),
    ):
        try:
            with open(source, "rb") as file:
                content[name] = _without_values(file.read()) if name == "config.json" else file.read()
        except OSError:  # there need be no defects
            continue
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            _pack(file, f"leafd-debug-{directory_name(target.id)}", content)
    except FileExistsError:
        raise AlreadyExists(f"{path}: exists already") from None
    except OSError as error:
        raise KernelError("write", error.errno or 0, path) from error
    return sorted(content)


def _pack(file: io.BufferedWriter, top: str, content: Mapping[str, bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in sorted(content.items()):
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(data))


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _without_values(document: bytes) -> bytes:
    """An OCI description with the names of its environment alone; nothing of one that cannot be understood."""
    try:
        description = json.loads(document)
        process = description.get("process", {})
        process["env"] = [f"{entry.partition('=')[0]}={_HIDDEN}" for entry in process.get("env", [])]
    except (ValueError, AttributeError, TypeError):
        return b""
    return _json(description)
