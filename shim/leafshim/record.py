"""Records: small facts on disk that survive a crash, or are known to be torn.

A file is a header and a msgpack map:

    4 bytes  b"LEAF"
    2 bytes  schema version, big-endian (this file writes 1)
    4 bytes  length of the payload, big-endian
    4 bytes  zlib.crc32 of the payload, big-endian
    payload  msgpack of {"kind": KIND, "value": {...}}

Rules:
1. A record is written to a temporary name beside it and renamed: a reader sees the old one or the new one, whole.
2. A reader trusts nothing: magic, version, length, checksum and kind are checked, and the file must be a regular one.
   What fails is a DamagedRecord with path and cause; `quarantine` moves it aside, so that it is seen once and kept for
   whoever wants to know.
3. `sync=True` is for what must survive a loss of power: the file, then its directory, are synced (fsync(2)). What lives
   in /run dies with the boot anyway, so it is never synced.
"""

import os
import stat
import struct
import zlib
from typing import TypeAlias, cast

import msgpack

from leafshim.errors import DamagedRecord, KernelError, NotFound

Value: TypeAlias = "bool | int | float | str | bytes | list[Value] | dict[str, Value] | None"

_HEADER = struct.Struct(">4sHII")
_MAGIC = b"LEAF"
_VERSION = 1
_LIMIT = 16 << 20


def encode(kind: str, value: dict[str, Value]) -> bytes:
    """The bytes of one record."""
    payload: bytes = msgpack.packb({"kind": kind, "value": value})
    return _HEADER.pack(_MAGIC, _VERSION, len(payload), zlib.crc32(payload)) + payload


def decode(data: bytes, kind: str, path: str) -> dict[str, Value]:
    """The value in the bytes of one record; `path` is for the message. Raises DamagedRecord."""
    if len(data) < _HEADER.size:
        raise DamagedRecord(path, f"torn: {len(data)} bytes")
    magic, version, length, checksum = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise DamagedRecord(path, "not a record of leafd's")
    if version != _VERSION:
        raise DamagedRecord(path, f"schema version {version}, this build reads {_VERSION}")
    payload = data[_HEADER.size :]
    if len(payload) != length:
        raise DamagedRecord(path, f"torn: {len(payload)} of {length} bytes")
    if zlib.crc32(payload) != checksum:
        raise DamagedRecord(path, "checksum mismatch")
    try:
        content = msgpack.unpackb(payload)
    except ValueError as error:
        raise DamagedRecord(path, f"not msgpack: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("value"), dict):
        raise DamagedRecord(path, "not a map of kind and value")
    if content.get("kind") != kind:
        raise DamagedRecord(path, f"a record of kind {content.get('kind')!r}, not {kind!r}")
    return cast("dict[str, Value]", content["value"])


def write(path: str, kind: str, value: dict[str, Value], *, sync: bool = False) -> None:
    """Put the record at `path`, whole or not at all. Raises KernelError; the old record then stands."""
    temporary = f"{path}.new"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            data = encode(kind, value)
            while data:
                data = data[os.write(fd, data) :]
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
        if sync:
            _sync_directory(os.path.dirname(path))
    except OSError as error:
        raise KernelError.of(error, "write record") from error


def read(path: str, kind: str) -> dict[str, Value]:
    """The value of the record at `path`. Raises NotFound, DamagedRecord, KernelError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such record") from None
    except OSError as error:
        raise KernelError.of(error, "open record") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise DamagedRecord(path, "not a regular file")
        if status.st_uid not in (0, os.geteuid()):
            raise DamagedRecord(path, f"belongs to user {status.st_uid}")
        if status.st_size > _LIMIT:
            raise DamagedRecord(path, f"{status.st_size} bytes, more than a record may have")
        data = os.read(fd, _LIMIT)
    except OSError as error:
        raise KernelError.of(error, "read record") from error
    finally:
        os.close(fd)
    return decode(data, kind, path)


def quarantine(path: str) -> str:
    """Move a damaged record out of the way, to `PATH.damaged` (replacing an older one there). The new path."""
    aside = f"{path}.damaged"
    try:
        os.rename(path, aside)
    except OSError as error:
        raise KernelError.of(error, "quarantine") from error
    return aside


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
