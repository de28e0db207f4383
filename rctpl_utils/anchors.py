"""What RC-TPL+ pulls its concept embeddings towards: what a person would write of a class."""

from collections.abc import Mapping, Sequence

import torch

from rctpl_utils import handwritten
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.training import Regularizer

PULL = 3.0  # strength of the pull, chosen on validation films (notebook 08)


def class_anchors(encoder: Encoder, concepts: Sequence[str]) -> torch.Tensor:
    """The direction of name, description and hand-written phrasings together: (L, d)."""
    written = (handwritten.class_names, handwritten.descriptions, handwritten.prompt_ensemble)
    total = torch.stack([function(encoder, concepts).report for function in written]).sum(dim=0)
    return torch.nn.functional.normalize(total, dim=-1)


def pull_towards(
    target: torch.Tensor, strength: float, branches: Sequence[str] = ("concept",)
) -> Regularizer:
    """`strength` times the mean of 1 - <E_i, A_i>, summed over the branches.

    Args:
        target: A, (L, d) unit vectors.
        branches: those of them that learn are pulled.
    """

    def regularizer(embeddings: Mapping[str, torch.Tensor]) -> torch.Tensor:
        pulled = [embeddings[branch] for branch in branches if branch in embeddings]
        return strength * sum(1 - (each * target).sum(dim=-1).mean() for each in pulled)

    return regularizer
