"""Scales of heat maps, and where they peak (paper 4.2.2)."""

import numpy as np
from torch import Tensor

# The fixed scale of cosines: quantiles over the cells of validation films, all concepts together.
SCALE_ENDS = (0.5, 0.999)


def stretch(maps: Tensor) -> Tensor:
    """Each map, (n, H, W), to [0, 1] by its own minimum and maximum; a constant map becomes zero.
    So one threshold serves a data set; but a weak map looks sure, so figures show `on_scale` beside
    it.
    """
    low, high = (end(dim=(1, 2), keepdim=True) for end in (maps.amin, maps.amax))
    # in place, since films are large; a constant map is zero before it is divided
    return (maps - low).div_((high - low).clamp_min(1e-12))


def scale_of(cosines: np.ndarray) -> tuple[float, float]:
    """The ends of a fixed scale, on which a weak map looks weak and films can be compared; from the
    cosines of validation films' cells, any shape.
    """
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
