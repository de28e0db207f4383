"""What every frozen vision-language model offers, and in which number format (paper 3.2)."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from rctpl_utils.errors import InputError
from rctpl_utils.files import hash_of

if TYPE_CHECKING:
    from rctpl_utils.encoders.text_tower import TextTower

MAX_TOKENS = 77  # of a text, as MedCLIP's text tower (medclip/dataset.py)
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
    image_module: nn.Module  # a preprocessed batch to ImageFeatures, differentiable
    saliency_layer: nn.Module  # in `image_module`; gives the map (n, k, h, w) of Grad-CAM

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts to (n, d) unit vectors; no gradient (Eq. 6)."""

    def encode_prompts(self, context: Tensor, class_names: Sequence[str]) -> Tensor:
        """`[CLS] context name [SEP]` to (L, d) unit vectors; gradient to `context` (M, W) only."""

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """One radiograph, float (H, W) in [0, 1], to the image tower's input (C, S, S)."""

    def encode_image(self, batch: Tensor) -> ImageFeatures:
        """A batch (n, C, S, S) to its global and dense features; no gradient (Eq. 10)."""


class TwoTowers(nn.Module):
    """`Encoder` of a text tower and an image tower, (n, 1, S, S) to ImageFeatures.

    A subclass adds `name`, `dimension`, `saliency_layer`, `preprocess`, and in `preprocessing` all
    that decides what that gives.
    """

    preprocessing: tuple

    def __init__(self, text: "TextTower", image: nn.Module) -> None:
        super().__init__()
        self.text = text
        self.image = image
        self.context_width = text.bert.config.hidden_size

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
        return hash_of(known_hash(self.image), *self.preprocessing)

    @property
    def image_module(self) -> nn.Module:
        """Enc_I as a module."""
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


def per_encoder(encoders: Sequence[Encoder], make: Callable[[Encoder], Made]) -> tuple[Made, ...]:
    """What is made of each seed's encoder, in their order; once where seeds share an encoder."""
    made = {encoder: make(encoder) for encoder in dict.fromkeys(encoders)}
    return tuple(made[encoder] for encoder in encoders)


def check_pixels(pixels: np.ndarray) -> None:
    """Refuse (InputError) what is no gray radiograph (H, W) with numbers in [0, 1]."""
    gray = pixels.ndim == 2 and pixels.size
    if not gray or not (pixels.min() >= 0 and pixels.max() <= 1):
        values = f" and values {pixels.min():g} to {pixels.max():g}" if pixels.size else ""
        raise InputError(
            f"expected a gray image with values in [0, 1], got shape {pixels.shape}{values}",
            "Decode it with rctpl_utils.datasets.",
        )


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean of (n, T, W) over the tokens that count, (n, T): (n, W)."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)  # (n, T, 1)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def freeze(module: nn.Module) -> nn.Module:
    """Evaluation mode, no gradients: the module can no longer learn."""
    return module.eval().requires_grad_(False)


def state_hash(module: nn.Module) -> str:
    """SHA-256 over a module's state: names, shapes and bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


_known: WeakKeyDictionary[nn.Module, tuple[list[Tensor], list[int], str]] = WeakKeyDictionary()


def known_hash(module: nn.Module) -> str:
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


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it natively, float32 elsewhere.

    On a CPU that means AVX-512 BF16 or AMX (oneDNN's fast paths); on CUDA, compute capability 8.0.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(False)
    else:
        has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        native = has.get("avx512_bf16", False) or has.get("amx_bf16", False)
    return torch.bfloat16 if native else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision for training: `fast_dtype` for products, float32 for the rest."""
    fast = fast_dtype(device) is torch.bfloat16
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast)


@contextmanager
def evaluation(device: torch.device) -> Iterator[None]:
    """Float32 products, whatever surrounds them, for all that a table is computed from.

    Between two instruction sets float32 features differ by 1e-6 of the largest, bfloat16 ones by
    1e-2; the number of threads changes neither (`tests/rounding.py`). On CUDA, cuDNN's
    convolutions would take TensorFloat-32 otherwise, which keeps 10 bits.
    """
    cudnn = torch.backends.cudnn
    exact = cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=False)
    with torch.autocast(device.type, enabled=False), exact:
        yield


def describe_device(device: torch.device) -> str:
    """A device in words, for records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
