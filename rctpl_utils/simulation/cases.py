"""What a simulated radiograph shows: its lesions, its patient, and the split it belongs to."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Rng = np.random.Generator
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Lesion:
    """One finding to draw."""

    concept: str  # of the vocabulary, drawn as a kind of its own
    side: str | None = None  # "left", "right" or "bilateral" (the patient's); None: open
    zone: str | None = None  # "upper", "middle", "lower", "apex", "base", ...
    severity: float = 0.5  # in (0, 1], from barely visible to gross
    box: tuple[float, float, float, float] | None = None  # real x, y, width, height in [0, 1]


@dataclass(frozen=True)
class Case:
    """One radiograph to render: all that its pixels depend on."""

    image_id: str  # unique within its data set
    patient_id: str  # of all the patient's images; no patient is on two sides of a split
    lesions: tuple[Lesion, ...]  # the drawn findings; labels are their upward closure
    split: str  # which pool of poses and outlines is drawn from
    style: str  # a key of `styles.STYLES`
    seed: int  # of this image's own random generator

    @property
    def concepts(self) -> frozenset[str]:
        """The drawn concepts, before their parents are added."""
        return frozenset(lesion.concept for lesion in self.lesions)


def split_of(identifier: str, shares: Mapping[str, float]) -> str:
    """The split of a patient or source image, by a hash of its name; the shares sum to 1."""
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
