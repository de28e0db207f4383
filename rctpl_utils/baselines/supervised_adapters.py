"""The supervised reference in every table: scores, heat maps, retrieval (not zero-shot)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rctpl_utils.baselines.supervised import SupervisedBound
from rctpl_utils.datasets.chexpert import COMPETITION
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.evaluation.grounding_methods import Grounder, MapMaker
from rctpl_utils.evaluation.retrieval import Pair, standardized, unit
from rctpl_utils.evaluation.retrieval_sides import DATASET, Side
from rctpl_utils.evaluation.table1 import SUPERVISED, Scorer
from rctpl_utils.workspace import Workspace


def reference_scorers(references: Sequence[SupervisedBound]) -> dict[str, list[Scorer]]:
    """For Table 1: one function a seed; no row without references."""
    return {SUPERVISED: [each.scores for each in references]} if references else {}


def reference_grounders(references: Sequence[SupervisedBound]) -> list[Grounder]:
    """For Tables 2 to 4: class activation maps of the labels' networks."""
    return [Grounder(SUPERVISED, tuple(_maker(each) for each in references))] if references else []


def _maker(reference: SupervisedBound) -> MapMaker:
    return lambda films: reference.activation_map(films.images, films.concept)


def reference_pairs(
    workspace: Workspace, references: Sequence[SupervisedBound], images: Side, sentences: Side
) -> dict[str, list[Pair]]:
    """For Table 5: a film's logits for the five classes against each sentence's own class.

    The sentences' classes are given, not guessed: what is bounded is how well films are told apart.
    """
    if not references:
        return {}
    dataset = open_split(workspace, DATASET, "test")
    places = pd.Index(dataset.records["image_id"]).get_indexer(images.records["item_id"])
    classes = unit(standardized(np.eye(len(COMPETITION))[sentences.classes]))
    logits = (each.scores(dataset, COMPETITION)[places] for each in references)
    return {SUPERVISED: [Pair(unit(standardized(each)), classes) for each in logits]}
