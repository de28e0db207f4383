"""Mutated bytes for the fuzz of everything that reads a file: a result, or an error by name."""

from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from rctpl_utils.errors import InputError

BOM = b"\xef\xbb\xbf"
PIECES = [b"\0", BOM, b"\xff\xfe", b'"', b"\r", b"\n", b",", b";", b"=", b"1e999", b"[", b"{"]
PIECES += [b"-1", b"9" * 5000, b"[" * 3000, b"\x1f\x8b", b"PK\3\4", b"null", b"\xed\xa0\x80"]
fuzz = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def mutated(draw, *whole: bytes) -> bytes:
    """One of the files, cut, with bytes replaced, doubled or put between."""
    content = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(0, 5))):
        place = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 6))
        piece = draw(st.binary(max_size=6) | st.sampled_from(PIECES))
        content[place : place + length] = piece
    return bytes(content[: draw(st.integers(0, len(content)) | st.just(len(content)))])


def survives(read: Callable, file: Path, content: bytes) -> None:
    file.write_bytes(content)
    try:
        read(file)
    except InputError as error:
        assert str(file) in str(error)
