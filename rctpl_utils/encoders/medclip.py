"""MedCLIP (Wang et al. 2022) from its released checkpoints: the frozen model of the paper (3.2).

What is taken from the package `medclip` 0.0.3 is said where it is used. Its image encoder was
trained on CheXpert's and MIMIC-CXR's images: "no images" holds for the prompts only.

MedCLIP averages the hidden states 1, 2 and last over all tokens of the padded batch, so that a
text's vector there depends on the longest text beside it (`MedCLIPTextModel.forward`). Here padding
takes no part: the vector is MedCLIP's own for a text alone or among texts of its length.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import SwinConfig, SwinModel
from transformers.utils import cached_file

from rctpl_utils.encoders.checkpoint import Layout, match_state, read_state, renamed
from rctpl_utils.encoders.standin import pad_to_square
from rctpl_utils.encoders.text_tower import TEXT_FILES, TextTower, position_ids, untrained_bert
from rctpl_utils.encoders.two_towers import MapTower, Published, check_pixels, resnet50_trunk
from rctpl_utils.errors import InputError

DIMENSION = 512
BASE = "emilyalsentzer/Bio_ClinicalBERT"  # Alsentzer et al. 2019; `BERT_TYPE` in medclip/constants
FOLDER = "bioclinicalbert"
LAYERS = (1, 2, -1)
# medclip/constants.py; SIDE is its `IMG_SIZE`
SIDE, MEAN, DEVIATION = 224, 0.5862785803043838, 0.27950088968644304
TOWERS = {"resnet50": "ResNet-50", "vit": "Swin-tiny"}
WINDOW = 7  # of Swin-tiny
_HEADS = {"resnet50": "vision_model.model.fc", "vit": "vision_model.projection_head"}
# transformers names a Swin's layers anew from some 5.x on; the released file has the old names.
SWIN_NAMES = {
    ".attention.q_proj.": ".attention.self.query.",
    ".attention.k_proj.": ".attention.self.key.",
    ".attention.v_proj.": ".attention.self.value.",
    ".attention.o_proj.": ".attention.output.dense.",
    ".attention.relative_position_bias.": ".attention.self.",
    ".mlp.fc1.": ".intermediate.dense.",
    ".mlp.fc2.": ".output.dense.",
}


class MedCLIP(Published):
    """MedCLIP with one of its two image towers, `tower`.

    It is read from `pytorch_model.bin`, its folder, the zip archive as downloaded, or safetensors;
    the file must be of that tower.

    - "resnet50": torchvision's; its `fc` (2048 to 512, no bias) is applied to each of the 7 x 7
      cells of `layer4`, so the cells' mean is exactly the global vector before normalization.
    - "vit": Swin-tiny; its pooler is the mean of the last hidden state's 49 tokens and the
      projection has no bias, so the same holds for the projected tokens.
    """

    dimension = DIMENSION
    preprocessing = f"square on black, 8 bits, bilinear {SIDE}, mean {MEAN}, std {DEVIATION}"

    def __init__(self, path: str | Path, tower: str = "resnet50") -> None:
        """A model with random weights; `path` leads to its base model (`find_base_model`)."""
        base_model = find_base_model(path)
        trunk, width = (resnet50_trunk(), 2048) if tower == "resnet50" else (SwinMap(), 768)
        image = MapTower(trunk, nn.Linear(width, DIMENSION, bias=False))
        bert, tokenizer = untrained_bert(base_model)
        projection = nn.Linear(bert.config.hidden_size, DIMENSION, bias=False)
        super().__init__(TextTower(bert, tokenizer, projection, layers=LAYERS), image)
        self.tower = tower
        self.name = f"MedCLIP ({TOWERS[tower]}, BioClinicalBERT)"

    def _matched(self, path: str | Path) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
        state, (other,) = read_state(path), set(TOWERS) - {self.tower}
        heads = [
            each for each in TOWERS if any(n.endswith(f"{_HEADS[each]}.weight") for n in state)
        ]
        if heads == [other]:
            found, wanted = TOWERS[other], TOWERS[self.tower]
            problem = f"a checkpoint of MedCLIP with {found}, where {wanted} is wanted"
            cure = f"Give the other one, or choose the encoder medclip-{other}."
            raise InputError(problem, cure, file=path)
        yield self, match_state(self, state, medclip_layout(self), path)

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """Pad to a square on black, to 8 bits, resize to 224 (bilinear), standardize.

        (H, W) floats in [0, 1] (else InputError) to (1, 224, 224) float32, as
        `ZeroShotImageDataset` of medclip/dataset.py. One difference: a film of less than 224 pixels
        is enlarged, where MedCLIP would set it on a black square of 224, so that a map always
        covers the padded film and no more.
        """
        check_pixels(pixels)
        gray = np.rint(pad_to_square(pixels) * 255).astype(np.uint8)
        small = Image.fromarray(gray).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        scaled = torch.from_numpy(np.array(small))[None].float() / 255
        return (scaled - MEAN) / DEVIATION


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


def relative_position_index() -> Tensor:
    """Which entry of the bias table serves a pair of cells in a window (Liu et al. 2021, Eq. 4).

    (WINDOW^2, WINDOW^2) int64: `(dy + WINDOW - 1) * (2 * WINDOW - 1) + dx + WINDOW - 1`.
    """
    y, x = torch.arange(WINDOW).repeat_interleave(WINDOW), torch.arange(WINDOW).repeat(WINDOW)
    dy, dx = (axis[:, None] - axis[None, :] + WINDOW - 1 for axis in (y, x))
    return dy * (2 * WINDOW - 1) + dx


def medclip_layout(model: MedCLIP) -> Layout:
    """How `MedCLIPModel.state_dict` (medclip/modeling_medclip.py) names what the model holds."""
    index = r"vision_model\.model\.encoder\.layers\.\d\.blocks\.\d\.attention\.self\."
    return renamed(
        {
            "text.bert.": "text_model.model.",
            "text.projection.": "text_model.projection_head.",
            "image.trunk.model.": "vision_model.model.",
            "image.trunk.": "vision_model.model.",
            "image.projection.": f"{_HEADS[model.tower]}.",
        },
        SWIN_NAMES,
        # the temperature of pre-training; BERT's pooler, which MedCLIP never calls
        unused=(r"logit_scale", r"text_model\.model\.pooler\.dense\.(weight|bias)"),
        constants={
            re.escape("text_model.model.embeddings.position_ids"): position_ids(model.text.bert),
            rf"{index}relative_position_index": relative_position_index(),
        },
    )


def find_base_model(checkpoint: str | Path) -> Path:
    """The folder of the base model's `config.json` and `vocab.txt`; nothing is downloaded.

    It is `bioclinicalbert/` beside the checkpoint (inside it, if that is a folder), or else the
    copy in the cache that transformers keeps of the hub. Where neither is there, an InputError says
    what to download and where to put it.
    """
    checkpoint = Path(checkpoint)
    beside = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / FOLDER
    if beside.is_dir():
        return beside
    cached = [_cached(name) for name in TEXT_FILES]
    if None not in cached:
        return cached[0].parent
    raise InputError(
        "MedCLIP's checkpoint does not hold its text model's configuration and vocabulary",
        f"Download {' and '.join(TEXT_FILES)} from https://huggingface.co/{BASE} into this folder.",
        file=beside,
    )


def _cached(name: str) -> Path | None:
    try:
        return Path(cached_file(BASE, name, local_files_only=True))
    except OSError:  # what transformers raises for a file that is not in its cache
        return None
