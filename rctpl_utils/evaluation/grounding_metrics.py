"""Heat maps, their scales and peaks, and the grounding metrics of one film (paper 4.1.4, 4.2.2).

A heat map is float (H, W) in [0, 1], a mask bool (H, W), both at the film's native size.
"""

import cv2
import numpy as np
from torch import Tensor

from rctpl_utils.encoders.frame import Frame, on_film, on_square

# Dice and pixel counts are known at these thresholds: region = heat >= threshold.
THRESHOLDS = np.linspace(0.02, 0.98, 49)
IOU = 0.1  # a region and a lesion match from this overlap on (MedKLIP, Wu et al. 2023)
# The fixed scale of cosines: quantiles over the cells of validation films, all concepts together.
SCALE_ENDS = (0.5, 0.999)


def stretch(maps: Tensor) -> Tensor:
    """Each map, (n, H, W), to [0, 1] by its own ends, a constant one to zero: one threshold serves
    a data set, but a weak map looks sure.
    """
    low, high = (end(dim=(1, 2), keepdim=True) for end in (maps.amin, maps.amax))
    # in place, since films are large; a constant map is zero before it is divided
    return (maps - low).div_((high - low).clamp_min(1e-12))


def scale_of(cosines: np.ndarray) -> tuple[float, float]:
    """The ends of a fixed scale, on which a weak map looks weak, from validation films' cosines."""
    low, high = np.quantile(cosines, SCALE_ENDS)
    return float(low), float(high)


def on_scale(maps: Tensor, scale: tuple[float, float]) -> Tensor:
    """Maps of cosines with `scale` at 0 and 1; values beyond it stay beyond."""
    low, high = scale
    return (maps - low) / max(high - low, 1e-12)


def peak(heat: np.ndarray) -> tuple[int, int]:
    """Row and column of the highest pixel; of several, the first in scan order."""
    row, column = np.unravel_index(np.argmax(heat), heat.shape)
    return int(row), int(column)


def pointing_hits(heats: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The pointing game (Zhang et al. 2018) of n maps of one film, (n, H, W): whether a maximal
    pixel lies inside the mask, (n,) bool; of several, one is enough. A constant map points nowhere.
    """
    flat = heats.reshape(len(heats), -1)
    highest = flat.max(axis=1)
    inside = flat[:, np.flatnonzero(mask)].max(axis=1, initial=-np.inf)
    return (flat.min(axis=1) < highest) & (inside == highest)


def points_into(maps: Tensor, mask: np.ndarray, frame: Frame | None) -> np.ndarray:
    """The same of maps of cells, (n, h, w), once they lie on the film: (n,) bool."""
    placed = on_film(on_square(maps, mask.shape, frame), mask.shape)
    return pointing_hits(placed.numpy(), mask)


def pixel_counts(heats: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Hit, false and missed pixels of n maps (n, H, W) of a film at every threshold: (n, 3, T)."""
    bins = len(THRESHOLDS) + 1
    places = levels(heats).reshape(len(heats), -1) + np.uint8(bins) * mask.ravel()  # below 100
    counts = np.stack([np.bincount(each, minlength=2 * bins) for each in places])
    counts = counts.reshape(-1, 2, bins)
    reached = counts[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:]  # pixels >= each threshold
    false, hit = reached[:, 0], reached[:, 1]
    return np.stack([hit, false, mask.sum() - hit], axis=1)


def levels(heats: np.ndarray) -> np.ndarray:
    """How many of `THRESHOLDS` each pixel reaches: uint8, in any shape. They are multiples of the
    first, so a quotient tells; only pixels very close to one are looked up.
    """
    low, high = (
        (heats * np.asarray(slack / THRESHOLDS[0], heats.dtype)).astype(np.uint8)
        for slack in (1 - 1e-6, 1 + 1e-6)
    )
    close = np.flatnonzero(low != high)
    low.flat[close] = np.searchsorted(THRESHOLDS, heats.flat[close], side="right")
    return low


def dice(counts: np.ndarray) -> np.ndarray:
    """2 |A n B| / (|A| + |B|) of `pixel_counts`, (..., 3, T) to (..., T); two empty regions: 1."""
    hit, false, missed = np.moveaxis(counts, -2, 0)
    total = 2 * hit + false + missed
    return np.divide(2 * hit, total, out=np.ones(total.shape), where=total > 0)


class Lesions:
    """A mask's lesions (8-connected), labeled once for all predictions on its film: flat `pixels`,
    each one's lesion in `numbers`, from 0, and the lesions' `areas`.
    """

    def __init__(self, mask: np.ndarray) -> None:
        self.pixels = np.flatnonzero(mask)
        self.numbers = components(mask)[0].ravel()[self.pixels] - 1
        self.areas = np.bincount(self.numbers)


def components(region: np.ndarray) -> tuple[np.ndarray, int]:
    """8-connected components: their numbers from 1 in an int32 (H, W), and how many they are."""
    count, labels = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
    return labels, count - 1  # without the background


def region_counts(
    region: np.ndarray, lesions: Lesions, iou: float = IOU
) -> tuple[int, int, int, int]:
    """How many regions (8-connected) are right and wrong, how many lesions found and missed: those
    that overlap one of the other kind with intersection over union >= `iou` are right, or found.
    """
    labels, predicted = components(region)
    labels, drawn = labels.ravel(), len(lesions.areas)
    areas = np.bincount(labels, minlength=predicted + 1)
    both = np.bincount(
        labels[lesions.pixels] * drawn + lesions.numbers, minlength=(predicted + 1) * drawn
    ).reshape(predicted + 1, drawn)
    union = areas[1:, None] + lesions.areas - both[1:]
    match = both[1:] >= iou * union  # union > 0: every component has a pixel
    right, found = match.any(axis=1).sum(), match.any(axis=0).sum()
    return int(right), int(predicted - right), int(found), int(drawn - found)
