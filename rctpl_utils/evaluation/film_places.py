"""Where a region lies on a frontal film: side and zone, read off a mask or a map of cells."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from rctpl_utils.encoders.frame import on_film
from rctpl_utils.evaluation.heat_maps import peak

# The region of a concept: what lies this far from the map's median to its maximum. Of 0.5, 0.75
# and 0.9, compared with the boxes of ChestX-ray14's validation films, 0.9 names the side of a
# lesion on one side a little more often, but hardly ever finds both; 0.5 finds both too often.
REGION = 0.75
ONE_SIDE = 0.75  # more than this share of a region on one half of the film: that side alone
# Where the middle and the lower zone begin, as shares of the film's height: on the simulated
# ChestX-ray14 validation films the boxes of upper, middle and lower zone divide there.
ZONES = {"upper": 0.0, "middle": 0.42, "lower": 0.60}
FRAME = 128  # pixels of a film's longer side when a place is read off its map


@dataclass(frozen=True)
class Place:
    """Where a region lies on a frontal film.

    Attributes:
        side: the patient's: "right" (the LEFT half of the film), "left" or "both".
        zone: "upper", "middle" or "lower".
    """

    side: str
    zone: str

    def __str__(self) -> str:
        """For example "right, lower zone"."""
        return f"{self.side}{' sides' if self.side == 'both' else ''}, {self.zone} zone"


def place(weights: np.ndarray) -> Place | None:
    """Side and zone of a region.

    Args:
        weights: how much each pixel of the film belongs to it, (H, W), not negative; a mask too.

    Returns:
        None where nothing belongs to it.
    """
    weights = np.asarray(weights, float)
    total = weights.sum()
    if total == 0:
        return None
    down, across = ((np.arange(count) + 0.5) / count for count in weights.shape)
    half = (across < 0.5) + 0.5 * (across == 0.5)  # a middle column lies on both halves
    on_left_half = float(weights.sum(axis=0) @ half / total)
    center = float(weights.sum(axis=1) @ down / total)
    side = "right" if on_left_half > ONE_SIDE else "left" if on_left_half < 1 - ONE_SIDE else "both"
    return Place(side, [zone for zone, start in ZONES.items() if center >= start][-1])


def region(heat: np.ndarray) -> tuple[np.ndarray, float]:
    """How far each pixel rises above the region's border, (H, W), and the border's level."""
    middle = float(np.median(heat))
    level = middle + REGION * (float(heat.max()) - middle)
    return np.clip(heat - level, 0, None), level


def place_on_film(cells: Tensor, size: tuple[int, int]) -> Place | None:
    """Side and zone of a cell map's region on a film of that size."""
    return place(region(_small(cells, size))[0])


def peak_on_film(cells: Tensor, size: tuple[int, int]) -> tuple[float, float]:
    """Where a cell map is highest on a film of that size: (down, across), shares of both."""
    heat = _small(cells, size)
    down, across = peak(heat)
    return (down + 0.5) / heat.shape[0], (across + 0.5) / heat.shape[1]


def _small(cells: Tensor, size: tuple[int, int]) -> np.ndarray:
    """The cell map on the film, its longer side FRAME pixels."""
    height, width = (max(1, round(FRAME * length / max(size))) for length in size)
    return on_film(cells[None], (height, width))[0].numpy()
