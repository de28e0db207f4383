"""Similarities and their aggregation: Eq. 7 and 8, the same for text and for images."""

from typing import NamedTuple

import torch
from torch import Tensor

# TaI-DPT (Guo et al. 2023): cosines times 50 for text and 40 for image regions inside the softmax.
TEXT_TEMPERATURE = 1 / 50
IMAGE_TEMPERATURE = 1 / 40


class ClassEmbeddings(NamedTuple):
    """One embedding a class for each branch: E^R and E^C of the paper, both (L, d)."""

    report: Tensor
    concept: Tensor


def report_scores(global_features: Tensor, class_embeddings: Tensor) -> Tensor:
    """p_i = <u, E_i> (Eq. 7, left): (n, d) and (L, d) to (n, L)."""
    return global_features @ class_embeddings.T


def similarity_maps(local_features: Tensor, class_embeddings: Tensor) -> Tensor:
    """P_ij = <U_j, E_i> (Eq. 7, right): (n, R, d) and (L, d) to (n, R, L)."""
    return local_features @ class_embeddings.T


def aggregate(similarities: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """p'_i: the softmax-weighted sum over regions (Eq. 8): P, (n, R, L), to (n, L).

    A small temperature tau_c looks at the best region only, a large one at the mean. The mask,
    (n, R), is true where a region exists: an image has all, a report as many as sentences.
    """
    logits = similarities / temperature
    if mask is not None:
        logits = logits.masked_fill(~mask.unsqueeze(-1), float("-inf"))
    return (logits.softmax(dim=1) * similarities).sum(dim=1)


def concept_scores(
    local_features: Tensor,
    class_embeddings: Tensor,
    temperature: float,
    mask: Tensor | None = None,
) -> Tensor:
    """Eq. 7 and 8 of the concept branch in one call: (n, R, d) and (L, d) to (n, L)."""
    return aggregate(similarity_maps(local_features, class_embeddings), temperature, mask)


def fuse(report: Tensor, concept: Tensor) -> Tensor:
    """The final score (paper 3.4): the mean of the two branches, as in TaI-DPT."""
    return (report + concept) / 2


def ranking_loss(scores: Tensor, present: Tensor, absent: Tensor, margin: float) -> Tensor:
    """Eq. 9: the hinge over all (present, absent) pairs, summed a report, averaged over the batch.

    Scores p or p', and c+ and c- (boolean), are (n, L); a concept in neither (uncertain) takes no
    part. The margin m is in the unit of the scores.
    """
    # (n, L present, L absent)
    hinge = torch.relu(margin - scores.unsqueeze(2) + scores.unsqueeze(1))
    pairs = present.unsqueeze(2) & absent.unsqueeze(1)
    return (hinge * pairs).sum(dim=(1, 2)).mean()


def report_ranking_loss(scores: Tensor, present: Tensor, absent: Tensor, margin: float) -> Tensor:
    """Eq. 9's hinge turned round: reports with a concept above reports without it.

    Eq. 9 compares the classes of one report, so whatever its scores have in common stays free; AUC
    compares reports within a class, and there it decides. Pairs are averaged within a class, then
    over the classes that the batch has pairs of.
    """
    hinge = torch.relu(margin - scores.unsqueeze(1) + scores.unsqueeze(0))  # (n with, n without, L)
    pairs = present.unsqueeze(1) & absent.unsqueeze(0)
    counts = pairs.sum(dim=(0, 1))
    means = (hinge * pairs).sum(dim=(0, 1)) / counts.clamp(min=1)
    return means.sum() / (counts > 0).sum().clamp(min=1)


def no_ranking(scores: Tensor, present: Tensor, absent: Tensor, margin: float) -> Tensor:
    """Zero: what learns is the regularizer alone."""
    return 0 * scores.sum()
