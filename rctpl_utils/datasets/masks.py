"""Boxes, run lengths and polygons to masks, and back.

A mask is bool (H, W) at the image's native size. A box is (x, y, width, height) in pixels of the
same frame, x to the right, y downwards, (0, 0) the image's top-left corner (labelme's frame, too);
pixel (row, column) covers [column, column + 1) x [row, row + 1).
"""

from typing import Any

import numpy as np
from scipy import ndimage
from skimage import draw, measure

from rctpl_utils.errors import InputError

Box = tuple[float, float, float, float]
NO_RUNS = "-1"  # SIIM-ACR's sign for an image without a lesion


def box_mask(
    box: Box, size: tuple[int, int], *, frame: int | None = None, **place: Any
) -> np.ndarray:
    """The mask (H, W) = `size` of a box: pixels whose centers lie inside, at least one.

    The box is in pixels of a square image of side `frame` (ChestX-ray14's: 1024, whatever the size
    of the copies at hand), by default of an image of `size`. One without extent, or that leaves the
    image, is an `InputError` with the table's `file` and `row` of `place`.
    """
    (x, y, width, height), (tall, wide) = box, (frame, frame) if frame else size
    slack = 1e-3  # pixels: annotations are rounded decimals
    inside = x >= -slack and y >= -slack
    inside = inside and x + width <= wide + slack and y + height <= tall + slack
    if not (inside and width > 0 and height > 0):  # false for NaN too
        numbers = ", ".join(f"{value:g}" for value in box)
        problem = f"the box ({numbers}) is empty or outside the {wide} x {tall} image"
        raise InputError(problem, "Correct or remove this row.", **place)
    down, right = size[0] / tall, size[1] / wide
    mask = np.zeros(size, dtype=bool)
    rows = _pixel_span(y * down, height * down, size[0])
    mask[rows, _pixel_span(x * right, width * right, size[1])] = True
    return mask


def mask_boxes(mask: np.ndarray, *, smallest: int = 1) -> list[tuple[int, int, int, int]]:
    """One box an 8-connected component of at least `smallest` pixels, in scan order."""
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


def decode_runs(runs: str, size: tuple[int, int], **place: Any) -> np.ndarray:
    """The bool (H, W) mask of SIIM-ACR run lengths (see `encode_runs`).

    An odd or non-numeric list, a negative number, a run past the last pixel are an `InputError`
    with the table's `file` and `row` of `place`.
    """
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
    """The mask of a polygon with corners `points` (n, 2): pixels whose centers lie inside."""
    corners = np.asarray(points, dtype=float)[:, ::-1] - 0.5  # row, column of pixel centers
    mask = np.zeros(size, dtype=bool)
    rows, columns = draw.polygon(corners[:, 0], corners[:, 1], shape=size)
    mask[rows, columns] = True
    return mask


def mask_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Outlines (n, 2) of x, y, one a component; holes are filled."""
    filled = ndimage.binary_fill_holes(mask)
    contours = measure.find_contours(np.pad(filled, 1).astype(float), 0.5)
    return [contour[:, ::-1] - 0.5 for contour in contours]  # -1 (padding) + 0.5 (pixel center)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbor resampling of a bool mask to height and width `size`."""
    rows = ((np.arange(size[0]) + 0.5) * mask.shape[0] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * mask.shape[1] / size[1]).astype(int)
    return mask[rows][:, columns]


def _pixel_span(start: float, extent: float, limit: int) -> slice:
    first = min(max(int(np.ceil(start - 0.5)), 0), limit - 1)
    last = min(int(np.ceil(start + extent - 0.5)), limit)
    return slice(first, max(last, first + 1))
