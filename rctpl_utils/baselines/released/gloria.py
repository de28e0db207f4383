"""GLoRIA (Huang et al., ICCV 2021) from its released checkpoint.

A ResNet-50 gives a global vector and 19 x 19 regions (its third stage), BERT a vector for the text
and one for each word. Inference of marshuang80/gloria (`gloria/gloria.py`): the score of a film
and a prompt is the mean of the cosine of the global vectors and of the local similarity
(`gloria_words.best_word`); a class has several prompts, of which the best counts.

The authors then standardize each class over the films at hand. That needs them all together and
leaves the order of the films, hence AUC, as it is; it is not done here. Their prompts are five
drawn at random for each of five diseases; here a class is asked by the package's ensemble.

Maps are the attention of the words of the concept's name, which the authors show but do not score.
Retrieval is by global vectors alone: the authors add standardized local similarities, which are
no vectors' cosine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rctpl_utils.baselines.base import CLASSIFY, GROUND, RETRIEVE
from rctpl_utils.baselines.released.base import eight_bits
from rctpl_utils.baselines.released.checkpoints import load_matched, position_ids, released_names
from rctpl_utils.baselines.released.gloria_words import Caption, best_word, look, read_captions
from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.checkpoint import Layout
from rctpl_utils.encoders.frame import Frame
from rctpl_utils.encoders.medclip_text import FOLDER
from rctpl_utils.encoders.text_tower import untrained_bert
from rctpl_utils.encoders.two_towers import resnet50_trunk
from rctpl_utils.encoders.weight_files import read_state
from rctpl_utils.text.knowledge import ensemble
from rctpl_utils.vocabulary import prompt_name

WEIGHTS = "chexpert_resnet50.ckpt"
SQUARE, CROP = 256, 224  # pixels: `imsize`, `random_crop` (at its center when testing)
SEEN = 299  # pixels, to which the network itself enlarges what it is given
SHARPNESS = 10.0  # `temp3`


class ImageVectors(NamedTuple):
    """Before normalization: global (n, 768), regions (n, 361, 768)."""

    film: Tensor
    regions: Tensor


class GLoRIA(nn.Module):
    """See the module; the protocol is `released.base.ReleasedModel`."""

    name = "GLoRIA"
    native = frozenset({CLASSIFY, GROUND, RETRIEVE})
    frame = Frame("square", CROP / SQUARE)
    sharpness = SHARPNESS

    def __init__(self, folder: str | Path) -> None:
        """A model with random weights; `folder` holds BioClinicalBERT's configuration."""
        super().__init__()
        self.bert, self._tokenizer = untrained_bert(folder)
        width = self.bert.config.hidden_size  # 768, the joint space's too
        self.trunk = resnet50_trunk()
        self.global_embedder = nn.Linear(2048, width)
        self.local_embedder = nn.Conv2d(1024, width, 1, bias=False)
        self._prompts: dict[str, list[Caption]] = {}

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> "GLoRIA":
        """Read the checkpoint of PyTorch Lightning, frozen and ready.

        Args:
            folder: with `chexpert_resnet50.ckpt` and `bioclinicalbert/` (`config.json` and
                `vocab.txt`; its weights are in the checkpoint).
            device: where the model goes.

        Raises:
            InputError: absent or damaged files, missing or unexpected names (listed).
        """
        model = cls(Path(folder) / FOLDER)
        state = read_state(folder, released_names(WEIGHTS))
        load_matched(model, state, _layout(model), folder)
        return freeze(model).to(device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.global_embedder.weight.device

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """The longer side to 256 (area), black to a square, its center of 224; to [-1, 1].

        As `process_img` of `gloria_model.py` with `norm: half`. Pixels (H, W), float, in [0, 1],
        else an `InputError`; to (1, 224, 224) float32.
        """
        gray = eight_bits(pixels)
        ratio = SQUARE / max(gray.shape)
        height, width = (max(1, int(side * ratio)) for side in gray.shape)
        small = cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA)
        square = np.zeros((SQUARE, SQUARE), np.uint8)
        top, left = (SQUARE - height) // 2, (SQUARE - width) // 2
        square[top : top + height, left : left + width] = small
        edge = (SQUARE - CROP) // 2
        seen = torch.from_numpy(square[edge : edge + CROP, edge : edge + CROP])
        return (seen[None].float() / 255 - 0.5) / 0.5

    def image_vectors(self, films: Tensor) -> ImageVectors:
        """Films (n, 1, 224, 224) to the joint space."""
        images = films.to(self.device).expand(-1, 3, -1, -1)
        x = functional.interpolate(images, size=(SEEN, SEEN), mode="bilinear", align_corners=True)
        for name, stage in self.trunk.named_children():
            x = stage(x)
            if name == "layer3":
                regions = self.local_embedder(x).flatten(2).transpose(1, 2)
        return ImageVectors(self.global_embedder(x.mean(dim=(2, 3))), regions)

    @torch.no_grad()
    def classify(self, films: Tensor, concepts: Sequence[str]) -> Tensor:
        """Similarity of each film and each concept's best prompt: (n, L)."""
        images = self.image_vectors(films)
        columns = []
        for concept in concepts:
            if concept not in self._prompts:
                self._prompts[concept] = self._read(ensemble(concept))
            scores = [_similarity(images, caption) for caption in self._prompts[concept]]
            columns.append(torch.stack(scores).amax(dim=0))
        return torch.stack(columns, dim=1)

    @torch.no_grad()
    def ground(self, films: Tensor, concept: str) -> Tensor:
        """The mean attention of the words of the concept's name: (n, 19, 19)."""
        (caption,) = self._read([prompt_name(concept)])
        maps = look(caption.trained, self.image_vectors(films).regions)[:, 1:]  # without [CLS]
        side = round(maps.shape[2] ** 0.5)
        return maps.mean(dim=1).unflatten(1, (side, side))

    @torch.no_grad()
    def embed_images(self, films: Tensor) -> Tensor:
        """Global vectors: (n, 768), unit length."""
        return functional.normalize(self.image_vectors(films).film, dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Global vectors: (m, 768), unit length."""
        sentences = torch.stack([caption.sentence for caption in self._read(texts)])
        return functional.normalize(sentences, dim=-1)

    def _read(self, texts: Sequence[str]) -> list[Caption]:
        return read_captions(self.bert, self._tokenizer, texts)


def _similarity(images: ImageVectors, caption: Caption) -> Tensor:
    """The mean of the global cosine and the local similarity: (n,)."""
    cosine = functional.cosine_similarity(images.film, caption.sentence[None], dim=-1)
    return (cosine + best_word(caption.compared, images.regions)) / 2


def _layout(model: GLoRIA) -> Layout:
    """How `PretrainModel.state_dict` names what the model holds."""
    prefixes = {
        "bert.": "gloria.text_encoder.model.",
        "trunk.": "gloria.img_encoder.model.",
        "global_embedder.": "gloria.img_encoder.global_embedder.",
        "local_embedder.": "gloria.img_encoder.local_embedder.",
    }

    def released(name: str) -> str:
        own = next(prefix for prefix in prefixes if name.startswith(prefix))
        return prefixes[own] + name.removeprefix(own)

    text = r"gloria\.text_encoder\.model\."
    return Layout(
        released,
        unused=(rf"{text}pooler\.dense\.(weight|bias)",),
        constants={rf"{text}embeddings\.position_ids": position_ids(model.bert)},
    )
