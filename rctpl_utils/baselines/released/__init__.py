"""The baselines' released checkpoints, at their published architecture and preprocessing.

Nothing is downloaded: a user puts a model's files into the folder of its name, in lower case, below
`<data root>/weights/`, and `load_released` gives the model. docs/baselines.md says where each file
comes from, what its licence is, and what was and was not proven about each loader.

MedCLIP-ViT and BioViL, whose encoders this package has, stand here. Each classifies as its authors
do: MedCLIP by the mean of the cosines with a class's prompts (`PromptClassifier` of medclip 0.0.3
with `ensemble=True`), BioViL by the cosine with the mean of their vectors, which are averaged
before normalization (`get_similarity_score_from_raw_data` of hi-ml-multimodal 0.2.2). Both are
asked by the package's ensemble of prompts: MedCLIP's own are GLoRIA's, for five diseases; BioViL's
authors give two phrases for pneumonia.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from rctpl_utils.baselines.base import CLASSIFY, GROUND, RETRIEVE, ZeroShotModel
from rctpl_utils.baselines.released.chexzero import TOKENIZER_FILES, CheXzero
from rctpl_utils.baselines.released.gloria import GLoRIA
from rctpl_utils.baselines.released.medklip import TEXTS, MedKLIP, MeDSLIP
from rctpl_utils.encoders.base import TwoTowers
from rctpl_utils.encoders.frame import Frame
from rctpl_utils.encoders.loading import open_encoder
from rctpl_utils.encoders.published import IMAGE_WEIGHTS, BioViL
from rctpl_utils.errors import InputError
from rctpl_utils.text.knowledge import ensemble

__all__ = ["NO_PUBLIC_WEIGHTS", "PUBLIC", "ReleasedModel", "is_provided", "load_released"]

BLUR = 1.5  # cells; `get_similarity_map_from_raw_data` of hi-ml-multimodal


class ReleasedModel(ZeroShotModel, Protocol):
    """A released checkpoint behind the protocol; `films` are preprocessed images (n, C, S, S).

    Scores are those of the method's published inference; `frame` is what its maps cover
    (`encoders.frame.on_square`).
    """

    frame: Frame
    device: torch.device

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """One radiograph, float (H, W) in [0, 1], to the model's input (C, S, S)."""
        ...


class EncoderBaseline:
    """An encoder with two towers, frozen and ready, behind `ReleasedModel`.

    A subclass sets `kind` (of `encoders.loading`), `name`, `published` and `frame`, and gives
    `class_vectors`: a vector a class, whose product with a film's unit vector is the score (L, d).
    """

    def __init__(self, encoder: TwoTowers) -> None:
        self.encoder = encoder
        self.device = encoder.device
        self.preprocess = encoder.preprocess
        self.embed_texts = encoder.encode_text

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> "EncoderBaseline":
        """Read the encoder's files in a folder (`MedCLIP.load`, `BioViL.load`)."""
        return cls(open_encoder(cls.kind, folder, device))

    @torch.no_grad()
    def classify(self, films: Tensor, concepts: Sequence[str]) -> Tensor:
        """Scores by the published inference: (n, L)."""
        return self.embed_images(films) @ self.class_vectors(concepts).T

    @torch.no_grad()
    def ground(self, films: Tensor, concept: str) -> Tensor:
        """Products of the dense map and the class's vector: (n, h, w)."""
        dense = self.encoder.encode_image(films).dense_features
        return dense @ self.class_vectors([concept])[0]

    def embed_images(self, films: Tensor) -> Tensor:
        """(n, 1, S, S) to (n, d) unit vectors."""
        return self.encoder.encode_image(films).global_features


class ReleasedMedCLIP(EncoderBaseline):
    """MedCLIP with its Swin-tiny. Its map (`MedCLIP`) is an extension."""

    kind, name = "medclip-vit", "MedCLIP-ViT"
    published = frozenset({CLASSIFY, RETRIEVE})
    frame = Frame("square")

    @torch.no_grad()
    def class_vectors(self, concepts: Sequence[str]) -> Tensor:
        """The mean of the prompts' unit vectors, so that a product is the mean of cosines."""
        means = [self.encoder.encode_text(ensemble(each)).mean(dim=0) for each in concepts]
        return torch.stack(means)


class ReleasedBioViL(EncoderBaseline):
    """BioViL: maps are cosines of patches, blurred."""

    kind, name = "biovil", "BioViL"
    published = frozenset({CLASSIFY, GROUND, RETRIEVE})
    frame = BioViL.frame

    @torch.no_grad()
    def class_vectors(self, concepts: Sequence[str]) -> Tensor:
        """The mean of the prompts' vectors before normalization, then normalized."""
        tower = self.encoder.text
        means = [tower.projection(tower.pooled(ensemble(each))).mean(dim=0) for each in concepts]
        return functional.normalize(torch.stack(means), dim=-1)

    def ground(self, films: Tensor, concept: str) -> Tensor:
        """Cosines of patches and class, each map blurred by 1.5 cells: (n, 15, 15)."""
        maps = super().ground(films, concept)
        blurred = gaussian_filter(maps.cpu().numpy(), sigma=(0, BLUR, BLUR))
        return torch.from_numpy(blurred).to(maps.device)


_BERT = ("bioclinicalbert/config.json", "bioclinicalbert/vocab.txt")
_BERT_WEIGHTS = (*_BERT, "bioclinicalbert/pytorch_model.bin")


class Public(NamedTuple):
    """A released checkpoint: what reads it, its files (the checkpoint first), their source.

    Safetensors of the same names do, where docs/baselines.md says so.
    """

    model: type
    files: tuple[str, ...]
    source: str


PUBLIC: Mapping[str, Public] = MappingProxyType({
    "GLoRIA": Public(
        GLoRIA, (GLoRIA.weights[0], *_BERT),
        "https://stanfordmedicine.box.com/s/j5h7q99f3pfi7enc0dom73m4nsm6yzvh",
    ),
    "MedCLIP-ViT": Public(
        ReleasedMedCLIP, ("pytorch_model.bin", *_BERT), "https://github.com/RyanWangZf/MedCLIP"
    ),
    "BioViL": Public(
        ReleasedBioViL, (IMAGE_WEIGHTS[0], "pytorch_model.bin", "config.json", "vocab.txt"),
        "https://huggingface.co/microsoft/BiomedVLP-CXR-BERT-specialized",
    ),
    "CheXzero": Public(
        CheXzero, (CheXzero.weights[0], *TOKENIZER_FILES),
        "https://drive.google.com/drive/folders/1makFLiEMbSleYltaRxw81aBhEDMpVwno",
    ),
    "MedKLIP": Public(
        MedKLIP, (MedKLIP.weights[0], TEXTS, *_BERT_WEIGHTS),
        "https://drive.google.com/drive/folders/1HBShH7J_pO8onkzuweDgDq2QPqj6zjG_",
    ),
    "MeDSLIP": Public(
        MeDSLIP, (MeDSLIP.weights[0], TEXTS, *_BERT_WEIGHTS),
        "https://huggingface.co/pykale/MeDSLIP",
    ),
})  # fmt: skip
NO_PUBLIC_WEIGHTS: Mapping[str, str] = MappingProxyType(
    {
        "ConVIRT": "no public weights: its authors released none",
        "MedPrompt-ViT": "no public weights: neither code nor weights were released",
    }
)


def weights_folder(name: str, data_root: str | Path) -> Path:
    """Where a model's files are looked for; an `InputError` tells why a model has none."""
    if name not in PUBLIC:
        why = NO_PUBLIC_WEIGHTS.get(name)
        problem = f"{name}: {why}" if why else f"there is no released model {name!r}"
        raise InputError(problem, f"Choose one of: {', '.join(PUBLIC)}.")
    return Path(data_root) / "weights" / name.lower()


def is_provided(name: str, data_root: str | Path) -> bool:
    """Whether the user has put a folder for this model there: its row is then to be filled."""
    return weights_folder(name, data_root).is_dir()


def load_released(
    name: str, data_root: str | Path, device: str | torch.device = "cpu"
) -> ReleasedModel:
    """A released model, one of `PUBLIC`, frozen; an `InputError` tells what is absent or wrong."""
    folder, public = weights_folder(name, data_root), PUBLIC[name]
    if not folder.is_dir():
        raise InputError(
            f"{name}'s weights are not there",
            f"Put {', '.join(public.files)} into this folder; source: {public.source}.",
            file=folder,
        )
    return public.model.load(folder, device)
