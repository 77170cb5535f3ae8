"""What a failed child says arrives as the same error."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leafshim.errors import InputError, InternalError, KernelError, LeafError, Unsupported
from leafshim.launch.handshake import failed, failure


@pytest.mark.parametrize(
    "error",
    [
        KernelError("mount", errno.EPERM, "/proc"),
        KernelError("pivot_root", errno.EINVAL),
        InputError("process.cwd: no"),
        Unsupported("é: is not supported"),
        InternalError("TypeError: x"),
    ],
)
def test_round_trip(error: LeafError) -> None:
    arrived = failure(failed(error))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert arrived.code == error.code


def test_a_long_error_still_fits_a_packet() -> None:
    assert len(failed(InputError("x" * 1_000_000))) < 65536


@given(st.binary(max_size=40))
def test_any_bytes_are_some_error(message: bytes) -> None:
    assert isinstance(failure(message), LeafError)
