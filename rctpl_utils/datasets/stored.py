"""What films of every file format share: the scale of stored integers, and errors with a name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rctpl_utils.errors import InputError

CONVERT = "Save it as an 8- or 16-bit grayscale PNG."
AGAIN = f"Download or copy the file again; if that does not help: {CONVERT}"
MOST_PIXELS = 178_956_970  # as many as Pillow opens: a larger image is taken for an attack
UNUSED_BITS = 2  # so many leading zeros mean that the header states more bits than there are


@contextmanager
def naming(path: Path, problem: str, cure: str) -> Iterator[None]:
    """Turn whatever the block raises into an `InputError` that names the file.

    Damaged bytes make decoders raise many kinds of errors, not all of them documented.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{problem} ({error})", cure, file=path) from error


def stored_range(values: np.ndarray, bits: int, *, signed: bool = False) -> tuple[int, int]:
    """The stored integers that mean black and white: the least and the greatest of their bits.

    `bits` is what the file states. Many hold 12 bits and state 16, which would show them nearly
    black: where `UNUSED_BITS` or more of them (of those beyond 8) are never used, the bits count
    that the film's own values need; as they do where they exceed what is stated.
    """
    darkest, brightest = int(values.min()), int(values.max())
    negative = darkest < 0
    used = max(brightest, ~darkest).bit_length() + negative
    if used > bits or bits - max(8, used) >= UNUSED_BITS:
        bits, signed = max(8, used), negative
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def to_unit(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """float32 in [0, 1]: `low` becomes 0 and `high` 1, and what lies beyond is clipped."""
    low, high = float(low), float(high)  # plain numbers leave float32 as it is
    return np.clip((values.astype(np.float32) - low) / (high - low), 0, 1)
