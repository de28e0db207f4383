"""Boxes, run lengths and polygons to masks, and back.

A mask is bool (H, W) at the image's native size. A box is (x, y, width, height) in pixels of the
same frame, x to the right, y downwards, (0, 0) the image's top-left corner; pixel (row, column)
covers [column, column + 1) x [row, row + 1).
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage import draw, measure

from rctpl_utils.errors import InputError

Box = tuple[float, float, float, float]
NO_RUNS = "-1"  # SIIM-ACR's sign for an image without a lesion


def boxes_mask(
    boxes: Iterable[Box],
    size: tuple[int, int],
    *,
    file: str | Path | None = None,
    row: int | str | None = None,
) -> np.ndarray:
    """The union of boxes: pixels whose centers lie inside, at least one pixel a box.

    Args:
        boxes: (x, y, width, height) each, in pixels of an image of `size`.
        size: height and width of the mask.
        file: the table that the boxes come from, named in an error.
        row: their row in it.

    Raises:
        InputError: a box without extent or outside the image.
    """
    mask = np.zeros(size, dtype=bool)
    for box in boxes:
        check_box(box, size, file=file, row=row)
        x, y, width, height = box
        left, right = _pixel_span(x, width, size[1])
        top, bottom = _pixel_span(y, height, size[0])
        mask[top:bottom, left:right] = True
    return mask


def check_box(
    box: Box,
    size: tuple[int, int],
    *,
    file: str | Path | None = None,
    row: int | str | None = None,
) -> None:
    """Refuse a box without extent, or one that leaves an image of `size` (height, width).

    Raises:
        InputError: naming the box, the file and the row.
    """
    x, y, width, height = box
    slack = 1e-3  # pixels: annotations are rounded decimals
    inside = x >= -slack and y >= -slack
    inside = inside and x + width <= size[1] + slack and y + height <= size[0] + slack
    if not (inside and width > 0 and height > 0):  # false for NaN too
        numbers = ", ".join(f"{value:g}" for value in box)
        problem = f"the box ({numbers}) is empty or outside the {size[1]} x {size[0]} image"
        raise InputError(problem, "Correct or remove this row.", file=file, row=row)


def mask_boxes(mask: np.ndarray, *, smallest: int = 1) -> list[tuple[int, int, int, int]]:
    """One box (x, y, width, height) an 8-connected component, in scan order.

    Args:
        mask: bool (H, W).
        smallest: components of fewer pixels are left out.
    """
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3), dtype=bool))
    areas = np.bincount(labels.ravel())[1:]
    return [
        (column.start, row.start, column.stop - column.start, row.stop - row.start)
        for area, (row, column) in zip(areas, ndimage.find_objects(labels), strict=True)
        if area >= smallest
    ]


def encode_runs(mask: np.ndarray) -> str:
    """SIIM-ACR run lengths of a bool (H, W) mask; an empty mask gives "-1".

    "gap length gap length ...", column by column from the top left, each gap counted from the end
    of the run before (the challenge's `mask_functions.py`).
    """
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])  # start, end, start, end, ...
    if not len(edges):
        return NO_RUNS
    return " ".join(map(str, np.diff(edges, prepend=0)))


def decode_runs(
    runs: str,
    size: tuple[int, int],
    *,
    file: str | Path | None = None,
    row: int | str | None = None,
) -> np.ndarray:
    """The bool (H, W) mask of SIIM-ACR run lengths (see `encode_runs`).

    Raises:
        InputError: an odd or non-numeric list, a negative number, a run past the last pixel.
    """
    place = {"file": file, "row": row}
    if runs.strip() == NO_RUNS:
        return np.zeros(size, dtype=bool)
    try:
        numbers = np.array(runs.split(), dtype=np.int64)
    except ValueError as error:
        raise InputError("run lengths that are not numbers", "Correct it.", **place) from error
    if len(numbers) == 0 or len(numbers) % 2 or (numbers < 0).any():
        problem = "run lengths must be pairs of non-negative numbers, or -1"
        raise InputError(problem, "Correct or remove this row.", **place)
    edges = np.cumsum(numbers)
    if edges[-1] > size[0] * size[1]:
        problem = f"a run ends at pixel {edges[-1]} of an image of {size[0] * size[1]}"
        cure = "Use the run lengths that belong to images of this size, not to resized copies."
        raise InputError(problem, cure, **place)
    steps = np.zeros(size[0] * size[1] + 1, dtype=np.int64)
    np.add.at(steps, edges[::2], 1)
    np.add.at(steps, edges[1::2], -1)
    return (np.cumsum(steps[:-1]) > 0).reshape(size[1], size[0]).T


def polygon_mask(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The bool (H, W) mask of a polygon: pixels whose centers lie inside.

    Args:
        points: (n, 2) x and y of the corners, in labelme's frame (0, 0 = top-left corner).
        size: height and width.
    """
    corners = np.asarray(points, dtype=float)[:, ::-1] - 0.5  # row, column of pixel centers
    mask = np.zeros(size, dtype=bool)
    rows, columns = draw.polygon(corners[:, 0], corners[:, 1], shape=size)
    mask[rows, columns] = True
    return mask


def mask_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Outlines (n, 2) of x, y in labelme's frame, one a component; holes are filled."""
    filled = ndimage.binary_fill_holes(mask)
    contours = measure.find_contours(np.pad(filled, 1).astype(float), 0.5)
    return [contour[:, ::-1] - 0.5 for contour in contours]  # -1 (padding) + 0.5 (pixel center)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbor resampling of a bool mask to height and width `size`."""
    rows = ((np.arange(size[0]) + 0.5) * mask.shape[0] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * mask.shape[1] / size[1]).astype(int)
    return mask[rows][:, columns]


def _pixel_span(start: float, extent: float, limit: int) -> tuple[int, int]:
    first = min(max(int(np.ceil(start - 0.5)), 0), limit - 1)
    last = min(int(np.ceil(start + extent - 0.5)), limit)
    return first, max(last, first + 1)
