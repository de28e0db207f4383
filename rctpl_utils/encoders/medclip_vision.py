"""MedCLIP's two image towers (`MedCLIPVisionModel` and `...ViT` of the package medclip 0.0.3)."""

import torch
from torch import Tensor, nn
from transformers import SwinConfig, SwinModel

from rctpl_utils.encoders.two_towers import MapTower, resnet50_trunk

DIMENSION = 512
SIDE = 224  # `IMG_SIZE` in medclip/constants.py
WINDOW = 7  # of Swin-tiny
# transformers names a Swin's layers anew from some 5.x on; the released file has the old names.
_SWIN_NAMES = {
    ".attention.q_proj.": ".attention.self.query.",
    ".attention.k_proj.": ".attention.self.key.",
    ".attention.v_proj.": ".attention.self.value.",
    ".attention.o_proj.": ".attention.output.dense.",
    ".attention.relative_position_bias.": ".attention.self.",
    ".mlp.fc1.": ".intermediate.dense.",
    ".mlp.fc2.": ".output.dense.",
}


class SwinMap(nn.Module):
    """transformers' Swin-tiny with the last hidden state as a map.

    The configuration is that of microsoft/swin-tiny-patch4-window7-224 (Liu et al. 2021, table 7).
    """

    def __init__(self) -> None:
        super().__init__()
        config = SwinConfig(
            image_size=SIDE, patch_size=4, embed_dim=96, depths=(2, 2, 6, 2),
            num_heads=(3, 6, 12, 24), window_size=WINDOW,
        )  # fmt: skip
        self.model = SwinModel(config, add_pooling_layer=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 224, 224) to (n, 768, 7, 7)."""
        tokens = self.model(x).last_hidden_state  # (n, 49, 768), row by row
        return tokens.transpose(1, 2).unflatten(2, (x.shape[2] // 32, x.shape[3] // 32))


def resnet50_tower() -> MapTower:
    """MedCLIP's ResNet-50 with random weights: (n, 1, 224, 224) to 512-d vectors and 7 x 7 maps."""
    return MapTower(resnet50_trunk(), nn.Linear(2048, DIMENSION, bias=False))


def swin_tower() -> MapTower:
    """MedCLIP's Swin-tiny with random weights: (n, 1, 224, 224) to 512-d vectors and 7 x 7 maps."""
    return MapTower(SwinMap(), nn.Linear(768, DIMENSION, bias=False))


def relative_position_index(window: int = WINDOW) -> Tensor:
    """Which entry of the bias table serves a pair of cells in a window (Liu et al. 2021, Eq. 4).

    Returns:
        (window^2, window^2) int64: `(dy + window - 1) * (2 * window - 1) + dx + window - 1`.
    """
    y, x = torch.arange(window).repeat_interleave(window), torch.arange(window).repeat(window)
    dy, dx = (axis[:, None] - axis[None, :] + window - 1 for axis in (y, x))
    return dy * (2 * window - 1) + dx


def swin_name(name: str) -> str:
    """A Swin layer's name in the installed transformers to the one in the released file."""
    for new, old in _SWIN_NAMES.items():
        name = name.replace(new, old)
    return name
