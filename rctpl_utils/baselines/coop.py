"""CoOp: one learned context shared by all classes, from a few labeled films (not zero-shot).

Zhou, Yang, Loy and Liu, Learning to Prompt for Vision-Language Models, IJCV 2022. The prompt is
t_i = [V]_1 ... [V]_M [CLASS_i] (Eq. 2), and with f the film's global feature and g the text encoder

    p(y = i | x) = exp(cos(g(t_i), f) / tau) / sum_j exp(cos(g(t_j), f) / tau)            (Eq. 3)

learned by cross-entropy; tau is the encoder's own, fixed.

**Kept**: M = 16 unified context vectors from N(0, 0.02^2), the class name at the end, the frozen
encoder's global feature and temperature, the softmax over names, 1, 4 and 16 labeled films a class.

**Changed**: films of the chest show several findings, where the paper's photographs show one. The
target is spread evenly over the classes that are present, and a class that is unknown is left out
of the softmax; with one present class and none unknown this is the paper's loss. (A binary
cross-entropy for each class would need a bias that CoOp does not have: cosines are far from zero.)
Such a loss compares classes within a film, and nothing sets the level of one film against another.

**Left out**: class-specific contexts, which no unseen class could use; image augmentation, since
features are cached; SGD and 50 to 200 epochs, for the shared loop and its end.

**Fair**: encoder, classes, initial deviation, optimizer and scoring of the maps are RC-TPL's; the
labels are an advantage, and said so in the row's name. Grounding (the cosine of each cell) is our
extension.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rctpl_utils.baselines.few_shot import FilmBatch
from rctpl_utils.baselines.prompt_learning import PromptModel, PromptSettings, new_context
from rctpl_utils.encoders.base import ImageFeatures
from rctpl_utils.scoring import report_scores, similarity_maps

CONTEXT_LENGTH = 16  # M of the paper's main experiments
SETTINGS = PromptSettings(batch_size=32, learning_rate=1e-2)


class CoOp(PromptModel):
    """One context; scores are cosines with the global feature."""

    method = "CoOp"

    def begin(self, generator: torch.Generator) -> None:
        """The context, (M, W)."""
        self.context = new_context(CONTEXT_LENGTH, self.encoder, generator)

    def encode(self, names: Sequence[str]) -> tuple[Tensor]:
        """g(t_i): (L, d)."""
        return (self.encoder.encode_prompts(self.context, list(names)),)

    def loss(self, batch: FilmBatch) -> Tensor:
        """The cross-entropy of Eq. 3, its target spread over the present classes."""
        (embedded,) = self.encoded(self.concepts)
        scores = report_scores(batch.features.global_features, embedded)
        return names_cross_entropy(self.sharpness * scores, batch.labels)

    @torch.no_grad()
    def classify(self, films: ImageFeatures, concepts: Sequence[str]) -> Tensor:
        """Cosines (n, L), the logits of Eq. 3 without 1 / tau."""
        return report_scores(films.global_features, *self.encoded(concepts))

    @torch.no_grad()
    def ground(self, films: ImageFeatures, concept: str) -> Tensor:
        """The cosine of each cell, our extension: (n, h, w)."""
        return similarity_maps(films.dense_features, *self.encoded([concept]))[..., 0]


def names_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over names for films that show several classes, averaged over films.

    Args:
        logits: (n, L).
        labels: (n, L): 1 present, 0 absent, NaN unknown (no part of the softmax). A film without a
            present class has no target and takes no part.
    """
    lowest = torch.finfo(logits.dtype).min
    logarithms = logits.masked_fill(labels.isnan(), lowest).log_softmax(dim=1)
    present = (labels == 1).to(logits.dtype)
    counts = present.sum(dim=1)
    each = -torch.where(labels == 1, logarithms, 0).sum(dim=1) / counts.clamp(min=1)
    return each.sum() / (counts > 0).sum().clamp(min=1)
