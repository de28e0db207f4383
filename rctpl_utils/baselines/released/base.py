"""What every released model offers beyond the protocol: its own preprocessing and its frame."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rctpl_utils.baselines.base import ZeroShotModel
from rctpl_utils.encoders.two_towers import check_pixels


class Frame(NamedTuple):
    """Which part of a film a model's map covers.

    Attributes:
        shape: "square", the film padded to a square; "short", the square on its shorter side;
            "film", the film itself, stretched to a square.
        share: of that, along each side and about its center.
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


class ReleasedModel(ZeroShotModel, Protocol):
    """A released checkpoint behind the protocol; `films` are preprocessed images (n, C, S, S).

    Attributes:
        frame: what its maps cover (`on_square`).
        device: where its weights are.
    """

    frame: Frame
    device: torch.device

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """One radiograph, float (H, W) in [0, 1], to the model's input (C, S, S)."""
        ...

    def classify(self, films: Tensor, concepts: Sequence[str]) -> Tensor:
        """Scores by the method's published inference: (n, L)."""
        ...


def on_square(maps: Tensor, frame: Frame, size: tuple[int, int], cells: int) -> Tensor:
    """A model's maps on the film padded to a square, as `grounders` and `heat_maps` take maps.

    What the model did not see gets the map's minimum, so that it is never pointed at.

    Args:
        maps: (n, h, w), of films of one size.
        frame: what they cover.
        size: H and W of the films in pixels.
        cells: along a side of the result.

    Returns:
        (n, cells, cells).
    """
    top, left, side, _ = Frame("square").box(size)
    middles = (torch.arange(cells) + 0.5) / cells * side
    return _sampled(maps, frame.box(size), top + middles, left + middles)


def _sampled(maps: Tensor, box: tuple[float, float, float, float], y: Tensor, x: Tensor) -> Tensor:
    """Maps over a box at rows y and columns x, in pixels of the film: (n, len(y), len(x))."""
    top, left, tall, wide = box
    y, x = ((y - top) / tall * 2 - 1, (x - left) / wide * 2 - 1)  # from -1 to 1 within the box
    y, x = y.to(maps.device), x.to(maps.device)
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (H, W, 2)
    sampled = functional.grid_sample(
        maps[:, None].float(), grid.expand(len(maps), -1, -1, -1), mode="bilinear",
        padding_mode="border", align_corners=False,
    )[:, 0]  # fmt: skip
    seen = (y.abs() <= 1)[:, None] & (x.abs() <= 1)[None, :]
    return torch.where(seen, sampled, maps.float().amin(dim=(1, 2), keepdim=True))


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """A film in [0, 1] as the gray levels 0 to 255 that published code reads: (H, W) uint8.

    Raises:
        InputError: another shape, or values outside [0, 1].
    """
    check_pixels(pixels)
    return np.rint(pixels * 255).astype(np.uint8)
