"""What every data set looks like to the rest of the project: records, pixels, masks."""

import os
from collections.abc import Callable, Mapping
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
from rctpl_utils.datasets.tables import Screen, Skipped
from rctpl_utils.errors import InputError

BAD = "bad input, listed in skipped"  # a reason to be left out
MISSING = "image file missing"  # another; with `allow_partial`
BEYOND = "beyond the number asked for"  # another


class TableMasks:
    """Draws one concept as the table `file` annotates it, a box or a list of runs a row.

    `draw` makes a mask of an annotation and an image's size, with `file` and `row` for errors; the
    index of `images` counts the table's rows from 0. COVID Rural's `file` is the folder, and an
    annotation the image's own name.
    """

    def __init__(
        self, file: Path, images: pd.Series, annotations: pd.DataFrame | pd.Series, draw: Callable
    ) -> None:
        self.file, self.draw = file, draw
        self.rows: dict[str, list[tuple[int, Any]]] = {}  # image -> (row from 1, annotation)
        each = zip(images, images.index, annotations.to_numpy().tolist(), strict=True)
        for image, row, annotation in each:
            self.rows.setdefault(image, []).append((int(row) + 1, annotation))

    def drawn(self, images: pd.Series) -> np.ndarray:
        """Which of `images` have a row: bool (n,)."""
        return images.isin(self.rows.keys()).to_numpy()

    def __call__(self, image: str, size: tuple[int, int]) -> np.ndarray:
        """The mask of one image: bool, `size` = (H, W)."""
        mask = np.zeros(size, dtype=bool)
        for row, annotation in self.rows.get(image, []):
            mask |= self.draw(annotation, size, file=self.file, row=row)
        return mask


class ChestXrayDataset:
    """One split of one data set; images and masks are decoded when asked for.

    `concepts` are canonical names of the findings that it labels. `records` has one row an image,
    index 0..n-1: image_id, patient_id, path, then one column a concept: 1.0 present, 0.0 absent,
    NaN unknown. `left_out` says why and how many images of the official tables are not there, and
    `skipped` each bad row or image that was left out with `skip_bad`.
    """

    def __init__(
        self,
        name: str,
        split: str,
        concepts: tuple[str, ...],
        records: pd.DataFrame,
        *,
        masks: Mapping[str, TableMasks] | None = None,
        left_out: Mapping[str, int] | None = None,
        screen: Screen | None = None,
    ) -> None:
        """Hold the table and what draws the masks of a concept.

        `left_out` has further reasons, with counts; `screen` says what was done about bad rows, and
        is to be done about bad images: by default these raise when they are asked for.

        Raises:
            InputError: no image is left.
        """
        screen, self._masks = screen or Screen(), masks or {}
        usable = _usable_films(screen, records, self._masks)
        if not usable.any():
            cure = "Choose another split, or check the official lists under the data root."
            raise InputError(f"data set {name!r} has no image in its {split} split", cure)
        self.name, self.split, self.concepts = name, split, concepts
        self.records = records[usable].reset_index(drop=True)
        self.skipped = tuple(screen.skipped)
        reasons = {**(left_out or {}), MISSING: screen.missing, BAD: len(self.skipped)}
        self.left_out = {reason: count for reason, count in reasons.items() if count}

    @property
    def has_masks(self) -> bool:
        """Whether any lesion of this split is drawn in."""
        return any(self.annotated(concept).any() for concept in self._masks)

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
        image, path = self.records[["image_id", "path"]].iloc[index]
        return self._masks[concept](image, image_size(path))

    def annotated(self, concept: str) -> np.ndarray:
        """Which images have a drawn lesion of `concept`: bool (n,)."""
        of = self._masks.get(concept)
        return np.zeros(len(self), bool) if of is None else of.drawn(self.records["image_id"])

    def sample(self, count: int) -> "ChestXrayDataset":
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
        return part


def _usable_films(
    screen: Screen, records: pd.DataFrame, masks: Mapping[str, TableMasks]
) -> np.ndarray:
    """Which records are usable: bool (n,). An image that lost a row of its annotation is not.

    With `skip_bad` every image is decoded and every annotated mask drawn once (an image only once
    in a process), so that those which cannot be are known now; without it nothing is read, and a
    bad one raises when it is asked for.
    """
    images, paths = records["image_id"], records["path"].map(str)
    usable = ~images.astype("str").isin(screen.images).to_numpy()
    if not screen.skip_bad:
        return usable
    rows = np.flatnonzero(usable)
    files = paths.iloc[rows].tolist()
    with ThreadPoolExecutor() as pool:  # decoders work outside Python's lock
        found = pool.map(_image_problem, files)
        bar = tqdm(found, desc="checking images", total=len(files), unit="image")
        for row, problem in zip(rows, bar, strict=True):
            if problem is not None:
                screen.skipped.append(problem)
                usable[row] = False
    for of in masks.values():
        for row in np.flatnonzero(usable & of.drawn(images)):
            drawn = screen.attempt(of, images.iloc[row], image_size(paths.iloc[row]))
            usable[row] = drawn is not None
    return usable


def _image_problem(path: str) -> Skipped | None:
    """Why an image cannot be decoded; a file that was replaced is looked at again."""
    try:
        status = os.stat(path)
    except OSError as error:
        return Skipped(path, None, f"the image cannot be read ({error.strerror})")
    return _decoding_problem(path, status.st_size, status.st_mtime_ns)


@cache
def _decoding_problem(path: str, _size: int, _changed: int) -> Skipped | None:
    try:
        read_image(path)
    except InputError as error:
        return Skipped.of(error)
    return None
