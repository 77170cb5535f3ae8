"""Device rules as data, and what they compile to. The names in the tests' docstrings are those of Mesos's own tests."""

import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leafshim.cgroup.device_rules import ALL, DEFAULT, MESOS, Access, Entry, normalize, of_rules
from leafshim.cgroup.devices import compile_access, decode
from leafshim.errors import InputError
from leafshim.spec import DeviceRule

EMPTY = Entry("c", 1, 3, 0)

entries = st.builds(
    Entry,
    st.sampled_from("abc"),
    st.sampled_from((None, 0, 1, 4095)),
    st.sampled_from((None, 0, 3, 2**20 - 1)),
    st.integers(1, ALL),
)
devices = st.builds(
    Entry, st.sampled_from("bc"), st.sampled_from((0, 1, 2, 4095)), st.sampled_from((0, 3, 5, 2**20 - 1)),
    st.integers(1, ALL),
)  # fmt: skip
accesses = st.builds(Access.of, st.lists(entries, max_size=6), st.lists(entries, max_size=6))


def parsed(texts: Iterable[str]) -> tuple[Entry, ...]:
    return tuple(map(Entry.parse, texts))


def access(allow: Iterable[str] = (), deny: Iterable[str] = ()) -> Access:
    return Access.of(parsed(allow), parsed(deny))


@pytest.mark.parametrize("text", ["c 1:3 rwm", "a *:* m", "b 4095:* rw", "c *:1048575 w"])
def test_an_entry_reads_and_writes_alike(text: str) -> None:
    assert str(Entry.parse(text)) == text


@pytest.mark.parametrize("text", ["", "c 1:3", "c 1:3 rx", "d 1:3 r", "c 1 r", "c 1:3:5 r", "c -1:3 r", "c 4096:0 r"])
def test_malformed_entries(text: str) -> None:
    with pytest.raises(InputError, match="device entry"):
        Entry.parse(text)


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ((EMPTY,), ()),
        (parsed(["b 3:1 rw", "b 3:1 m"]), ("b 3:1 rwm",)),
        (parsed(["c *:* rw", "c 3:1 w"]), ("c *:* rw",)),
        (parsed(["c 3:1 w", "a *:* w"]), ("a *:* w",)),
        ((EMPTY, *parsed(["c *:* r", "c *:* w", "c 3:1 w"])), ("c *:* rw",)),
        (parsed(["c *:1 r", "c 1:* r"]), ("c *:1 r", "c 1:* r")),
    ],
)
def test_normalize(given: tuple[Entry, ...], normal: tuple[str, ...]) -> None:
    """NormalizeTest; and ConfigureValidation: what it refuses is normalized here, on the way into an Access."""
    assert normalize(given) == parsed(normal)
    assert Access.of(given, given) == Access(parsed(normal), parsed(normal))


def test_normalized_lists_stay_as_they_are() -> None:
    """NormalizedTest: Mesos's own default list."""
    assert normalize(DEFAULT + MESOS) == DEFAULT + MESOS


@given(st.lists(entries), devices)
def test_normalizing_changes_no_denial_and_takes_no_permission(listed: list[Entry], wanted: Entry) -> None:
    assert normalize(normalize(listed)) == normalize(listed)
    assert any(one.meets(wanted) and one.access & wanted.access for one in listed) != Access.of(
        [Entry.parse("a *:* rwm")], listed
    ).grants(wanted)
    if any(one.covers(wanted) for one in listed):
        assert Access.of(listed).grants(wanted)


def test_wildcards_are_told_from_devices() -> None:
    """NonWildcardFromWildcard."""
    assert [Entry.parse(text).wildcard() for text in ("c *:1 w", "c 1:* w", "a 1:1 w", "c 1:1 w")] == [
        True, True, True, False
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lists", "text", "granted"),
    [
        (access(["c 1:3 w"]), "c 1:3 w", True),
        (access(["c 1:3 w"]), "c 1:3 rw", False),
        (access(["c 1:3 w"]), "b 1:3 w", False),
        (access(["c 1:3 w"]), "c 4:3 w", False),
        (access(["c 1:3 w"]), "c *:3 w", False),
        (access(["c 5:* w"]), "c 5:* w", True),
        (access(["c 5:* w"]), "c 5:2 w", True),
        (access(["a *:* rwm"]), "c 6:2 w", True),
        (access([], ["c 1:3 rwm"]), "c 1:3 w", False),
        (access([], ["c 1:3 rwm"]), "c 1:3 rw", False),
        (access(["c 1:3 rw"], ["c 1:3 w"]), "c 1:3 rw", False),
        (access(["c 1:3 rw"], ["c 1:3 w"]), "c 1:3 r", True),
        (access(["c 1:* rw"], ["c 1:3 w"]), "c 1:* w", False),
    ],
)
def test_is_access_granted(lists: Access, text: str, granted: bool) -> None:
    """IsAccessGranted."""
    assert lists.grants(Entry.parse(text)) is granted


def test_what_both_lists_have_is_denied() -> None:
    """Configure_AllowMatchesDeny. Mesos's device manager refuses such lists, its controller (DeviceController) and we
    let the denial win."""
    assert not access(["c 1:3 w"], ["c 1:3 w", "c 21:1 w"]).grants(Entry.parse("c 1:3 w"))


@pytest.mark.parametrize(
    ("before", "additions", "removals", "after"),
    [
        (access(["c 3:1 rwm"]), [], ["c 3:1 rm"], access(["c 3:1 w"])),
        (access(["c 3:* rwm"], ["c 3:1 rwm"]), ["c 3:1 rm"], [], access(["c 3:* rwm"], ["c 3:1 w"])),
        (access(["c 3:1 rm"]), [], ["c 3:1 rwm"], access()),
        (access(["c 3:* rm"], ["c 3:1 rm"]), ["c 3:1 rm"], [], access(["c 3:* rm"])),
        (access(["c 3:* rm"], ["c 3:1 rm"]), ["c 3:1 rw"], [], access(["c 3:* rm", "c 3:1 rw"], ["c 3:1 m"])),
        (access(["c 3:* rm"]), [], ["c 3:1 rw"], access(["c 3:* rm"], ["c 3:1 r"])),
        (access(["a *:* rwm"], ["c 3:1 r"]), [], ["a *:* rwm"], access([], ["c 3:1 r"])),
    ],
)
def test_get_diff_state(before: Access, additions: list[str], removals: list[str], after: Access) -> None:
    """GetDiffState, Remove."""
    for text in additions:
        before = before.amend(True, Entry.parse(text))
    for text in removals:
        before = before.amend(False, Entry.parse(text))
    assert before == after


def rule(allow: bool, text: str) -> DeviceRule:
    kind, major, minor, _ = entry = Entry.parse(text)
    return DeviceRule(allow, kind, major, minor, entry.letters())


@pytest.mark.parametrize(
    ("rules", "granted", "refused"),
    [
        ([(False, "a *:* rwm")], ["c 1:3 rwm", "c 136:7 rw", "b 8:0 m"], ["b 8:0 r", "c 10:229 r", "c 5:1 w"]),
        ([(False, "a *:* rwm"), (True, "c 10:229 rw")], ["c 10:229 rw", "c 1:3 rw"], ["c 10:229 rwm", "c 10:200 r"]),
        ([(True, "c 10:229 rw"), (False, "a *:* rwm")], ["c 1:3 rw"], ["c 10:229 r"]),
        ([(True, "c 10:* rw"), (False, "c 10:229 w")], ["c 10:229 r", "c 10:1 w"], ["c 10:229 w", "c 10:229 rw"]),
        ([(False, "c 10:229 w"), (True, "c 10:* rw")], ["c 10:229 rw"], []),
        ([(True, "c 10:* rw"), (False, "c 10:229 w"), (True, "c 10:229 w")], ["c 10:229 rw"], []),
        ([(True, "c 10:229 rw"), (False, "c 10:* w")], ["c 10:229 r"], ["c 10:229 w"]),
        ([(True, "a *:* rwm")], ["b 8:0 rw", "c 7:7 rwm"], []),
        ([(True, "a *:* rwm"), (False, "c 1:* rwm")], ["b 8:0 rw"], ["c 1:3 r"]),
    ],
)
def test_rules_of_the_oci_apply_in_their_order(
    rules: list[tuple[bool, str]], granted: list[str], refused: list[str]
) -> None:
    lists = of_rules(tuple(rule(*each) for each in rules))
    assert [text for text in granted if not lists.grants(Entry.parse(text))] == []
    assert [text for text in refused if lists.grants(Entry.parse(text))] == []


def test_an_exception_from_an_exception_is_refused() -> None:
    rules = (rule(True, "c *:* rw"), rule(False, "c 10:* w"), rule(True, "c 10:229 w"))
    with pytest.raises(InputError, match=r"linux.resources.devices\[2\]: allow c 10:229 w is an exception"):
        of_rules(rules)


@given(st.lists(st.tuples(st.booleans(), entries), max_size=6), devices)
def test_the_last_rule_for_an_access_decides(rules: list[tuple[bool, Entry]], wanted: Entry) -> None:
    one_bit = wanted._replace(access=wanted.access & -wanted.access)
    lists = Access()
    for allow, entry in rules:
        try:
            lists = lists.amend(allow, entry)
        except InputError:
            return
    decisive = [allow for allow, entry in rules if entry.covers(one_bit)]
    assert lists.grants(one_bit) is (decisive[-1] if decisive else False)


@given(accesses)
def test_the_rules_are_read_back_from_the_program(lists: Access) -> None:
    """Recover, as far as it needs no kernel."""
    assert decode(b"".join(instruction.pack() for instruction in compile_access(lists))) == lists


def test_a_strangers_program_is_none_of_ours() -> None:
    program = b"".join(instruction.pack() for instruction in compile_access(Access()))
    assert decode(program) == Access()
    assert decode(program[16:]) is None
    assert decode(b"") is None


@given(accesses, devices)
def test_the_program_decides_as_the_rules_do(lists: Access, wanted: Entry) -> None:
    code = b"".join(instruction.pack() for instruction in compile_access(lists))
    assert run(code, wanted) == lists.grants(wanted)


def run(code: bytes, wanted: Entry) -> int:
    """What a program answers, by an interpreter of the few instructions that ours are made of."""
    context = {0: wanted.access << 16 | {"b": 1, "c": 2}[wanted.type], 4: wanted.major or 0, 8: wanted.minor or 0}
    registers = [0] * 11
    place = 0
    while True:
        opcode, names, offset, value = struct.unpack_from("=BBhi", code, 8 * place)
        target, source = names & 15, names >> 4
        place += 1
        match opcode:
            case 0x18:
                place += 1
            case 0x61:
                registers[target] = context[offset]
            case 0xBC:
                registers[target] = registers[source]
            case 0xB4:
                registers[target] = value
            case 0x54:
                registers[target] &= value
            case 0x74:
                registers[target] >>= value
            case 0x05:
                place += offset
            case 0x55:
                place += offset if registers[target] != value else 0
            case 0x45:
                place += offset if registers[target] & value else 0
            case 0x95:
                return registers[0]
            case _:
                raise AssertionError(f"instruction {opcode:#x}")
