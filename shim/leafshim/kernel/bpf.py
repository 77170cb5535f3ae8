"""eBPF programs: assembled, loaded, attached to a cgroup, found again (bpf(2), bpf-helpers(7), linux/bpf.h).

Rules:
1. An instruction is a value; a program is a sequence of them. Numbers of registers are the caller's business.
2. Descriptors of programs are close-on-exec, as the kernel makes them, and the caller's to close. An attached program
   lives for as long as its cgroup: no process of ours needs to stay. (A BPF link would end with its last descriptor.)
3. Attached is with BPF_F_ALLOW_MULTI: a cgroup's programs and those of the cgroups above it must all agree, so that
   nobody below can take a restriction back.
4. A buffer that the kernel writes to is as large as it may ever write, whatever size it is told: since Linux 6.16
   BPF_PROG_QUERY writes up to byte 64 of an attribute of 32.
"""

import ctypes
import errno
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from leafshim.errors import KernelError
from leafshim.kernel import syscalls

PROG_TYPE_CGROUP_DEVICE = 15
CGROUP_DEVICE = 6  # enum bpf_attach_type

_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID = 5, 8, 9, 13
_OBJ_GET_INFO_BY_FD, _PROG_QUERY = 15, 16
_F_ALLOW_MULTI, _F_REPLACE = 1 << 1, 1 << 2

_MOST_PROGRAMS = 64  # of one type on one cgroup: BPF_CGROUP_MAX_PROGS
_LOG_SIZE = 1 << 16
_LICENSE = ctypes.create_string_buffer(b"Apache-2.0")

_SET_TO_64 = 0x18  # the code of the one instruction that takes two places
_INSTRUCTION = struct.Struct("=BBhi")
_LOAD = struct.Struct("=IIQQIIQII16sII")
_ATTACH = struct.Struct("=IIIII")
_QUERY = struct.Struct("=IIIIQI36x")
_INFO_ATTRIBUTE = struct.Struct("=IIQ")
_INFO = struct.Struct("=II8sIIQQQIIQ16s")
_Info = tuple[int, int, bytes, int, int, int, int, int, int, int, int, bytes]


class Instruction(NamedTuple):
    """One instruction of 64 bits (the kernel's Documentation/bpf/standardization/instruction-set.rst).

    `offset`: of memory, or of a jump, in instructions from the next; `block` resolves END.
    """

    code: int
    target: int = 0
    source: int = 0
    offset: int = 0
    value: int = 0

    def pack(self) -> bytes:
        """As the kernel reads it."""
        return _INSTRUCTION.pack(self.code, self.source << 4 | self.target, self.offset, self.value)


Code = tuple[Instruction, ...]

END = 1 << 15
"""As a jump's offset: to behind the block that it is in. No real offset has this value."""

EXIT = Instruction(0x95)
"""Return what is in register 0."""


def load_word(target: int, source: int, offset: int) -> Instruction:
    """target = the 32 bits at source + offset."""
    return Instruction(0x61, target, source, offset)


def move(target: int, source: int) -> Instruction:
    """target = source, 32 bits."""
    return Instruction(0xBC, target, source)


def set_to(target: int, value: int) -> Instruction:
    """target = value, 32 bits."""
    return Instruction(0xB4, target, value=value)


def set_to_64(target: int, value: int) -> Code:
    """target = value, 64 bits, unsigned: in two places."""
    low, high = struct.unpack("=ii", struct.pack("=Q", value))
    return Instruction(_SET_TO_64, target, value=low), Instruction(0, value=high)


def mask(target: int, value: int) -> Instruction:
    """target &= value, 32 bits."""
    return Instruction(0x54, target, value=value)


def shift_right(target: int, count: int) -> Instruction:
    """target >>= count, 32 bits, zeros from the left."""
    return Instruction(0x74, target, value=count)


def jump(offset: int) -> Instruction:
    """Always."""
    return Instruction(0x05, offset=offset)


def jump_unless_equal(source: int, value: int, offset: int) -> Instruction:
    """If source != value."""
    return Instruction(0x55, source, offset=offset, value=value)


def jump_if_any(source: int, bits: int, offset: int) -> Instruction:
    """If source & bits."""
    return Instruction(0x45, source, offset=offset, value=bits)


def block(*instructions: Instruction) -> Code:
    """The instructions, with jumps to END going behind the last of them."""
    behind = len(instructions) - 1
    return tuple(
        instruction._replace(offset=behind - index) if instruction.offset == END else instruction
        for index, instruction in enumerate(instructions)
    )


def leading_constants(code: bytes) -> Iterator[int]:
    """The values that a program's first instructions set by `set_to_64`, up to the first of another kind."""
    for place in range(0, len(code) - 2 * _INSTRUCTION.size + 1, 2 * _INSTRUCTION.size):
        if code[place] != _SET_TO_64:
            return
        low, high = (_INSTRUCTION.unpack_from(code, place + half)[3] for half in (0, _INSTRUCTION.size))
        yield low & 0xFFFFFFFF | (high & 0xFFFFFFFF) << 32


class Rejected(KernelError):
    """The kernel's verifier refuses a program; `log` says at which instruction and why."""

    def __init__(self, number: int, name: str, log: str) -> None:
        super().__init__("bpf", number, f"PROG_LOAD {name}")
        self.log = log

    def __str__(self) -> str:
        return f"{super().__str__()}: {' / '.join(self.log.strip().splitlines()[-4:])}"


class Program(NamedTuple):
    """A loaded program, as the kernel has it. `code`: after verification, without what can never run."""

    id: int
    type: int
    name: str
    code: bytes


def load(program_type: int, name: str, program: Iterable[Instruction]) -> int:
    """Load a program: its descriptor. `name`: at most 15 of A-Za-z0-9_.

    Raises Rejected; KernelError: EPERM without CAP_BPF, EINVAL for a type that the kernel lacks.
    """
    code = b"".join(instruction.pack() for instruction in program)
    # To have the log written costs more than the verification, so it is asked for the second time.
    try:
        return _load(program_type, name, code, None)
    except KernelError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES, errno.E2BIG):
            raise
        log = ctypes.create_string_buffer(_LOG_SIZE)
        try:
            return _load(program_type, name, code, log)
        except KernelError as again:
            if not log.value:
                raise
            raise Rejected(again.errno, name, log.value.decode(errors="replace")) from None


def _load(program_type: int, name: str, code: bytes, log: "ctypes.Array[ctypes.c_char] | None") -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    attributes = _LOAD.pack(
        program_type,
        len(code) // _INSTRUCTION.size,
        ctypes.addressof(instructions),
        ctypes.addressof(_LICENSE),
        1 if log else 0,
        len(log) if log else 0,
        ctypes.addressof(log) if log else 0,
        0,
        0,
        name.encode(),
        0,
        0,
    )
    return syscalls.bpf(_PROG_LOAD, attributes, len(attributes), path=f"PROG_LOAD {name}")


def attach(cgroup: int, kind: int, program: int, *, replace: int | None = None) -> None:
    """Attach a program to the cgroup of that descriptor; in place of the program `replace`, with no instant between.

    `kind`: CGROUP_DEVICE. Raises KernelError: EPERM where a cgroup above has a program that suffers none below it;
    ENOENT where `replace` is not attached there.
    """
    flags = _F_ALLOW_MULTI if replace is None else _F_ALLOW_MULTI | _F_REPLACE
    attributes = _ATTACH.pack(cgroup, program, kind, flags, replace or 0)
    syscalls.bpf(_PROG_ATTACH, attributes, len(attributes), path="PROG_ATTACH")


def detach(cgroup: int, kind: int, program: int) -> None:
    """Take a program off a cgroup. Raises KernelError: ENOENT where it is not attached."""
    attributes = _ATTACH.pack(cgroup, program, kind, 0, 0)
    syscalls.bpf(_PROG_DETACH, attributes, len(attributes), path="PROG_DETACH")


def attached(cgroup: int, kind: int) -> tuple[int, ...]:
    """The ids of the programs on this very cgroup, in the order in which they run. Raises KernelError."""
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    query = ctypes.create_string_buffer(_QUERY.pack(cgroup, kind, 0, 0, ctypes.addressof(ids), len(ids)), _QUERY.size)
    syscalls.bpf(_PROG_QUERY, query, _QUERY.size, path="PROG_QUERY")
    count: int = _QUERY.unpack(query.raw)[5]
    return tuple(ids[:count])


def open_id(program_id: int) -> int:
    """A descriptor of the program. Raises KernelError: ENOENT for none, EPERM without CAP_SYS_ADMIN."""
    attributes = _ATTACH.pack(program_id, 0, 0, 0, 0)[:12]
    return syscalls.bpf(_PROG_GET_FD_BY_ID, attributes, len(attributes), path=f"PROG_GET_FD_BY_ID {program_id}")


def describe(program: int) -> Program:
    """What the kernel knows of a program. Raises KernelError."""
    code = ctypes.create_string_buffer(max(_info(program, None)[4], 1))
    kind, number, _, _, length, _, _, _, _, _, _, name = _info(program, code)
    return Program(number, kind, name.rstrip(b"\0").decode(errors="replace"), code.raw[:length])


def _info(program: int, code: "ctypes.Array[ctypes.c_char] | None") -> _Info:
    """struct bpf_prog_info. With no room for the code, the kernel says how long it is."""
    info = ctypes.create_string_buffer(_INFO.size)
    if code:
        _INFO.pack_into(info, 0, 0, 0, b"", 0, len(code), 0, ctypes.addressof(code), 0, 0, 0, 0, b"")
    attributes = ctypes.create_string_buffer(_INFO_ATTRIBUTE.pack(program, _INFO.size, ctypes.addressof(info)))
    syscalls.bpf(_OBJ_GET_INFO_BY_FD, attributes, _INFO_ATTRIBUTE.size, path="OBJ_GET_INFO_BY_FD")
    found: _Info = _INFO.unpack(info.raw)
    return found
