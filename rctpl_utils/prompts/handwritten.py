"""What a person writes of a class: what learned prompts must beat, what they are pulled towards."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from rctpl_utils.encoders.base import Encoder
from rctpl_utils.scoring import ClassEmbeddings
from rctpl_utils.text.knowledge import Knowledge, ensemble
from rctpl_utils.vocabulary import prompt_name

PULL = 3.0  # strength of the pull, chosen on validation films (notebook 08)
OUTLYING = 2.0  # modified z-score from which a phrasing is pruned
# Pronounceable strings that name nothing; one a class, in order.
NONSENSE = (
    "blick", "dorpen", "fentish", "garlow", "hummet", "jastic", "kelvor", "lomander", "mippen",
    "norvid", "ostrand", "pellick", "quandor", "rastem", "slivet", "tromble", "umbrick", "vexter",
    "wandol", "yorrick", "zeltan",
)  # fmt: skip
Written = Callable[[Encoder, Sequence[str]], ClassEmbeddings]  # both branches alike: two (L, d)


def class_names(encoder: Encoder, concepts: Sequence[str]) -> ClassEmbeddings:
    """The bare class names."""
    return _both(encoder.encode_text([prompt_name(concept) for concept in concepts]))


def prompt_ensemble(encoder: Encoder, concepts: Sequence[str]) -> ClassEmbeddings:
    """The mean of several phrasings a class (Radford et al. 2021, section 3.1.4)."""
    return _mean(encoder, [ensemble(concept) for concept in concepts])


def descriptions(encoder: Encoder, concepts: Sequence[str], source: str = "kb") -> ClassEmbeddings:
    """The knowledge of each class, its sentences' mean, without a location."""
    knowledge = Knowledge.load(source)
    return _mean(encoder, [knowledge.sentences(concept) for concept in concepts])


def class_anchors(encoder: Encoder, concepts: Sequence[str]) -> ClassEmbeddings:
    """The direction of name, description and hand-written phrasings together."""
    written = (class_names, descriptions, prompt_ensemble)
    total = torch.stack([function(encoder, concepts).report for function in written]).sum(dim=0)
    return _both(normalize(total, dim=-1))


def pruned_ensemble(encoder: Encoder, concepts: Sequence[str]) -> ClassEmbeddings:
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
    return _both(normalize(torch.stack(means), dim=-1))


def pull_towards(
    target: Tensor, strength: float, branches: Sequence[str] = ("concept",)
) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """A regularizer: `strength` times the mean of 1 - <E_i, A_i>, A the `target`.

    All are (L, d) unit vectors; it is summed over those of the branches that learn.
    """

    def regularizer(embeddings: Mapping[str, Tensor]) -> Tensor:
        pulled = [embeddings[branch] for branch in branches if branch in embeddings]
        return strength * sum(1 - (each * target).sum(dim=-1).mean() for each in pulled)

    return regularizer


def _mean(encoder: Encoder, texts: Sequence[Sequence[str]]) -> ClassEmbeddings:
    """A class's direction is the mean of its texts', each encoded alone."""
    means = [encoder.encode_text(list(each)).mean(dim=0) for each in texts]
    return _both(normalize(torch.stack(means), dim=-1))


def _both(embedded: Tensor) -> ClassEmbeddings:
    return ClassEmbeddings(embedded, embedded)
