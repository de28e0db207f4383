"""Splits by a hash of an identifier: stable, whatever else is in the data set."""

import hashlib
from collections.abc import Mapping


def split_of(identifier: str, shares: Mapping[str, float]) -> str:
    """The split of a patient or source image.

    Args:
        identifier: the patient's or image's name.
        shares: split -> share of the identifiers; the shares sum to 1.

    Returns:
        A key of `shares`.
    """
    number = unit_hash(identifier)
    for split, share in shares.items():
        if number < share:
            return split
        number -= share
    return split  # rounding of the shares only


def unit_hash(identifier: str) -> float:
    """A number in [0, 1) that depends on the identifier alone."""
    digest = hashlib.sha256(identifier.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
