"""Two towers in one space: what the stand-in, MedCLIP and BioViL have in common."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50

from rctpl_utils.encoders.base import ImageFeatures, freeze, known_hash
from rctpl_utils.encoders.precision import evaluation
from rctpl_utils.encoders.text_tower import TextTower
from rctpl_utils.errors import InputError
from rctpl_utils.files import hash_of


class TwoTowers(nn.Module):
    """A text tower and an image tower behind the encoder protocol (`encoders.base.Encoder`).

    A subclass adds `name`, `dimension`, `saliency_layer`, `preprocess`, and in `preprocessing` what
    that does.
    """

    name: str
    dimension: int
    preprocessing: str

    def __init__(self, text: TextTower, image: nn.Module) -> None:
        """`image`: a batch (n, 1, S, S) to ImageFeatures."""
        super().__init__()
        self.text = text
        self.image = image
        self.context_width = text.bert.config.hidden_size  # W

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

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts to (n, d) unit vectors (Eq. 6)."""
        return self.text(texts)

    def encode_prompts(self, context: Tensor, class_names: Sequence[str]) -> Tensor:
        """Context (M, W) and L names to (L, d) unit vectors (Eq. 3, 5)."""
        return self.text.prompt(context, class_names)

    @torch.no_grad()
    def encode_image(self, batch: Tensor) -> ImageFeatures:
        """(n, 1, S, S) to (n, d) and (n, h, w, d) unit vectors, in float32 products (Eq. 10)."""
        with evaluation(self.device):
            return self.image(batch.to(self.device))


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


class Published(TwoTowers):
    """A published model with a `MapTower`, filled from its released files.

    A subclass is made with random weights from a path and its options: the text model's
    configuration and vocabulary are there.
    """

    def _matched(self, path: str | Path) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
        """Parts of the model, each with its state from the released files."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu", **options: Any) -> Self:
        """Read the released files, frozen and ready; `path` and `options` are the subclass's.

        Raises:
            InputError: absent or damaged files, missing or unexpected names (listed).
        """
        model = cls(path, **options)
        for module, state in model._matched(path):
            module.load_state_dict(state)
        return freeze(model).to(device)

    @classmethod
    def check(cls, path: str | Path, **options: Any) -> None:
        """All of `load` except the model, with its errors: what a run may say before it starts."""
        with torch.device("meta"):
            model = cls(path, **options)
        for _ in model._matched(path):
            pass

    @property
    def saliency_layer(self) -> nn.Module:
        """The trunk, whose output is the map before the projection: (n, k, h, w)."""
        return self.image.trunk


def check_pixels(pixels: np.ndarray) -> None:
    """Refuse (InputError) what is no gray radiograph (H, W) with numbers in [0, 1]."""
    gray = pixels.ndim == 2 and pixels.size
    if not gray or not (pixels.min() >= 0 and pixels.max() <= 1):
        values = f" and values {pixels.min():g} to {pixels.max():g}" if pixels.size else ""
        raise InputError(
            f"expected a gray image with values in [0, 1], got shape {pixels.shape}{values}",
            "Decode it with rctpl_utils.datasets.",
        )
