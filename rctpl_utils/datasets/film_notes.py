"""What a file itself tells against its use as a digital chest film; said, not refused."""

from pathlib import Path

import numpy as np
import pydicom

from rctpl_utils.datasets.dicom import is_dicom
from rctpl_utils.datasets.images import COLOR, opened

COLORFUL = 8  # mean difference between a pixel's color channels, of 255; a gray JPEG stays below 2
FEWEST_GRAYS = 16
MOST_CLIPPED = 0.5
EVEN = 0.02  # gray values of a row of a border differ by less
LEAST_INSIDE = 0.9  # share of the picture


def film_notes(path: Path, pixels: np.ndarray) -> list[str]:
    """Sentences about a picture that `read_image` made `pixels` of and that yet may mislead."""
    inside = _share_inside(pixels)
    grays, clipped = len(np.unique(pixels)), float(np.mean((pixels == 0) | (pixels == 1)))
    found = {
        "a picture in color, perhaps a photograph of a film: perspective, glare and what lies "
        "around the film are taken for the film": _is_colorful(path),
        "raw detector values (FOR PROCESSING): use the image FOR PRESENTATION": _is_raw(path),
        f"{clipped:.0%} of the picture are pure black or white: see the window, or how it was "
        "exported": clipped > MOST_CLIPPED,
        f"only {grays} gray values: see the window, or how it was exported": grays < FEWEST_GRAYS,
        f"{1 - inside:.0%} of the picture are an even border: crop it": inside < LEAST_INSIDE,
    }
    return [note for note, holds in found.items() if holds]


def _is_colorful(path: Path) -> bool:
    if is_dicom(path):
        return False
    with opened(path) as image:
        if image.mode not in COLOR:
            return False
        return bool(np.ptp(np.asarray(image.convert("RGB")), axis=2).mean() > COLORFUL)


def _is_raw(path: Path) -> bool:
    if not is_dicom(path):
        return False
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    return header.get("PresentationIntentType") == "FOR PROCESSING"


def _share_inside(pixels: np.ndarray) -> float:
    """How much of the picture lies within its outermost rows and columns that are not even."""
    share = 1.0
    for axis in (0, 1):
        uneven = np.flatnonzero(np.ptp(pixels, axis=axis) > EVEN)
        share *= (uneven[-1] - uneven[0] + 1) / pixels.shape[1 - axis] if len(uneven) else 1
    return share
