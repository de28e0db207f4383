"""The supervised reference in every table: scores, heat maps, retrieval (not zero-shot)."""

import numpy as np
from torch import Tensor

from rctpl_utils.datasets.chexpert import COMPETITION
from rctpl_utils.grounders import Films, Grounder
from rctpl_utils.retrieval import Pair, standardized, unit
from rctpl_utils.retrieval_sides import DATASET, Side
from rctpl_utils.supervised import SupervisedBound
from rctpl_utils.table1 import SUPERVISED, Scorer, open_split
from rctpl_utils.workspace import Workspace


def reference_scorers(reference: SupervisedBound | None) -> dict[str, list[Scorer]]:
    """For Table 1; empty without a reference."""
    return {} if reference is None else {SUPERVISED: [reference.scores]}


def reference_grounders(reference: SupervisedBound | None) -> list[Grounder]:
    """For Tables 2 to 4: class activation maps of the labels' network."""
    if reference is None:
        return []

    def maker(films: Films) -> Tensor:
        return reference.activation_map(films.images, films.concept)

    return [Grounder(SUPERVISED, (maker,))]


def reference_pairs(
    workspace: Workspace, reference: SupervisedBound | None, images: Side, sentences: Side
) -> dict[str, list[Pair]]:
    """For Table 5: a film's logits for the five classes against each sentence's own class.

    The sentences' classes are given, not guessed: what is bounded is how well films are told apart.
    """
    if reference is None:
        return {}
    dataset = open_split(workspace, DATASET, "test")
    scores = dict(
        zip(dataset.records["image_id"], reference.scores(dataset, COMPETITION), strict=True)
    )
    logits = np.stack([scores[name] for name in images.records["item_id"]])
    classes = np.eye(len(COMPETITION))[sentences.classes]
    return {SUPERVISED: [Pair(unit(standardized(logits)), unit(standardized(classes)))]}
