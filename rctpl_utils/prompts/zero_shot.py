"""Zero-shot scores of images from class embeddings (paper 3.4), and the methods of a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rctpl_utils.encoders.base import ImageFeatures
from rctpl_utils.encoders.features import IMAGE_BATCH, ImageFeatureFile
from rctpl_utils.scoring import (
    IMAGE_TEMPERATURE,
    ClassEmbeddings,
    concept_scores,
    fuse,
    report_scores,
)

Embedder = Callable[[Sequence[str]], ClassEmbeddings]


@dataclass(frozen=True)
class Method:
    """A row of Table 1, under the name that the table prints; run k belongs to encoder k."""

    name: str
    embedders: tuple[Embedder, ...]
    branch: str = "both"  # or "report", "concept"


class BranchScores(NamedTuple):
    """Scores of n images for L concepts, by branch: two (n, L)."""

    report: np.ndarray
    concept: np.ndarray

    @property
    def both(self) -> np.ndarray:
        """The final score (paper 3.4)."""
        return fuse(self.report, self.concept)


def branch_scores(
    features: ImageFeatures, embeddings: ClassEmbeddings, temperature: float = IMAGE_TEMPERATURE
) -> tuple[Tensor, Tensor]:
    """Eq. 7 and 8 with image features in place of text features: two (n, L)."""
    cells = features.dense_features.flatten(1, 2)  # (n, h * w, d)
    return (
        report_scores(features.global_features, embeddings.report),
        concept_scores(cells, embeddings.concept, temperature),
    )


@torch.no_grad()
def score_images(
    file: ImageFeatureFile,
    methods: Mapping[str, ClassEmbeddings],
    temperature: float = IMAGE_TEMPERATURE,
) -> dict[str, BranchScores]:
    """Score a whole data set with several methods in one pass over its features: (n, L) float32.

    `methods` are class embeddings (L, d) by name; L may differ from method to method.
    """
    joined = ClassEmbeddings(*(torch.cat(each) for each in zip(*methods.values(), strict=True)))
    device = joined.report.device
    parts = [
        branch_scores(file.batch(slice(start, start + IMAGE_BATCH), device), joined, temperature)
        for start in range(0, len(file), IMAGE_BATCH)
    ]
    report, concept = (torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True))
    ends = np.cumsum([len(each.report) for each in methods.values()])[:-1]
    split = (np.split(each, ends, axis=1) for each in (report, concept))
    return {name: BranchScores(*each) for name, *each in zip(methods, *split, strict=True)}
