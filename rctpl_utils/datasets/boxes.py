"""Masks from a table of boxes, as ChestX-ray14 and RSNA annotate lesions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from rctpl_utils.datasets.masks import Box, boxes_mask, check_box


@dataclass(frozen=True)
class BoxMasks:
    """Draws the boxes of one concept.

    Attributes:
        file: the table, named in errors.
        frame: side in pixels of the square image that the boxes refer to, None for the image's own
            size. ChestX-ray14's refer to 1024 pixels whatever the size of the copies at hand.
        boxes: image identifier -> (row from 1, box) of each of its boxes.
    """

    file: Path
    frame: int | None = None
    boxes: dict[str, list[tuple[int, Box]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, file: Path, images: pd.Series, corners: pd.DataFrame, *, frame: int | None = None
    ) -> "BoxMasks":
        """Group the rows of a table by image.

        Args:
            file: the table.
            images: the image identifier of each row; the index counts the table's rows from 0.
            corners: x, y, width, height of each row.
            frame: see the class.
        """
        boxes: dict[str, list[tuple[int, Box]]] = {}
        numbers = corners.to_numpy(dtype=float).tolist()
        for image, row, box in zip(images, images.index, numbers, strict=True):
            boxes.setdefault(str(image), []).append((int(row) + 1, tuple(box)))
        return cls(file, frame, boxes)

    def drawn(self, images: Sequence[str] | pd.Series) -> np.ndarray:
        """Which of `images` have a box: bool (n,)."""
        return np.array([str(image) in self.boxes for image in images], dtype=bool)

    def __call__(self, record: pd.Series, size: tuple[int, int]) -> np.ndarray:
        """The mask of one record: bool, `size` = (H, W) of its image.

        Raises:
            InputError: a box without extent or outside the image, with its row.
        """
        frame = (self.frame, self.frame) if self.frame else size
        down, right = size[0] / frame[0], size[1] / frame[1]
        mask = np.zeros(size, dtype=bool)
        for row, box in self.boxes.get(str(record["image_id"]), []):
            check_box(box, frame, file=self.file, row=row)
            x, y, width, height = box
            scaled = (x * right, y * down, width * right, height * down)
            mask |= boxes_mask([scaled], size, file=self.file, row=row)
        return mask
