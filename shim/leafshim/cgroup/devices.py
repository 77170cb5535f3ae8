"""The devices controller: device rules, compiled to one eBPF program on the container's cgroup.

cgroups v2 has no devices controller of its own: the kernel asks the programs attached to a cgroup, at every open and
mknod of a device, whether it may be (Documentation/admin-guide/cgroup-v2.rst, "Device controller"). All on the way from
the root down must agree, so a nested container never has more than the one around it.

The rules are in the program twice: as code, and before it as constants that nothing uses. The kernel rewrites code that
it loads (it removes what it proves to be dead), but not those; so `read` finds in the kernel what is in force, whoever
set it, and nothing has to be kept on disk. An update replaces the program in one step, and no open falls between.

Where the kernel refuses such programs (no CAP_BPF, none in its configuration), a container that asks for rules of its
own is refused; one that has the defaults runs without them, as it would under a runtime that has no rules.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from leafshim.cgroup.controller import Controller
from leafshim.cgroup.device_rules import ALL, Access, Entry, of_rules
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import KernelError, LeafError, StateError, Unsupported
from leafshim.kernel import bpf

if TYPE_CHECKING:
    from leafshim.spec.model import DeviceRule

NAME = "leafd_devices"

_MAGIC = int.from_bytes(b"leafdev\1")
_NO_PROGRAMS = (errno.EPERM, errno.EINVAL, errno.ENOSYS)

# Registers: the verdict; struct bpf_cgroup_dev_ctx; and what is in it, for everybody to compare with.
_VERDICT, _CONTEXT, _ACCESS, _TYPE, _MAJOR, _MINOR = range(6)
_REFUSED, _GRANTED = 0, 1
_TYPES = {"b": 1, "c": 2}


class Devices(Controller):
    """What is in force. It is not set by `settings` but by `prepare` and `configure`: there are no files."""

    name = "devices"

    def status(self, cgroup: Cgroup) -> dict[str, str]:
        """`devices`: the rules in force; nothing where there are none. Raises KernelError, StateError."""
        access = _read_if_any(cgroup)
        return {} if access is None else {"devices": str(access)}

    def recover(self, cgroup: Cgroup) -> None:
        """There must be one program of ours, or none. Raises StateError, KernelError."""
        _read_if_any(cgroup)


def prepare(cgroup: Cgroup, rules: "Sequence[DeviceRule]") -> None:
    """Put the rules of linux.resources.devices in force; without rules there is no program. Also for an update.

    Raises InputError, KernelError, StateError, and Unsupported where the kernel has no such programs and a rule asks
    for more than the defaults.
    """
    if not rules:
        return
    try:
        configure(cgroup, of_rules(tuple(rules)))
    except Unsupported:
        if any(rule.allow for rule in rules):
            raise


@cache
def compile_access(access: Access) -> bpf.Code:
    """The program that decides by these two lists, with the lists before it for `decode`."""
    code: list[bpf.Instruction] = []
    for value in (_MAGIC, *(_encode(False, entry) for entry in access.deny), *(_encode(True, e) for e in access.allow)):
        code += bpf.set_to_64(_VERDICT, value)
    code += (
        bpf.load_word(_ACCESS, _CONTEXT, 0),  # access << 16 | type
        bpf.move(_TYPE, _ACCESS),
        bpf.mask(_TYPE, 0xFFFF),
        bpf.shift_right(_ACCESS, 16),
        bpf.load_word(_MAJOR, _CONTEXT, 4),
        bpf.load_word(_MINOR, _CONTEXT, 8),
    )
    for entry in access.deny:
        has_any = (bpf.jump_if_any(_ACCESS, entry.access, 1), bpf.jump(bpf.END))
        code += bpf.block(*_unless_selected(entry), *has_any, *_answer(_REFUSED))
    for entry in access.allow:
        # Also where nothing is missing, and it never jumps: the kernel accepts no code that nothing can reach.
        lacks_one = bpf.jump_if_any(_ACCESS, ALL & ~entry.access, bpf.END)
        code += bpf.block(*_unless_selected(entry), lacks_one, *_answer(_GRANTED))
    return (*code, *_answer(_REFUSED))


def _unless_selected(entry: Entry) -> Iterator[bpf.Instruction]:
    if entry.type != "a":
        yield bpf.jump_unless_equal(_TYPE, _TYPES[entry.type], bpf.END)
    if entry.major is not None:
        yield bpf.jump_unless_equal(_MAJOR, entry.major, bpf.END)
    if entry.minor is not None:
        yield bpf.jump_unless_equal(_MINOR, entry.minor, bpf.END)


def _answer(verdict: int) -> bpf.Code:
    return bpf.set_to(_VERDICT, verdict), bpf.EXIT


def _encode(allow: bool, entry: Entry) -> int:
    """One constant: allow, type, access, then major and minor in 16 and 32 bits, all ones for any."""
    major, minor = (-1 if number is None else number for number in (entry.major, entry.minor))
    return allow << 63 | ord(entry.type) << 52 | entry.access << 48 | (major & 0xFFFF) << 32 | minor & 0xFFFFFFFF


def decode(code: bytes) -> Access | None:
    """The lists that a program of ours was compiled from; None for somebody else's."""
    magic, *values = [*bpf.leading_constants(code)] or [0]
    if magic != _MAGIC:
        return None
    lists: tuple[list[Entry], list[Entry]] = ([], [])
    for value in values:
        major, minor = value >> 32 & 0xFFFF, value & 0xFFFFFFFF
        lists[value >> 63].append(
            Entry(
                chr(value >> 52 & 0x7F),
                None if major == 0xFFFF else major,
                None if minor == 0xFFFFFFFF else minor,
                value >> 48 & ALL,
            )
        )
    deny, allow = lists
    return Access(tuple(allow), tuple(deny))


def configure(cgroup: Cgroup, access: Access) -> None:
    """Put this in force, in place of what was. Raises Unsupported where the kernel has no such programs; KernelError,
    StateError."""
    directory = cgroup.open()
    try:
        program = _load(access)
        try:
            found = _find(cgroup, directory)
            if found is None:
                bpf.attach(directory, bpf.CGROUP_DEVICE, program)
            else:
                _replace(directory, found[0], program)
        finally:
            os.close(program)
    finally:
        os.close(directory)


def _replace(directory: int, former_id: int, program: int) -> None:
    former = bpf.open_id(former_id)
    try:
        bpf.attach(directory, bpf.CGROUP_DEVICE, program, replace=former)
    finally:
        os.close(former)


def read(cgroup: Cgroup) -> Access | None:
    """What is in force, as the kernel has it; None without a program of ours.

    Raises Unsupported where the kernel has no such programs, or does not let us see them; KernelError, StateError.
    """
    directory = cgroup.open()
    try:
        found = _find(cgroup, directory)
        return None if found is None else found[1]
    finally:
        os.close(directory)


def probe() -> None:
    """Raises Unsupported where the kernel has no such programs, or takes none from us; KernelError."""
    os.close(_load(Access()))


def _read_if_any(cgroup: Cgroup) -> Access | None:
    try:
        return read(cgroup)
    except Unsupported:
        return None


def _load(access: Access) -> int:
    try:
        return bpf.load(bpf.PROG_TYPE_CGROUP_DEVICE, NAME, compile_access(access))
    except bpf.Rejected:
        raise
    except KernelError as error:
        raise _explained(error) from error


def _explained(error: KernelError) -> LeafError:
    """The error, or in its place the one that says what this host lacks."""
    if error.errno not in _NO_PROGRAMS:
        return error
    return Unsupported(f"device rules: the kernel takes no cgroup device programs from us ({error})")


def _find(cgroup: Cgroup, directory: int) -> tuple[int, Access] | None:
    """The id of our program and its rules. Others may have theirs (systemd's DeviceAllow=): they stay."""
    try:
        attached = bpf.attached(directory, bpf.CGROUP_DEVICE)
    except KernelError as error:
        raise _explained(error) from error
    ours: list[tuple[int, Access]] = []
    for number in attached:
        program = bpf.open_id(number)
        try:
            access = decode(bpf.describe(program).code)
        finally:
            os.close(program)
        if access is not None:
            ours.append((number, access))
    if len(ours) > 1:
        raise StateError(f"{cgroup.path} has {len(ours)} device programs of ours")
    return ours[0] if ours else None
