"""What a simulated radiograph shows: its lesions, its patient, and the split it belongs to."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Rng = np.random.Generator
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Lesion:
    """One finding to draw.

    Attributes:
        concept: a concept of the vocabulary, drawn as a kind of its own.
        side: "left", "right" or "bilateral" (the patient's), None where the renderer may choose.
        zone: "upper", "middle", "lower", "apex", "base", ... or None.
        severity: in (0, 1], from barely visible to gross.
        box: (x, y, width, height) relative to the image frame of a real annotation, each in
            [0, 1]; None lets the renderer place the lesion from side and zone.
    """

    concept: str
    side: str | None = None
    zone: str | None = None
    severity: float = 0.5
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Case:
    """One radiograph to render: all that its pixels depend on.

    Attributes:
        image_id: unique within its data set.
        patient_id: images of one patient share it; no patient is on two sides of a split.
        lesions: the drawn findings; the labels are their upward closure in the vocabulary.
        split: "train", "validation" or "test": which pool of poses and outlines is drawn from.
        style: a key of `styles.STYLES`, the acquisition style.
        seed: of this image's own random generator.
    """

    image_id: str
    patient_id: str
    lesions: tuple[Lesion, ...]
    split: str
    style: str
    seed: int

    @property
    def concepts(self) -> frozenset[str]:
        """The drawn concepts, before their parents are added."""
        return frozenset(lesion.concept for lesion in self.lesions)


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
