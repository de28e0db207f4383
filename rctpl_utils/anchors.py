"""What RC-TPL+ pulls its class embeddings towards: what a person would write of a class."""

from collections.abc import Mapping, Sequence

import torch

from rctpl_utils import handwritten
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.training import Regularizer

PULL = 20.0  # strength of the pull, chosen on validation data


def class_anchors(encoder: Encoder, concepts: Sequence[str]) -> torch.Tensor:
    """The direction of name, description and hand-written phrasings together: (L, d)."""
    written = (handwritten.class_names, handwritten.descriptions, handwritten.prompt_ensemble)
    total = torch.stack([function(encoder, concepts).report for function in written]).sum(dim=0)
    return torch.nn.functional.normalize(total, dim=-1)


def pull_towards(target: torch.Tensor, strength: float) -> Regularizer:
    """The regularizer of RC-TPL+; `target` (L, d) unit vectors."""

    def regularizer(embeddings: Mapping[str, torch.Tensor]) -> torch.Tensor:
        similar = ((each * target).sum(dim=-1).mean() for each in embeddings.values())
        return strength * sum(1 - each for each in similar)

    return regularizer
