"""The stand-in's image tower Enc_I: a small ResNet whose dense map lives in the joint space."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from rctpl_utils.encoders.base import ImageFeatures

DIMENSION = 128  # d of the joint space


class Residual(nn.Module):
    """Two 3 x 3 convolutions with a shortcut (He et al. 2016, basic block)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        return functional.relu(self.body(x) + self.shortcut(x))


class ImageTower(nn.Module):
    """A gray image (n, 1, S, S) to features of d dimensions; the map has a cell every 8 pixels.

    The cell vectors share one linear layer without bias. The global vector is that layer applied
    to the mean plus the maximum over cells, so that a small lesion is not averaged away.
    """

    def __init__(self, dimension: int, width: int = 48) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(4, width, 7, 4, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.stages = nn.Sequential(
            Residual(width, 2 * width, 2),
            Residual(2 * width, 2 * width, 1),
            Residual(2 * width, 2 * width, 1),
        )
        self.widen = nn.Sequential(
            nn.Conv2d(2 * width, 4 * width, 1, bias=False),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(inplace=True),
        )
        self.projection = nn.Linear(4 * width, dimension, bias=False)

    def cells(self, x: Tensor) -> Tensor:
        """(n, 1, S, S) to the map before the projection, (n, S / 8, S / 8, channels)."""
        return self.widen(self.stages(self.stem(with_detail(x)))).permute(0, 2, 3, 1)

    def forward(self, x: Tensor) -> ImageFeatures:
        """(n, 1, S, S) to (n, d) and (n, S / 8, S / 8, d) unit vectors."""
        cells = self.cells(x)
        flat = cells.flatten(1, 2)  # (n, h * w, channels)
        pooled = self.projection(flat.mean(dim=1) + flat.amax(dim=1))
        return ImageFeatures(
            functional.normalize(pooled.float(), dim=-1),
            functional.normalize(self.projection(cells).float(), dim=-1),
        )


def with_detail(x: Tensor) -> Tensor:
    """(n, 1, S, S) to (n, 4, S, S): the image, what differs from its surroundings, two coordinates.

    The second channel takes slow shading away, so that a nodule on a bright film looks like one on
    a dark film; the coordinates let a convolution know left from right and base from apex.
    """
    side = x.shape[-1]
    smooth = functional.interpolate(
        functional.avg_pool2d(x, max(side // 16, 1)), size=(side, side), mode="bilinear"
    )
    line = torch.linspace(-1, 1, side, device=x.device, dtype=x.dtype)
    across = line.expand(len(x), 1, side, side)
    channels = [x, 2 * (x - smooth), across, across.transpose(2, 3)]
    return torch.cat(channels, dim=1).contiguous(memory_format=torch.channels_last)


def standardize(images: Tensor) -> Tensor:
    """(n, 1, S, S): each image to mean 0 and deviation 1, which removes exposure and gain."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    deviation = images.std(dim=(1, 2, 3), keepdim=True).clamp_min(1e-3)
    return (images - mean) / deviation
