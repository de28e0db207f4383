"""From a map of cells to a heat map on the film (paper 4.2.2)."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def on_film(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resampling of cell maps to the film's native pixels.

    Encoders see a film padded to a square with the film at its center, so the map covers that
    square: it is resampled to the square, then the padding is cut away.

    Args:
        maps: (n, h, w), on the padded square.
        size: H and W of the film in pixels.

    Returns:
        (n, H, W).
    """
    height, width = size
    side = max(size)
    square = functional.interpolate(
        maps[:, None].float(), size=(side, side), mode="bilinear", align_corners=False
    )[:, 0]
    top, left = (side - height) // 2, (side - width) // 2
    return square[:, top : top + height, left : left + width]


def stretch(maps: Tensor) -> Tensor:
    """Each map to [0, 1] by its own minimum and maximum; a constant map becomes zero.

    So one threshold serves all films of a data set, as in a figure; (n, H, W) to (n, H, W).
    """
    low = maps.amin(dim=(1, 2), keepdim=True)
    spread = maps.amax(dim=(1, 2), keepdim=True) - low
    return torch.where(spread > 0, (maps - low) / spread.clamp_min(1e-12), torch.zeros_like(maps))


def peak(heat: np.ndarray) -> tuple[int, int]:
    """Row and column of the highest pixel; of several, the first in scan order."""
    row, column = np.unravel_index(np.argmax(heat), heat.shape)
    return int(row), int(column)
