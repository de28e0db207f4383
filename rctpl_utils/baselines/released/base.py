"""What every released model offers beyond the protocol: its own preprocessing and its frame."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rctpl_utils.baselines.base import ZeroShotModel
from rctpl_utils.encoders.frame import Frame
from rctpl_utils.encoders.two_towers import check_pixels


class ReleasedModel(ZeroShotModel, Protocol):
    """A released checkpoint behind the protocol; `films` are preprocessed images (n, C, S, S).

    Attributes:
        frame: what its maps cover (`heat_maps.on_square`).
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


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """A film in [0, 1] as the gray levels 0 to 255 that published code reads: (H, W) uint8.

    Raises:
        InputError: another shape, or values outside [0, 1].
    """
    check_pixels(pixels)
    return np.rint(pixels * 255).astype(np.uint8)
