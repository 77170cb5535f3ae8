"""Option words of config.json → flags, after the runtime spec's table."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from leafshim.errors import InputError, Unsupported
from leafshim.kernel import mounts, namespaces
from leafshim.kernel.mounts import MountOptions, parse_options

WORDS = [*mounts.FLAGS, *mounts.PROPAGATION, *mounts.RECURSIVE]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], MountOptions()),
        (["defaults"], MountOptions()),
        (["ro", "nosuid"], MountOptions(mounts.MS_RDONLY | mounts.MS_NOSUID)),
        (["ro", "rw"], MountOptions()),
        (["rw", "ro"], MountOptions(mounts.MS_RDONLY)),
        (["rbind", "rprivate"], MountOptions(mounts.MS_BIND | mounts.MS_REC, (mounts.MS_PRIVATE | mounts.MS_REC,))),
        (
            ["bind", "rslave", "shared"],
            MountOptions(mounts.MS_BIND, (mounts.MS_SLAVE | mounts.MS_REC, mounts.MS_SHARED)),
        ),
        (["mode=755", "noexec", "size=64k"], MountOptions(mounts.MS_NOEXEC, data="mode=755,size=64k")),
        (["rro"], MountOptions(set_attributes=mounts.MOUNT_ATTR_RDONLY)),
        (["rro", "rrw"], MountOptions(clear_attributes=mounts.MOUNT_ATTR_RDONLY)),
        (["rrw", "rro"], MountOptions(set_attributes=mounts.MOUNT_ATTR_RDONLY)),
        (["rnoatime"], MountOptions(set_attributes=0x10, clear_attributes=0x70)),
        (["rnoatime", "rstrictatime"], MountOptions(set_attributes=0x20, clear_attributes=0x70)),
    ],
)
def test_words(words: list[str], expected: MountOptions) -> None:
    assert parse_options(words) == expected


@given(some.lists(some.sampled_from(WORDS)))
def test_time_attribute_is_never_set_without_clearing_the_field(words: list[str]) -> None:
    options = parse_options(words)
    if options.set_attributes & mounts.MOUNT_ATTR_ATIME:
        assert options.clear_attributes & mounts.MOUNT_ATTR_ATIME == mounts.MOUNT_ATTR_ATIME
    assert not options.set_attributes & options.clear_attributes & ~mounts.MOUNT_ATTR_ATIME


@pytest.mark.parametrize("word", ["size=1m", "tmp", "", "RO", "uid=0"])
def test_option_that_a_bind_mount_would_swallow_is_refused(word: str) -> None:
    with pytest.raises(InputError, match="bind mount"):
        parse_options(["bind", word])


@pytest.mark.parametrize("word", ["idmap", "ridmap", "tmpcopyup"])
def test_word_that_is_not_supported_yet_is_never_ignored(word: str) -> None:
    with pytest.raises(Unsupported, match=word):
        parse_options([word])


def test_namespace_names_both_ways() -> None:
    assert {namespaces.NAME[flag]: flag for flag in namespaces.NAME} == namespaces.FLAG
    assert set(namespaces.PROC_NAME) == set(namespaces.FLAG)
    assert namespaces.NAME[namespaces.CLONE_NEWNET] == "network"
