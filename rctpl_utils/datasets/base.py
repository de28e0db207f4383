"""What every data set looks like to the rest of the project: records, pixels, masks."""

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from rctpl_utils.datasets.images import image_size, read_image
from rctpl_utils.datasets.screening import Screen, Skipped
from rctpl_utils.errors import InputError

BAD = "bad input, listed in skipped"  # a reason to be left out
MISSING = "image file missing"  # another; with `allow_partial`
BEYOND = "beyond the number asked for"  # another

MaskReader = Callable[[pd.Series, tuple[int, int]], np.ndarray]  # record, image size -> its mask


class TableMasks:
    """Draws one concept as the table `file` annotates it, a box or a list of runs a row.

    `draw` makes a mask of an annotation and an image's size, with `file` and `row` for errors; the
    index of `images` counts the table's rows from 0.
    """

    def __init__(
        self, file: Path, images: pd.Series, annotations: Iterable[Any], draw: Callable
    ) -> None:
        self.file, self.draw = file, draw
        self.rows: dict[str, list[tuple[int, Any]]] = {}  # image -> (row from 1, annotation)
        for image, row, annotation in zip(images, images.index, annotations, strict=True):
            self.rows.setdefault(image, []).append((int(row) + 1, annotation))

    def drawn(self, images: pd.Series) -> np.ndarray:
        """Which of `images` have a row: bool (n,)."""
        return images.isin(self.rows.keys()).to_numpy()

    def __call__(self, record: pd.Series, size: tuple[int, int]) -> np.ndarray:
        """The mask of one record: bool, `size` = (H, W) of its image."""
        mask = np.zeros(size, dtype=bool)
        for row, annotation in self.rows.get(record["image_id"], []):
            mask |= self.draw(annotation, size, file=self.file, row=row)
        return mask


class Radiographs:
    """One split of one data set; images and masks are decoded when asked for.

    Attributes:
        name: as given to `open_dataset`.
        split: "train", "validation" or "test".
        concepts: canonical names of the findings that this set labels.
        records: one row an image, index 0..n-1: image_id, patient_id, path, then one column a
            concept: 1.0 present, 0.0 absent, NaN unknown.
        left_out: why and how many images of the official tables are not in `records`.
        skipped: with `skip_bad`, each bad row or image that was left out, with its reason.
    """

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
            masks: concept -> what draws its mask.
            annotated: concept -> bool (n,), the images for which that mask is not empty; by default
                those that the readers, `TableMasks`, have a row for.
            left_out: further reasons, with counts.
            screen: what was done about bad rows, and is to be done about bad images; by default
                these raise when they are asked for.

        Raises:
            InputError: no image is left.
        """
        screen = screen or Screen()
        masks = dict(masks or {})
        if annotated is None:
            annotated = {name: reader.drawn(records["image_id"]) for name, reader in masks.items()}
        usable = _usable_films(screen, records, masks, annotated)
        records = records[usable]
        if not len(records):
            cure = "Choose another split, or check the official lists under the data root."
            raise InputError(f"data set {name!r} has no image in its {split} split", cure)
        self.name, self.split, self.concepts = name, split, concepts
        self.records = records.reset_index(drop=True)
        self.skipped = tuple(screen.skipped)
        reasons = {**(left_out or {}), MISSING: screen.missing, BAD: len(self.skipped)}
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
        """Image `index`: float32 (H, W) in [0, 1], 0 = air; an `InputError` as `read_image`'s."""
        return read_image(self.records["path"].iloc[index])

    def mask(self, index: int, concept: str) -> np.ndarray:
        """Where image `index` shows `concept`: bool (H, W), all false where nothing is drawn.

        Raises:
            InputError: this data set has no masks for `concept`, or the annotation is damaged.
        """
        if concept not in self._masks:
            known = ", ".join(self._masks) or "no concept"
            problem = f"data set {self.name!r} has no masks for {concept!r}"
            raise InputError(problem, f"It has them for {known}.")
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


ChestXrayDataset = Radiographs  # the name by which the other rooms ask for one


def _usable_films(
    screen: Screen,
    records: pd.DataFrame,
    masks: Mapping[str, MaskReader],
    annotated: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Which records are usable: bool (n,). An image that lost a row of its annotation is not.

    With `skip_bad` every image is decoded and every annotated mask drawn once (an image only once
    in a process), so that those which cannot be are known now; without it nothing is read, and a
    bad one raises when it is asked for.
    """
    usable = ~records["image_id"].astype("str").isin(screen.images).to_numpy()
    if not screen.skip_bad:
        return usable
    rows = np.flatnonzero(usable)
    files = [str(path) for path in records["path"].iloc[rows]]
    with ThreadPoolExecutor() as pool:  # decoders work outside Python's lock
        found = pool.map(_image_problem, files)
        bar = tqdm(found, desc="checking images", total=len(files), unit="image")
        for row, problem in zip(rows, bar, strict=True):
            if problem is not None:
                screen.skipped.append(problem)
                usable[row] = False
    for concept, reader in masks.items():
        for row in np.flatnonzero(usable & annotated[concept]):
            record = records.iloc[row]
            usable[row] = screen.attempt(reader, record, image_size(record["path"])) is not None
    return usable


def _image_problem(path: str) -> Skipped | None:
    try:
        status = os.stat(path)
    except OSError as error:
        return Skipped(path, None, f"the image cannot be read ({error.strerror})")
    return _decoding_problem(path, status.st_size, status.st_mtime_ns)


@cache
def _decoding_problem(path: str, size: int, changed: int) -> Skipped | None:
    """Why the image cannot be decoded; size and time of change tell a replaced file."""
    try:
        read_image(path)
    except InputError as error:
        return Skipped.of(error)
    return None
