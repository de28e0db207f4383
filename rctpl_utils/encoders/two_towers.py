"""What MedCLIP and BioViL have in common: two towers as published, frozen, in one space."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50

from rctpl_utils.encoders.base import ImageFeatures, known_hash
from rctpl_utils.encoders.precision import evaluation
from rctpl_utils.encoders.text_tower import TextTower
from rctpl_utils.errors import InputError
from rctpl_utils.files import hash_of


class MapTower(nn.Module):
    """A published image tower: a trunk that gives a map of cells, and a projection of each cell.

    The global vector is the mean of the projected cells. Where the projection is linear, as
    MedCLIP's, that is the projection of the pooled map, which is how its package computes it.
    """

    def __init__(self, trunk: nn.Module, projection: nn.Module) -> None:
        """`trunk`: (n, 3, S, S) to (n, k, h, w); `projection`: (n, h, w, k) to (n, h, w, d)."""
        super().__init__()
        self.trunk = trunk
        self.projection = projection

    def project(self, x: Tensor) -> ImageFeatures:
        """Gray images (n, 1, S, S) to (n, d) and (n, h, w, d), before normalization."""
        cells = self.trunk(x.expand(-1, 3, -1, -1))  # the towers began with photographs
        dense = self.projection(cells.permute(0, 2, 3, 1))
        return ImageFeatures(dense.mean(dim=(1, 2)), dense)

    def forward(self, x: Tensor) -> ImageFeatures:
        """Gray images (n, 1, S, S) to (n, d) and (n, h, w, d) unit vectors."""
        return ImageFeatures(*(functional.normalize(f.float(), dim=-1) for f in self.project(x)))


def resnet50_trunk() -> nn.Sequential:
    """torchvision's ResNet-50 up to `layer4`: (n, 3, S, S) to (n, 2048, S / 32, S / 32)."""
    children = dict(resnet50(weights=None).named_children())
    return nn.Sequential(
        OrderedDict((k, v) for k, v in children.items() if k not in ("avgpool", "fc"))
    )


class TwoTowers(nn.Module):
    """A published vision-language model behind the encoder protocol (`encoders.base.Encoder`).

    A subclass adds `name`, `dimension`, `preprocess`, and in `preprocessing` what it does.
    """

    name: str
    dimension: int
    preprocessing: str

    def __init__(self, text: TextTower, image: MapTower) -> None:
        super().__init__()
        self.text = text
        self.image = image

    @property
    def context_width(self) -> int:
        """W: the width of BERT's word embeddings."""
        return self.text.bert.config.hidden_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.text.device

    @property
    def text_key(self) -> str:
        """A hash of all that decides a text's vector."""
        return self.text.key

    @property
    def image_key(self) -> str:
        """A hash of all that decides an image's features."""
        return hash_of(known_hash(self.image), self.preprocessing)

    @property
    def image_module(self) -> nn.Module:
        """Enc_I as a module: (n, 1, S, S) to ImageFeatures."""
        return self.image

    @property
    def saliency_layer(self) -> nn.Module:
        """The trunk, whose output is the map before the projection: (n, k, h, w)."""
        return self.image.trunk

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts to (n, d) unit vectors (Eq. 6)."""
        return self.text(texts)

    def encode_prompts(self, context: Tensor, class_names: Sequence[str]) -> Tensor:
        """Context (M, W) and L names to (L, d) unit vectors (Eq. 3, 5)."""
        return self.text.prompt(context, class_names)

    @torch.no_grad()
    def encode_image(self, batch: Tensor) -> ImageFeatures:
        """(n, 1, S, S) to (n, d) and (n, h, w, d) unit vectors (Eq. 10).

        Float32 products, so that the features are the published package's.
        """
        with evaluation(self.device):
            return self.image(batch.to(self.device))


def check_pixels(pixels: np.ndarray) -> None:
    """Refuse what is no gray radiograph in [0, 1].

    Raises:
        InputError: an array of another shape, an empty one, values outside [0, 1] or not a number.
    """
    gray = pixels.ndim == 2 and pixels.size
    if not gray or not (pixels.min() >= 0 and pixels.max() <= 1):
        values = f" and values {pixels.min():g} to {pixels.max():g}" if pixels.size else ""
        raise InputError(
            f"expected a gray image with values in [0, 1], got shape {pixels.shape}{values}",
            "Decode it with rctpl_utils.datasets.",
        )
