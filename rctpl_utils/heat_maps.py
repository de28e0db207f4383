"""From a map of cells to a heat map on the film (paper 4.2.2).

Maps lie on the padded square: the film at the center of a square of its longer side. Most encoders
see that square, so their cells need no more. One that sees a part of the film only (BioViL) says so
in its attribute `crop`, and `on_square` puts its maps where they belong.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rctpl_utils.encoders.base import Encoder

SQUARE = 120  # cells along the padded square where a smaller map is put into it


def crop_of(encoder: Encoder) -> float | None:
    """The central square that an encoder's map covers, as a share of a film's shorter side.

    None for those whose map covers the padded square; they need not have the attribute.
    """
    return getattr(encoder, "crop", None)


def on_square(maps: Tensor, size: tuple[int, int], crop: float | None) -> Tensor:
    """Maps of one film's central square as maps of its padded square.

    Around the square nothing was seen: there each map has its own minimum.

    Args:
        maps: (n, h, w).
        size: H and W of the film in pixels.
        crop: as `crop_of` gives it.

    Returns:
        the maps as they are where `crop` is None, else (n, SQUARE, SQUARE) on the CPU.
    """
    if crop is None:
        return maps
    share = crop * min(size) / max(size)  # of the padded square's side
    centers = (2 * torch.arange(SQUARE) + 1) / SQUARE - 1  # -1 to 1 over the padded square
    down, across = torch.meshgrid(centers / share, centers / share, indexing="ij")
    grid = torch.stack([across, down], dim=-1).expand(len(maps), -1, -1, -1)
    cells = maps.cpu().float()
    inner = functional.grid_sample(
        cells[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[:, 0]
    outside = torch.maximum(down.abs(), across.abs()) > 1
    return torch.where(outside, cells.amin(dim=(1, 2), keepdim=True), inner)


def on_squares(maps: Tensor, sizes: Sequence[tuple[int, int]], crop: float | None) -> Tensor:
    """The same for several films, one map each: (n, h, w), n sizes."""
    if crop is None:
        return maps
    placed = [on_square(one[None], size, crop) for one, size in zip(maps, sizes, strict=True)]
    return torch.cat(placed)


def on_film(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resampling of cell maps to the film's native pixels.

    The map covers the square to which the film is padded, the film at its center: it is resampled
    to the square, then the padding is cut away.

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
