"""What every data set looks like to the rest of the project: records, pixels, masks."""

from collections.abc import Mapping, Sequence
from copy import copy
from hashlib import sha256
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from rctpl_utils.datasets.film_checks import MaskReader, usable_films
from rctpl_utils.datasets.images import image_size, read_image
from rctpl_utils.datasets.screening import Screen, Skipped
from rctpl_utils.errors import InputError

BAD = "bad input, listed in skipped"  # a reason to be left out
MISSING = "image file missing"  # another; with `allow_partial`
BEYOND = "beyond the number asked for"  # another


@runtime_checkable
class ChestXrayDataset(Protocol):
    """One split of one data set.

    Attributes:
        name: as given to `open_dataset`.
        split: "train", "validation" or "test".
        concepts: canonical names of the findings that this set labels.
        records: one row an image, index 0..n-1: image_id, patient_id, path, then one column a
            concept: 1.0 present, 0.0 absent, NaN unknown.
        has_masks: whether any lesion of this split is drawn in.
        left_out: why and how many images of the official tables are not in `records`.
        skipped: with `skip_bad`, each bad row or image that was left out, with its reason.
    """

    name: str
    split: str
    concepts: tuple[str, ...]
    records: pd.DataFrame
    has_masks: bool
    left_out: Mapping[str, int]
    skipped: Sequence[Skipped]

    def __len__(self) -> int:
        """Number of images."""
        ...

    def pixels(self, index: int) -> np.ndarray:
        """Image `index`: float32 (H, W) in [0, 1], 0 = air."""
        ...

    def mask(self, index: int, concept: str) -> np.ndarray:
        """Where image `index` shows `concept`: bool (H, W), all false where nothing is drawn."""
        ...

    def annotated(self, concept: str) -> np.ndarray:
        """Which images have a drawn lesion of `concept`: bool (n,)."""
        ...

    def sample(self, count: int) -> "ChestXrayDataset":
        """At most `count` of the images, the same ones every time."""
        ...


class Radiographs:
    """A `ChestXrayDataset` over a table of records; images and masks are decoded when asked for."""

    def __init__(
        self,
        name: str,
        split: str,
        concepts: tuple[str, ...],
        records: pd.DataFrame,
        *,
        masks: Mapping[str, MaskReader] | None = None,
        annotated: Mapping[str, np.ndarray] | None = None,
        left_out: Mapping[str, int] | None = None,
        screen: Screen | None = None,
    ) -> None:
        """Hold the table and the readers.

        Args:
            name: the data set's name.
            split: the split's name.
            concepts: the label columns of `records`.
            records: image_id, patient_id, path and the label columns.
            masks: concept -> function of (record, image size) that draws its mask.
            annotated: concept -> bool (n,), the images for which that mask is not empty.
            left_out: counts of images that are not in `records`, by reason.
            screen: what was done about bad rows, and is to be done about bad images; by default
                these raise when they are asked for.

        Raises:
            InputError: no image is left.
        """
        screen = screen or Screen()
        masks, annotated = dict(masks or {}), dict(annotated or {})
        usable = usable_films(screen, records, masks, annotated)
        records = records[usable]
        if not len(records):
            cure = "Choose another split, or check the official lists under the data root."
            raise InputError(f"data set {name!r} has no image in its {split} split", cure)
        self.name, self.split, self.concepts = name, split, concepts
        self.records = records.reset_index(drop=True)
        self.skipped = tuple(screen.skipped)
        reasons = {**(left_out or {}), BAD: len(self.skipped)}
        self.left_out = {reason: count for reason, count in reasons.items() if count}
        self._masks = masks
        self._annotated = {concept: drawn[usable] for concept, drawn in annotated.items()}

    @property
    def has_masks(self) -> bool:
        """Whether any lesion of this split is drawn in."""
        return any(drawn.any() for drawn in self._annotated.values())

    def __len__(self) -> int:
        """Number of images."""
        return len(self.records)

    def __repr__(self) -> str:
        """Name, split and size."""
        return f"{self.name} ({self.split}): {len(self)} images, {len(self.concepts)} concepts"

    def pixels(self, index: int) -> np.ndarray:
        """Image `index`: float32 (H, W) in [0, 1], 0 = air.

        Raises:
            InputError: the file is missing, damaged or of an unsupported kind.
        """
        return read_image(self.records["path"].iloc[index])

    def mask(self, index: int, concept: str) -> np.ndarray:
        """Where image `index` shows `concept`: bool (H, W), all false where nothing is drawn.

        Raises:
            InputError: this data set has no masks for `concept`, or the annotation is damaged.
        """
        if concept not in self._masks:
            known = ", ".join(self._masks) or "no concept"
            raise InputError(
                f"data set {self.name!r} has no masks for {concept!r}", f"It has them for {known}."
            )
        record = self.records.iloc[index]
        return self._masks[concept](record, image_size(record["path"]))

    def annotated(self, concept: str) -> np.ndarray:
        """Which images have a drawn lesion of `concept`: bool (n,)."""
        none = np.zeros(len(self), dtype=bool)
        return np.asarray(self._annotated.get(concept, none), dtype=bool)

    def sample(self, count: int) -> "Radiographs":
        """At most `count` of the images: those whose identifiers come first by SHA-256.

        So a smaller sample is part of a larger one, and neither labels nor the table's order take
        part. The images keep their order; those left are counted in `left_out`.
        """
        if len(self) <= count:
            return self
        digests = [sha256(str(name).encode()).digest() for name in self.records["image_id"]]
        rows = np.sort(sorted(range(len(self)), key=digests.__getitem__)[:count])
        part = copy(self)
        part.records = self.records.iloc[rows].reset_index(drop=True)
        part.left_out = {**self.left_out, BEYOND: len(self) - count}
        part._annotated = {concept: drawn[rows] for concept, drawn in self._annotated.items()}
        return part
