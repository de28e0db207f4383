"""MedCLIP (Wang et al. 2022) from its released checkpoints: the frozen model of the paper (3.2).

What is taken from the package `medclip` 0.0.3 is said where it is used. Its image encoder was
trained on CheXpert's and MIMIC-CXR's images: "no images" holds for the prompts only.
"""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.checkpoint import Layout, match_state
from rctpl_utils.encoders.medclip_text import find_base_model, medclip_text_tower
from rctpl_utils.encoders.medclip_vision import (
    DIMENSION,
    SIDE,
    relative_position_index,
    resnet50_tower,
    swin_name,
    swin_tower,
)
from rctpl_utils.encoders.standin import pad_to_square
from rctpl_utils.encoders.two_towers import TwoTowers, check_pixels
from rctpl_utils.encoders.weight_files import read_state
from rctpl_utils.errors import InputError

# medclip/constants.py
MEAN, DEVIATION = 0.5862785803043838, 0.27950088968644304
TOWERS = {"resnet50": "ResNet-50", "vit": "Swin-tiny"}
_HEADS = {"resnet50": "vision_model.model.fc", "vit": "vision_model.projection_head"}


class MedCLIP(TwoTowers):
    """MedCLIP with one of its two image towers.

    - "resnet50": torchvision's; its `fc` (2048 to 512, no bias) is applied to each of the 7 x 7
      cells of `layer4`, so the cells' mean is exactly the global vector before normalization.
    - "vit": Swin-tiny; its pooler is the mean of the last hidden state's 49 tokens and the
      projection has no bias, so the same holds for the projected tokens.

    Attributes:
        tower: which of the two.
    """

    dimension = DIMENSION
    preprocessing = f"square on black, 8 bits, bilinear {SIDE}, mean {MEAN}, std {DEVIATION}"

    def __init__(self, tower: str, base_model: str | Path) -> None:
        """A model with random weights.

        Args:
            tower: "resnet50" or "vit".
            base_model: the folder of BioClinicalBERT's `config.json` and `vocab.txt`.
        """
        image = resnet50_tower() if tower == "resnet50" else swin_tower()
        super().__init__(medclip_text_tower(base_model, DIMENSION), image)
        self.tower = tower
        self.name = f"MedCLIP ({TOWERS[tower]}, BioClinicalBERT)"

    @classmethod
    def load(
        cls, path: str | Path, device: str | torch.device = "cpu", *, tower: str = "resnet50"
    ) -> "MedCLIP":
        """Read a released checkpoint, frozen and ready.

        Args:
            path: `pytorch_model.bin`, its folder, the zip archive as downloaded, or safetensors.
            device: where the model goes.
            tower: "resnet50" or "vit"; the file must be of that one.

        Raises:
            InputError: an absent or damaged file, missing or unexpected names (listed), the other
                image tower, no configuration and vocabulary of the base model.
        """
        model = cls(tower, find_base_model(path))
        state = match_state(model, _read_tower(path, tower), _layout(model), path)
        model.load_state_dict(state)
        return freeze(model).to(device)

    @classmethod
    def check(cls, path: str | Path, *, tower: str = "resnet50") -> None:
        """All of `load` except the model: what a run may say before it starts.

        Raises:
            InputError: as `load`.
        """
        with torch.device("meta"):
            model = cls(tower, find_base_model(path))
        match_state(model, _read_tower(path, tower), _layout(model), path)

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """Pad to a square on black, to 8 bits, resize to 224 (bilinear), standardize.

        As `ZeroShotImageDataset` of medclip/dataset.py. One difference: a film of less than 224
        pixels is enlarged, where MedCLIP would set it on a black square of 224, so that a map
        always covers the padded film and no more.

        Args:
            pixels: (H, W), float, in [0, 1].

        Returns:
            (1, 224, 224) float32.

        Raises:
            InputError: another shape, or values outside [0, 1].
        """
        check_pixels(pixels)
        gray = np.rint(pad_to_square(pixels) * 255).astype(np.uint8)
        small = Image.fromarray(gray).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        scaled = torch.from_numpy(np.array(small))[None].float() / 255
        return (scaled - MEAN) / DEVIATION


def _read_tower(path: str | Path, tower: str) -> dict[str, Tensor]:
    state = read_state(path)
    (other,) = set(TOWERS) - {tower}
    found = {each for each in TOWERS if any(n.endswith(f"{_HEADS[each]}.weight") for n in state)}
    if found == {other}:
        raise InputError(
            f"a checkpoint of MedCLIP with {TOWERS[other]}, where {TOWERS[tower]} is wanted",
            f"Give the other one, or choose the encoder medclip-{other}.",
            file=path,
        )
    return state


def _layout(model: MedCLIP) -> Layout:
    """How `MedCLIPModel.state_dict` (medclip/modeling_medclip.py) names what the model holds."""
    prefixes = {
        "text.bert.": "text_model.model.",
        "text.projection.": "text_model.projection_head.",
        "image.trunk.model.": "vision_model.model.",
        "image.trunk.": "vision_model.model.",
        "image.projection.": f"{_HEADS[model.tower]}.",
    }

    def released(name: str) -> str:
        own = next(prefix for prefix in prefixes if name.startswith(prefix))
        name = prefixes[own] + name.removeprefix(own)
        return swin_name(name) if name.startswith("vision_model.") else name

    positions = torch.arange(model.text.bert.config.max_position_embeddings)[None]
    index = r"vision_model\.model\.encoder\.layers\.\d\.blocks\.\d\.attention\.self\."
    return Layout(
        released,
        # the temperature of pre-training; BERT's pooler, which MedCLIP never calls
        unused=(r"logit_scale", r"text_model\.model\.pooler\.dense\.(weight|bias)"),
        constants={
            re.escape("text_model.model.embeddings.position_ids"): positions,
            rf"{index}relative_position_index": relative_position_index(),
        },
    )
