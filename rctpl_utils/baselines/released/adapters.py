"""MedCLIP-ViT and BioViL, whose encoders this package has, as baselines of their own.

Each classifies as its authors do: MedCLIP by the mean of the cosines with a class's prompts
(`PromptClassifier` of medclip 0.0.3 with `ensemble=True`), BioViL by the cosine with the mean of
their vectors, which are averaged before normalization (`get_similarity_score_from_raw_data` of
hi-ml-multimodal 0.2.2). Both are asked by the package's ensemble of prompts: MedCLIP's own are
GLoRIA's, for five diseases; BioViL's authors give two phrases for pneumonia.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from rctpl_utils.baselines.base import CLASSIFY, GROUND, RETRIEVE
from rctpl_utils.encoders.biovil import CROP, RESIZE, BioViL
from rctpl_utils.encoders.frame import Frame
from rctpl_utils.encoders.medclip import MedCLIP
from rctpl_utils.encoders.two_towers import TwoTowers
from rctpl_utils.text.knowledge import ensemble

BLUR = 1.5  # cells; `get_similarity_map_from_raw_data` of hi-ml-multimodal


class EncoderBaseline:
    """An encoder with two towers, frozen and ready, behind `ReleasedModel`.

    A subclass sets `name`, `published` and `frame`, reads its files and gives `class_vectors`: a
    vector a class, whose product with a film's unit vector is the score (L, d).
    """

    def __init__(self, encoder: TwoTowers) -> None:
        self.encoder = encoder
        self.preprocess = encoder.preprocess
        self.embed_texts = encoder.encode_text

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.device

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

    name = "MedCLIP-ViT"
    published = frozenset({CLASSIFY, RETRIEVE})
    frame = Frame("square")

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> "ReleasedMedCLIP":
        """Read `pytorch_model.bin` and `bioclinicalbert/` in a folder (`MedCLIP.load`)."""
        return cls(MedCLIP.load(folder, device, tower="vit"))

    @torch.no_grad()
    def class_vectors(self, concepts: Sequence[str]) -> Tensor:
        """The mean of the prompts' unit vectors, so that a product is the mean of cosines."""
        means = [self.encoder.encode_text(ensemble(each)).mean(dim=0) for each in concepts]
        return torch.stack(means)


class ReleasedBioViL(EncoderBaseline):
    """BioViL: maps are cosines of patches, blurred."""

    name = "BioViL"
    published = frozenset({CLASSIFY, GROUND, RETRIEVE})
    frame = Frame("short", CROP / RESIZE)

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> "ReleasedBioViL":
        """Read the folder of microsoft/BiomedVLP-CXR-BERT-specialized (`BioViL.load`)."""
        return cls(BioViL.load(folder, device))

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
