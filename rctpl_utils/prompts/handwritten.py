"""What learned prompts must beat: class embeddings that a person writes, and a nonsense control."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rctpl_utils.encoders.base import Encoder
from rctpl_utils.scoring import ClassEmbeddings
from rctpl_utils.text.knowledge import Knowledge, ensemble
from rctpl_utils.vocabulary import prompt_name

# Pronounceable strings that name nothing; one a class, in order.
NONSENSE = (
    "blick", "dorpen", "fentish", "garlow", "hummet", "jastic", "kelvor", "lomander", "mippen",
    "norvid", "ostrand", "pellick", "quandor", "rastem", "slivet", "tromble", "umbrick", "vexter",
    "wandol", "yorrick", "zeltan",
)  # fmt: skip


def class_names(encoder: Encoder, concepts: Sequence[str]) -> ClassEmbeddings:
    """The bare class name, for both branches: two (L, d)."""
    return _both(encoder.encode_text([prompt_name(concept) for concept in concepts]))


def prompt_ensemble(encoder: Encoder, concepts: Sequence[str]) -> ClassEmbeddings:
    """The mean of several phrasings a class (Radford et al. 2021, section 3.1.4): two (L, d)."""
    return _mean(encoder, [ensemble(concept) for concept in concepts])


def descriptions(encoder: Encoder, concepts: Sequence[str], source: str = "kb") -> ClassEmbeddings:
    """The knowledge of each class, its sentences' mean, without a location: two (L, d)."""
    knowledge = Knowledge.load(source)
    return _mean(encoder, [knowledge.sentences(concept) for concept in concepts])


def _mean(encoder: Encoder, texts: Sequence[Sequence[str]]) -> ClassEmbeddings:
    """A class's direction is the mean of its texts', each encoded alone."""
    means = [encoder.encode_text(list(each)).mean(dim=0) for each in texts]
    return _both(functional.normalize(torch.stack(means), dim=-1))


def _both(embedded: Tensor) -> ClassEmbeddings:
    return ClassEmbeddings(embedded, embedded)
