"""Who may do what with which devices: rules as data. Nothing here touches the kernel.

Two lists decide, `allow` and `deny` (Apache Mesos, "cgroups/devices" on cgroups v2):

1. What is asked for are bits (read, write, mknod) of one device.
2. A deny entry that has any of the bits refuses. It wins.
3. Otherwise an allow entry that has all of the bits grants.
4. Otherwise it is refused.

A list is normalized when no entry is empty, no two have the same selector, and none is covered by another. `normalize`
makes it so, and keeps the order.

The OCI's list is another thing: each rule changes what the earlier ones said (config-linux.md, "Allowed Device List").
`Access.amend` carries the rules over, one by one, into the two lists. What they cannot express is an exception from an
exception, `allow c *:*`, `deny c 10:*`, `allow c 10:229`: it is refused.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from leafshim.errors import InputError

if TYPE_CHECKING:
    from leafshim.spec.model import DeviceRule

MKNOD, READ, WRITE = 1, 2, 4
"""Bits of an access, as the kernel numbers them (linux/bpf.h, BPF_DEVCG_ACC_*)."""

_LETTERS = {"r": READ, "w": WRITE, "m": MKNOD}
ALL = READ | WRITE | MKNOD


class Entry(NamedTuple):
    """Devices, and accesses to them. `type`: c, b, or a for both. `major` and `minor` None: any. `access`: bits."""

    type: str
    major: int | None
    minor: int | None
    access: int

    @classmethod
    def parse(cls, text: str) -> "Entry":
        """An entry from `c 1:3 rwm`, as the kernel's and Mesos's files have it; `*` is any. Raises InputError."""
        try:
            kind, numbers, letters = text.split()
            major, minor = (None if number == "*" else int(number) for number in numbers.split(":"))
            entry = cls(kind, major, minor, bits(letters))
        except (ValueError, KeyError):
            raise InputError(f"device entry {text!r}: must look like c 1:3 rwm") from None
        if kind not in ("a", "b", "c") or (major or 0) not in range(1 << 12) or (minor or 0) not in range(1 << 20):
            raise InputError(f"device entry {text!r}: no such devices")
        return entry

    def __str__(self) -> str:
        major, minor = ("*" if number is None else number for number in (self.major, self.minor))
        return f"{self.type} {major}:{minor} {self.letters()}"

    def letters(self) -> str:
        """Its accesses, as in `rwm`."""
        return "".join(letter for letter, bit in _LETTERS.items() if self.access & bit)

    def wildcard(self) -> bool:
        """Whether it may mean more than one device."""
        return self.type == "a" or self.major is None or self.minor is None

    def selects(self, other: "Entry") -> bool:
        """Whether every device of `other`'s is one of ours."""
        return (
            self.type in ("a", other.type)
            and self.major in (None, other.major)
            and self.minor in (None, other.minor)
        )  # fmt: skip

    def meets(self, other: "Entry") -> bool:
        """Whether a device can be one of ours and of `other`'s."""
        return all(
            mine == theirs or any_ in (mine, theirs)
            for mine, theirs, any_ in zip(self[:3], other[:3], ("a", None, None), strict=True)
        )

    def covers(self, other: "Entry") -> bool:
        """Whether it has every access of every device of `other`'s."""
        return self.selects(other) and not other.access & ~self.access

    def without(self, access: int) -> "Entry":
        """The same devices with fewer accesses."""
        return self._replace(access=self.access & ~access)


Entries = tuple[Entry, ...]


def bits(letters: str) -> int:
    """`rwm` as bits. Raises KeyError for another letter."""
    access = 0
    for letter in letters:
        access |= _LETTERS[letter]
    return access


def normalize(entries: Iterable[Entry]) -> Entries:
    """The same list, normalized."""
    merged: dict[tuple[object, ...], Entry] = {}
    for entry in entries:
        known = merged.setdefault(entry[:3], entry)
        merged[entry[:3]] = known._replace(access=known.access | entry.access)
    distinct = tuple(entry for entry in merged.values() if entry.access)
    return tuple(
        entry for entry in distinct if not any(other.covers(entry) for other in distinct if other is not entry)
    )


class Access(NamedTuple):
    """What a container may do: two lists, normalized. `Access.of` makes one from any lists."""

    allow: Entries = ()
    deny: Entries = ()

    @classmethod
    def of(cls, allow: Iterable[Entry], deny: Iterable[Entry] = ()) -> "Access":
        """From two lists that may overlap in any way."""
        return cls(normalize(allow), normalize(deny))

    def __str__(self) -> str:
        lists = (("allow", self.allow), ("deny", self.deny))
        return "; ".join(f"{name} {', '.join(map(str, entries))}" for name, entries in lists if entries) or "deny all"

    def grants(self, wanted: Entry) -> bool:
        """Whether `wanted` is granted, on each of its devices."""
        if any(entry.meets(wanted) and entry.access & wanted.access for entry in self.deny):
            return False
        return any(entry.covers(wanted) for entry in self.allow)

    def amend(self, allow: bool, rule: Entry) -> "Access":
        """With one more rule, which goes before what was said so far. Raises InputError where no lists can say that."""
        if not allow:
            left = tuple(entry.without(rule.access) if rule.selects(entry) else entry for entry in self.allow)
            # What a broader entry still allows needs an exception; what nothing allows is denied anyway.
            hit = 0
            for entry in left:
                hit |= entry.access & rule.access if entry.meets(rule) else 0
            return Access.of(left, (*self.deny, rule._replace(access=hit)))
        left = tuple(entry.without(rule.access) if rule.selects(entry) else entry for entry in self.deny)
        for entry in left:
            if entry.meets(rule) and entry.access & rule.access:
                raise InputError(f"allow {rule} is an exception from deny {entry}, itself one from a broader allow")
        return Access.of((*self.allow, rule), left)


def _parse(*texts: str) -> Entries:
    return tuple(map(Entry.parse, texts))


DEFAULT = _parse(
    "c *:* m", "b *:* m",  # a node may be made; to open it is another thing
    "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm",  # null, zero, full, random, urandom
    "c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm",  # tty, ptmx, pts
)  # fmt: skip
"""What every container may use (config-linux.md, "Default Devices"): those that give no way to the host's hardware."""

MESOS = _parse("c 5:1 rwm", "c 4:0 rwm", "c 4:1 rwm", "c 10:200 rwm")
"""What Mesos allows besides: the host's console, tty0 and tty1, and net/tun."""


@lru_cache(64)
def of_rules(rules: "tuple[DeviceRule, ...]") -> Access:
    """What linux.resources.devices amounts to. Raises InputError, which names the rule.

    The rules apply in their order, to a container that may do nothing. The defaults come last, as in other runtimes: a
    container without /dev/null is none. Only where a broader rule allows more does a `deny` take from them.
    """
    access = Access()
    for index, rule in enumerate(rules):
        entry = Entry(rule.type, rule.major, rule.minor, bits(rule.access))
        try:
            access = access.amend(rule.allow, entry)
        except InputError as error:
            raise InputError(f"linux.resources.devices[{index}]: {error}: not supported yet") from None
    return Access.of((*access.allow, *DEFAULT), access.deny)
