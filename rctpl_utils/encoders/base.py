"""What every frozen vision-language model offers to the rest of the package (paper 3.2)."""

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from rctpl_utils.encoders.text_tower import TextTower

Made = TypeVar("Made")


class ImageFeatures(NamedTuple):
    """Visual features of n images (paper Eq. 10), L2-normalized along the last axis."""

    global_features: Tensor  # f: (n, d)
    dense_features: Tensor  # F: (n, h, w, d)


class Encoder(Protocol):
    """A frozen vision-language model: text and images into one space of d dimensions.

    The dense map covers the film padded to a square. An encoder that sees less has an attribute
    `frame`, which says what its map covers (`frame.Frame`).
    """

    name: str
    dimension: int  # d
    context_width: int  # W, the width of a word embedding
    device: torch.device
    text: "TextTower"  # Enc_T; with its tokenizer and its BERT
    text_key: str  # hash of the text tower's weights, tokenization and pooling
    image_key: str  # hash of the image tower's weights and preprocessing
    image_module: torch.nn.Module  # a preprocessed batch to ImageFeatures, differentiable
    saliency_layer: torch.nn.Module  # in `image_module`; gives the map (n, k, h, w) of Grad-CAM

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts to (n, d) unit vectors; no gradient (Eq. 6)."""

    def encode_prompts(self, context: Tensor, class_names: Sequence[str]) -> Tensor:
        """`[CLS] context name [SEP]` to (L, d) unit vectors; gradient to `context` (M, W) only."""

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """One radiograph, float (H, W) in [0, 1], to the image tower's input (C, S, S)."""

    def encode_image(self, batch: Tensor) -> ImageFeatures:
        """A batch (n, C, S, S) to its global and dense features; no gradient (Eq. 10)."""


def per_encoder(encoders: Sequence[Encoder], make: Callable[[Encoder], Made]) -> tuple[Made, ...]:
    """What is made of each seed's encoder, in their order; once where seeds share an encoder."""
    made = {encoder: make(encoder) for encoder in dict.fromkeys(encoders)}
    return tuple(made[encoder] for encoder in encoders)


def state_hash(module: torch.nn.Module) -> str:
    """SHA-256 over a module's state: names, shapes and bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


_known: WeakKeyDictionary[torch.nn.Module, tuple[list[Tensor], list[int], str]] = (
    WeakKeyDictionary()
)


def known_hash(module: torch.nn.Module) -> str:
    """`state_hash`, for keys: read anew only when a tensor was replaced or written to.

    Tensors are told by where they lie (a known one is held, so that no other can lie there) and by
    torch's count of in-place writes, which misses what is written through `.data`.
    """
    tensors = list(module.state_dict().values())
    writes = [each._version for each in tensors]
    held, counted, found = _known.get(module, ([], [], ""))
    same = [each.data_ptr() for each in tensors] == [each.data_ptr() for each in held]
    if not (held and same and writes == counted):
        found = state_hash(module)
        _known[module] = tensors, writes, found
    return found


def freeze(module: torch.nn.Module) -> torch.nn.Module:
    """Evaluation mode, no gradients: the module can no longer learn."""
    return module.eval().requires_grad_(False)
