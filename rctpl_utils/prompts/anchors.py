"""What learned class embeddings are pulled towards: what a person would write of a class."""

from collections.abc import Callable, Mapping, Sequence

import torch

from rctpl_utils.encoders.base import Encoder
from rctpl_utils.prompts import handwritten
from rctpl_utils.prompts.training import Regularizer
from rctpl_utils.text.knowledge import ensemble

PULL = 3.0  # strength of the pull, chosen on validation films (notebook 08)
OUTLYING = 2.0  # modified z-score from which a phrasing is pruned


def class_anchors(encoder: Encoder, concepts: Sequence[str]) -> torch.Tensor:
    """The direction of name, description and hand-written phrasings together: (L, d)."""
    written = (handwritten.class_names, handwritten.descriptions, handwritten.prompt_ensemble)
    total = torch.stack([function(encoder, concepts).report for function in written]).sum(dim=0)
    return torch.nn.functional.normalize(total, dim=-1)


def pruned_ensemble(encoder: Encoder, concepts: Sequence[str]) -> torch.Tensor:
    """The mean of a class's phrasings without outliers, after BiomedCoOp (Koleilat et al. 2025).

    A phrasing's score is its mean cosine with the class's others; it is left out where the score
    is `OUTLYING` or more deviations from the median (0.6745 / MAD: Iglewicz and Hoaglin 1993).
    """
    means = []
    for concept in concepts:
        vectors = encoder.encode_text(list(ensemble(concept)))
        scores = (vectors @ vectors.T).mean(dim=1)
        away = (scores - scores.median()).abs()
        means.append(vectors[0.6745 * away < OUTLYING * away.median().clamp_min(1e-6)].mean(dim=0))
    return torch.nn.functional.normalize(torch.stack(means), dim=-1)


def whole_ensemble(encoder: Encoder, concepts: Sequence[str]) -> torch.Tensor:
    """The mean of a class's phrasings: (L, d)."""
    return handwritten.prompt_ensemble(encoder, concepts).report


def names(encoder: Encoder, concepts: Sequence[str]) -> torch.Tensor:
    """The bare class names: (L, d)."""
    return handwritten.class_names(encoder, concepts).report


def descriptions(encoder: Encoder, concepts: Sequence[str]) -> torch.Tensor:
    """The knowledge of each class: (L, d)."""
    return handwritten.descriptions(encoder, concepts).report


Anchors = Callable[[Encoder, Sequence[str]], torch.Tensor]


def pull_towards(
    target: torch.Tensor, strength: float, branches: Sequence[str] = ("concept",)
) -> Regularizer:
    """`strength` times the mean of 1 - <E_i, A_i>, A the `target`, (L, d) unit vectors.

    It is summed over those of the branches that learn.
    """

    def regularizer(embeddings: Mapping[str, torch.Tensor]) -> torch.Tensor:
        pulled = [embeddings[branch] for branch in branches if branch in embeddings]
        return strength * sum(1 - (each * target).sum(dim=-1).mean() for each in pulled)

    return regularizer
