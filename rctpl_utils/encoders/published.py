"""MedCLIP, the frozen model of the paper (3.2), and BioViL, from their released files.

What is taken from the packages `medclip` 0.0.3 and `hi-ml-multimodal` 0.2.2 is said where it is
used. MedCLIP's image encoder was trained on CheXpert's and MIMIC-CXR's images: "no images" holds
for the prompts only.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50
from torchvision.transforms.functional import center_crop, resize
from transformers import SwinConfig, SwinModel
from transformers.utils import cached_file

from rctpl_utils.encoders.base import ImageFeatures, TwoTowers, check_pixels
from rctpl_utils.encoders.checkpoint import (
    WEIGHTS,
    FromFiles,
    Layout,
    match_state,
    read_state,
    released_names,
)
from rctpl_utils.encoders.frame import Frame
from rctpl_utils.encoders.standin import pad_to_square
from rctpl_utils.encoders.text_tower import TEXT_FILES, TextTower, position_ids, untrained_bert
from rctpl_utils.errors import InputError

BASE = "emilyalsentzer/Bio_ClinicalBERT"  # Alsentzer et al. 2019; `BERT_TYPE` in medclip/constants
FOLDER = "bioclinicalbert"
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
RESIZE, CROP = 512, 480  # health_multimodal/image/utils.py
IMAGE_WEIGHTS = released_names("biovil_image_resnet50_proj_size_128.pt")  # .../pretrained.py


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


class Published(TwoTowers, FromFiles):
    """A published model with a `MapTower`, filled from its released files."""

    @property
    def saliency_layer(self) -> nn.Module:
        """The trunk, whose output is the map before the projection: (n, k, h, w)."""
        return self.image.trunk


class MedCLIP(Published):
    """MedCLIP (Wang et al. 2022) with one of its two image towers, `tower`.

    It is read from `pytorch_model.bin`, its folder, the zip archive as downloaded, or safetensors;
    the file must be of that tower.

    - "resnet50": torchvision's; its `fc` (2048 to 512, no bias) is applied to each of the 7 x 7
      cells of `layer4`, so the cells' mean is exactly the global vector before normalization.
    - "vit": Swin-tiny; its pooler is the mean of the last hidden state's 49 tokens and the
      projection has no bias, so the same holds for the projected tokens.

    MedCLIP averages the hidden states 1, 2 and last over all tokens of the padded batch, so that a
    text's vector there depends on the longest text beside it (`MedCLIPTextModel.forward`). Here
    padding takes no part: the vector is MedCLIP's own for a text alone or among such of its length.
    """

    dimension = 512
    preprocessing = (f"square on black, 8 bits, bilinear {SIDE}, mean {MEAN}, std {DEVIATION}",)

    def __init__(self, path: str | Path, tower: str = "resnet50") -> None:
        """A model with random weights; `path` leads to its base model (`find_base_model`)."""
        base_model = find_base_model(path)
        trunk, width = (resnet50_trunk(), 2048) if tower == "resnet50" else (SwinMap(), 768)
        image = MapTower(trunk, nn.Linear(width, self.dimension, bias=False))
        bert, tokenizer = untrained_bert(base_model)
        projection = nn.Linear(bert.config.hidden_size, self.dimension, bias=False)
        super().__init__(TextTower(bert, tokenizer, projection, layers=(1, 2, -1)), image)
        self.tower = tower
        self.name = f"MedCLIP ({TOWERS[tower]}, BioClinicalBERT)"

    def matched(self, path: str | Path) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
        """The state, where it is not the other tower's."""
        state, (other,) = read_state(path), set(TOWERS) - {self.tower}
        heads = [
            each for each in TOWERS if any(n.endswith(f"{_HEADS[each]}.weight") for n in state)
        ]
        if heads == [other]:
            found, wanted = TOWERS[other], TOWERS[self.tower]
            problem = f"a checkpoint of MedCLIP with {found}, where {wanted} is wanted"
            cure = f"Give the other one, or choose the encoder medclip-{other}."
            raise InputError(problem, cure, file=path)
        yield self, match_state(self, state, self.layout(state), path)

    def layout(self, state: Mapping[str, Tensor]) -> Layout:
        """How `MedCLIPModel.state_dict` (medclip/modeling_medclip.py) names what it holds."""
        index = r"vision_model\.model\.encoder\.layers\.\d\.blocks\.\d\.attention\.self\."
        return Layout(
            {
                "text.bert.": "text_model.model.",
                "text.projection.": "text_model.projection_head.",
                "image.trunk.model.": "vision_model.model.",
                "image.trunk.": "vision_model.model.",
                "image.projection.": f"{_HEADS[self.tower]}.",
            },
            SWIN_NAMES,
            # the temperature of pre-training; BERT's pooler, which MedCLIP never calls
            unused=(r"logit_scale", r"text_model\.model\.pooler\.dense\.(weight|bias)"),
            constants={
                r"text_model\.model\.embeddings\.position_ids": position_ids(self.text.bert),
                rf"{index}relative_position_index": relative_position_index(),
            },
        )

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """Pad to a square on black, to 8 bits, resize to 224 (bilinear), standardize.

        (H, W) floats in [0, 1] (else InputError) to (1, 224, 224) float32, as
        `ZeroShotImageDataset` of medclip/dataset.py. One difference: a film of less than 224 pixels
        is enlarged, where MedCLIP would set it on a black square of 224, so that a map always
        covers the padded film and no more.
        """
        gray = Image.fromarray(pad_to_square(eight_bits(pixels)))
        small = gray.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
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


def find_base_model(checkpoint: str | Path) -> Path:
    """The folder of MedCLIP's base model, its `config.json` and `vocab.txt`; no download.

    It is `bioclinicalbert/` beside the checkpoint (inside it, if that is a folder), or else the
    copy in the cache that transformers keeps of the hub. Where neither is there, an InputError says
    what to download and where to put it.
    """
    checkpoint = Path(checkpoint)
    beside = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / FOLDER
    if beside.is_dir():
        return beside
    try:
        cached = [cached_file(BASE, name, local_files_only=True) for name in TEXT_FILES]
        return Path(cached[0]).parent
    except OSError as error:  # what transformers raises for a file that is not in its cache
        files = " and ".join(TEXT_FILES)
        raise InputError(
            "MedCLIP's checkpoint does not hold its text model's configuration and vocabulary",
            f"Download {files} from https://huggingface.co/{BASE} into this folder.",
            file=beside,
        ) from error


class BioViL(Published):
    """BioViL (Boecking et al. 2022): CXR-BERT's [CLS] and a ResNet-50's 15 x 15 patches.

    It is read from the folder of microsoft/BiomedVLP-CXR-BERT-specialized, with
    `biovil_image_resnet50_proj_size_128.pt`, `pytorch_model.bin` (or safetensors), `config.json`
    and `vocab.txt`. The global vector is the mean of the projected patches, which are not linear in
    the ResNet's. The map covers the square crop at the film's center, not the padded film: `frame`
    says so, and `frame.on_square` puts it there.
    """

    name = "BioViL (ResNet-50, CXR-BERT)"
    dimension = 128
    frame = Frame("short", CROP / RESIZE)  # 15/16 of the film's shorter side
    preprocessing = ("min-max 8 bits, bilinear 512, crop 480",)

    def __init__(self, folder: str | Path) -> None:
        """A model with random weights; `folder` holds CXR-BERT's `config.json` and `vocab.txt`."""
        bert, tokenizer = untrained_bert(folder)
        head = OrderedDict(  # BertProjectionHead of health_multimodal/text/model
            dense_to_hidden=nn.Linear(bert.config.hidden_size, self.dimension),
            gelu=nn.GELU(),
            LayerNorm=nn.LayerNorm(self.dimension, eps=1e-12),
            dense_to_output=nn.Linear(self.dimension, self.dimension),
        )
        text = TextTower(bert, tokenizer, nn.Sequential(head), pooling="cls")
        super().__init__(text, MapTower(resnet50_trunk(), Projector(self.dimension)))

    def parts(self) -> tuple[tuple[nn.Module, Sequence[str], Layout], ...]:
        """Both towers, each with its file's names and how that names what the tower holds."""
        text = Layout(
            {"projection.": "cls_projection_head."},
            # the head for masked words; a pooler, which [CLS] does not go through
            unused=(r"cls\.predictions\..+", r"bert\.pooler\.dense\.(weight|bias)"),
            constants={r"bert\.embeddings\.position_ids": position_ids(self.text.bert)},
        )
        # ImageNet's classes are stored with the ResNet, and never called
        image = Layout(
            {"trunk.": "encoder.encoder.", "projection.": "projector."},
            unused=(r"encoder\.encoder\.fc\.(weight|bias)",),
        )
        return (self.text, WEIGHTS, text), (self.image, IMAGE_WEIGHTS, image)

    def matched(self, path: str | Path) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
        """Both towers, each with its file's state."""
        for part, names, layout in self.parts():
            yield part, match_state(part, read_state(path, names), layout, path)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts to (n, d) unit vectors; `!`, `?` and `.` at their ends are dropped.

        So `TextInput` of health_multimodal/text/data/io.py does. Unlike there, texts are cut after
        77 tokens, as for the other encoders.
        """
        return super().encode_text([text.rstrip("!?.") for text in texts])

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """Stretch to 8 bits, resize the shorter side to 512 (bilinear), crop 480 at the center.

        (H, W) floats in [0, 1] (else InputError) to (1, 480, 480) float32 in [0, 1], as
        `load_image` and `create_chest_xray_transform_for_inference` of health_multimodal, with no
        mean or deviation. A film of one gray stays black (there: a division by zero).
        """
        check_pixels(pixels)
        image = Image.fromarray(stretched(pixels))
        image = center_crop(resize(image, RESIZE), CROP)  # PIL's own bilinear
        return torch.from_numpy(np.array(image))[None].float() / 255


class Projector(nn.Module):
    """BioViL's two 1 x 1 convolutions on every cell (health_multimodal/image/model/modules.py)."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(2048, dimension, 1, bias=False),
            nn.BatchNorm2d(dimension),
            nn.ReLU(inplace=True),
            nn.Conv2d(dimension, dimension, 1),
        )

    def forward(self, cells: Tensor) -> Tensor:
        """(n, h, w, 2048) to (n, h, w, d)."""
        return self.model(cells.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """A film (H, W) in [0, 1], else `InputError`, as the grays that published code reads: uint8."""
    check_pixels(pixels)
    return np.rint(pixels * 255).astype(np.uint8)


def stretched(pixels: np.ndarray) -> np.ndarray:
    """The film's own minimum and maximum to 0 and 255, fractions cut off; (H, W) uint8."""
    pixels = pixels.astype(np.float64)
    spread = pixels.max() - pixels.min()
    if spread == 0:
        return np.zeros(pixels.shape, np.uint8)
    levels = (pixels - pixels.min()) / spread * 255
    # a gray level that came through float32 may lie just below its integer
    return np.floor(levels + 1e-4).astype(np.uint8)
