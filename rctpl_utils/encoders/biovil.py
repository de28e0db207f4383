"""BioViL (Boecking et al. 2022) from its released files, as hi-ml-multimodal 0.2.2 reads them."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop, resize

from rctpl_utils.encoders.checkpoint import WEIGHTS, Layout, match_state, read_state, renamed
from rctpl_utils.encoders.frame import Frame
from rctpl_utils.encoders.text_tower import TextTower, position_ids, untrained_bert
from rctpl_utils.encoders.two_towers import MapTower, Published, check_pixels, resnet50_trunk

DIMENSION = 128
RESIZE, CROP = 512, 480  # health_multimodal/image/utils.py
IMAGE_WEIGHTS = (
    "biovil_image_resnet50_proj_size_128.pt",  # health_multimodal/image/model/pretrained.py
    "biovil_image_resnet50_proj_size_128.safetensors",
)


class BioViL(Published):
    """CXR-BERT's [CLS] and a ResNet-50's 15 x 15 patches in one space of 128 dimensions.

    It is read from the folder of microsoft/BiomedVLP-CXR-BERT-specialized, with
    `biovil_image_resnet50_proj_size_128.pt`, `pytorch_model.bin` (or safetensors), `config.json`
    and `vocab.txt`. The global vector is the mean of the projected patches, which are not linear in
    the ResNet's. The map covers the square crop at the film's center, not the padded film: `frame`
    says so, and `frame.on_square` puts it there.
    """

    name = "BioViL (ResNet-50, CXR-BERT)"
    dimension = DIMENSION
    frame = Frame("short", CROP / RESIZE)  # 15/16 of the film's shorter side
    preprocessing = "min-max 8 bits, bilinear 512, crop 480"

    def __init__(self, folder: str | Path) -> None:
        """A model with random weights; `folder` holds CXR-BERT's `config.json` and `vocab.txt`."""
        bert, tokenizer = untrained_bert(folder)
        head = OrderedDict(  # BertProjectionHead of health_multimodal/text/model
            dense_to_hidden=nn.Linear(bert.config.hidden_size, DIMENSION),
            gelu=nn.GELU(),
            LayerNorm=nn.LayerNorm(DIMENSION, eps=1e-12),
            dense_to_output=nn.Linear(DIMENSION, DIMENSION),
        )
        text = TextTower(bert, tokenizer, nn.Sequential(head), pooling="cls")
        super().__init__(text, MapTower(resnet50_trunk(), Projector()))

    def _matched(self, path: str | Path) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
        parts = ((self.text, WEIGHTS, text_layout(self)), (self.image, IMAGE_WEIGHTS, IMAGE_LAYOUT))
        for module, names, layout in parts:
            yield module, match_state(module, read_state(path, names), layout, path)

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

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(2048, DIMENSION, 1, bias=False),
            nn.BatchNorm2d(DIMENSION),
            nn.ReLU(inplace=True),
            nn.Conv2d(DIMENSION, DIMENSION, 1),
        )

    def forward(self, cells: Tensor) -> Tensor:
        """(n, h, w, 2048) to (n, h, w, 128)."""
        return self.model(cells.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def stretched(pixels: np.ndarray) -> np.ndarray:
    """The film's own minimum and maximum to 0 and 255, fractions cut off; (H, W) uint8."""
    pixels = pixels.astype(np.float64)
    spread = pixels.max() - pixels.min()
    if spread == 0:
        return np.zeros(pixels.shape, np.uint8)
    levels = (pixels - pixels.min()) / spread * 255
    # a gray level that came through float32 may lie just below its integer
    return np.floor(levels + 1e-4).astype(np.uint8)


def text_layout(model: BioViL) -> Layout:
    """How `pytorch_model.bin` names what the text tower holds."""
    return renamed(
        {"projection.": "cls_projection_head."},
        # the head for masked words; a pooler, which [CLS] does not go through
        unused=(r"cls\.predictions\..+", r"bert\.pooler\.dense\.(weight|bias)"),
        constants={r"bert\.embeddings\.position_ids": position_ids(model.text.bert)},
    )


# ImageNet's classes are stored with the ResNet, and never called
IMAGE_LAYOUT = renamed(
    {"trunk.": "encoder.encoder.", "projection.": "projector."},
    unused=(r"encoder\.encoder\.fc\.(weight|bias)",),
)
