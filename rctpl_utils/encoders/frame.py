"""Which part of a film a model's map covers, and the map on the whole film (paper 4.2.2).

Maps lie on the padded square: the film at the center of a square of its longer side. A model that
sees another part of the film says so in its attribute `frame`; `on_square` puts its maps there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rctpl_utils.encoders.base import Encoder
from rctpl_utils.scoring import similarity_maps

SQUARE = 120  # cells along the padded square where a smaller map is put into it


class Frame(NamedTuple):
    """Which part of a film a model's map covers, `share` of it along each side about its center.

    `shape` is "square", the film padded to a square; "short", the square on its shorter side; or
    "film", the film itself, stretched to a square.
    """

    shape: str
    share: float = 1.0

    def box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Top, left, height and width in pixels of a film of H x W; it may reach beyond it."""
        height, width = size
        if self.shape == "film":
            top, left, tall, wide = 0.0, 0.0, float(height), float(width)
        else:
            side = max(size) if self.shape == "square" else min(size)
            # the middle of an odd margin is rounded down, as the models' own padding does
            top, left = float((height - side + 1) // 2), float((width - side + 1) // 2)
            tall = wide = float(side)
        cut = (1 - self.share) / 2
        return top + cut * tall, left + cut * wide, self.share * tall, self.share * wide


def frame_of(encoder: Encoder) -> Frame | None:
    """What an encoder's maps cover; None for the padded square, whose encoders need not say so."""
    return getattr(encoder, "frame", None)


def on_square(
    maps: Tensor, size: tuple[int, int], frame: Frame | None, cells: int = SQUARE
) -> Tensor:
    """Maps (n, h, w) of one film of H x W pixels as maps of its padded square.

    As they are where `frame` is None, else (n, cells, cells) on the CPU. What the model did not
    see gets the map's minimum, so that it is never pointed at.
    """
    if frame is None:
        return maps
    maps = maps.cpu().float()
    above, before, side, _ = Frame("square").box(size)
    top, left, tall, wide = frame.box(size)
    middles = (torch.arange(cells) + 0.5) / cells * side
    # from -1 to 1 within the frame
    y, x = (above + middles - top) / tall * 2 - 1, (before + middles - left) / wide * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).expand(len(maps), -1, -1, -1)
    inner = functional.grid_sample(
        maps[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[:, 0]
    seen = (y.abs() <= 1)[:, None] & (x.abs() <= 1)[None, :]
    return torch.where(seen, inner, maps.amin(dim=(1, 2), keepdim=True))


def on_squares(maps: Tensor, sizes: Sequence[tuple[int, int]], frame: Frame | None) -> Tensor:
    """The same for several films, one map each: (n, h, w), n sizes."""
    if frame is None:
        return maps
    placed = [on_square(one[None], size, frame) for one, size in zip(maps, sizes, strict=True)]
    return torch.cat(placed)


def cosine_maps(dense: Tensor, embeddings: Tensor) -> Tensor:
    """P of Eq. 7 as maps: dense features (n, h, w, d) and L embeddings (L, d) to (n, L, h, w)."""
    cosines = similarity_maps(dense.flatten(1, 2), embeddings).transpose(1, 2)
    return cosines.reshape(*cosines.shape[:2], *dense.shape[1:3])


def on_film(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (n, h, w) on the padded square to the film's own H x W pixels, (n, H, W).

    Bilinear on the square; then the padding is cut away.
    """
    height, width = size
    side = max(size)
    square = functional.interpolate(
        maps[:, None].float(), size=(side, side), mode="bilinear", align_corners=False
    )[:, 0]
    top, left = (side - height) // 2, (side - width) // 2
    return square[:, top : top + height, left : left + width]
