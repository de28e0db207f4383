"""Grounding metrics of one film (paper 4.1.4): pointing game, Dice, precision and recall.

A heat map is float (H, W) in [0, 1], a mask bool (H, W), both at the film's native size.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

# Dice and pixel counts are known at these thresholds: region = heat >= threshold.
THRESHOLDS = np.linspace(0.02, 0.98, 49)
IOU = 0.1  # a region and a lesion match from this overlap on (MedKLIP, Wu et al. 2023)
_EIGHT = np.ones((3, 3), dtype=bool)  # neighbors: a component is 8-connected


class PixelCounts(NamedTuple):
    """Pixels at every threshold, three int64 (T,)."""

    hit: np.ndarray
    false: np.ndarray
    missed: np.ndarray


class RegionCounts(NamedTuple):
    """Regions (components of the prediction) and lesions (components of the mask)."""

    right_regions: int
    wrong_regions: int
    found_lesions: int
    missed_lesions: int


def pointing_hit(heat: np.ndarray, mask: np.ndarray) -> bool:
    """The pointing game (Zhang et al. 2018): whether a maximal pixel lies inside the mask.

    Of several equal maxima one inside is enough. A constant map points nowhere: a miss.
    """
    highest = heat.max()
    return bool(heat.min() < highest and mask[heat == highest].any())


def pixel_counts(heat: np.ndarray, mask: np.ndarray) -> PixelCounts:
    """True positive, false positive and false negative pixels at every threshold, in one pass."""
    levels = np.searchsorted(THRESHOLDS, heat.ravel(), side="right")  # thresholds a pixel reaches
    bins = len(THRESHOLDS) + 1
    counts = np.bincount(levels + bins * mask.ravel(), minlength=2 * bins).reshape(2, bins)
    reached = counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]  # (2, T): pixels >= each threshold
    return PixelCounts(reached[1], reached[0], mask.sum() - reached[1])


def dice(counts: PixelCounts) -> np.ndarray:
    """2 |A n B| / (|A| + |B|) at every threshold; two empty regions agree: 1."""
    total = 2 * counts.hit + counts.false + counts.missed
    return np.divide(2 * counts.hit, total, out=np.ones(len(total)), where=total > 0)


def region_counts(region: np.ndarray, mask: np.ndarray, iou: float = IOU) -> RegionCounts:
    """Match 8-connected components of a prediction with those of a mask.

    A region is right when it overlaps some lesion with intersection over union >= `iou`; a lesion
    is found when some region overlaps it so.
    """
    regions, predicted = ndimage.label(region, _EIGHT)
    lesions, drawn = ndimage.label(mask, _EIGHT)
    pairs = np.bincount(
        (regions * (drawn + 1) + lesions).ravel(), minlength=(predicted + 1) * (drawn + 1)
    ).reshape(predicted + 1, drawn + 1)
    both = pairs[1:, 1:]
    union = pairs[1:].sum(axis=1, keepdims=True) + pairs[:, 1:].sum(axis=0) - both
    match = both >= iou * union  # union > 0: every component has a pixel
    right, found = match.any(axis=1).sum(), match.any(axis=0).sum()
    return RegionCounts(int(right), int(predicted - right), int(found), int(drawn - found))
