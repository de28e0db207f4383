"""The two sides of image-text retrieval, films and sentences, embedded and scored (paper 4.2.3).

Each side holds the frozen encoders' embeddings and, for each method, the class scores that RC-TPL
retrieves by: the mean of both branches (paper 3.4), a sentence being its own only region.
`retrieval` compares the sides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from rctpl_utils.datasets.chexpert import COMPETITION
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import text_features
from rctpl_utils.evaluation.table1 import by_encoder, film_features, score_runs
from rctpl_utils.prompts.methods import Embedder, Method
from rctpl_utils.prompts.zero_shot import BranchScores
from rctpl_utils.scoring import ClassEmbeddings, report_scores
from rctpl_utils.workspace import Workspace

DATASET = "chexpert5x200"


@dataclass(frozen=True)
class Side:
    """The films or the sentences of the pool, in the order of their identifiers.

    Attributes:
        records: item_id, patient_id, concept, and what else is known; index 0..n-1.
        embeddings: the frozen encoders', (n, d) unit vectors each.
        scores: for each method its class scores, one (n, L) a seed.
    """

    records: pd.DataFrame
    embeddings: list[np.ndarray]
    scores: Mapping[str, list[np.ndarray]]

    @property
    def classes(self) -> np.ndarray:
        """Which of the five each item shows: (n,) indices."""
        return pd.Index(COMPETITION).get_indexer(self.records["concept"])

    def take(self, rows: np.ndarray) -> "Side":
        """Some of the items, by index or by a boolean array (n,)."""
        scores = {name: [run[rows] for run in runs] for name, runs in self.scores.items()}
        records = self.records[rows] if rows.dtype == bool else self.records.iloc[rows]
        embeddings = [each[rows] for each in self.embeddings]
        return Side(records.reset_index(drop=True), embeddings, scores)


class Pair(NamedTuple):
    """Vectors to be compared by cosine: films (n, v) and sentences (m, v), unit or zero."""

    images: np.ndarray
    sentences: np.ndarray


def embed_classes(
    methods: Sequence[Method], names: Sequence[str] = COMPETITION
) -> dict[Embedder, ClassEmbeddings]:
    """The class embeddings of all methods and seeds, each computed once: (L, d) a branch."""
    return {embedder: embedder(names) for method in methods for embedder in method.embedders}


def image_side(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    methods: Sequence[Method],
    embeddings: Mapping[Embedder, ClassEmbeddings],
    split: str = "test",
) -> Side:
    """Embed and score the films of CheXpert-5x200."""
    dataset = open_split(workspace, DATASET, split)
    records = dataset.records.rename(columns={"image_id": "item_id"})
    records["concept"] = records[list(COMPETITION)].idxmax(axis=1)
    features = film_features(workspace, dataset)
    scored = score_runs(encoders, features, methods, embeddings.__getitem__)
    encoded = [np.array(features(each).global_features) for each in dict.fromkeys(encoders)]
    return _side(records, encoded, scored, methods)


@torch.no_grad()
def sentence_side(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    methods: Sequence[Method],
    embeddings: Mapping[Embedder, ClassEmbeddings],
    sentences: pd.DataFrame,
) -> Side:
    """Embed and score sentences (`retrieval_sentences.select_sentences`): Eq. 7 with one region."""
    codes, texts = pd.factorize(sentences["sentence"])
    encoded = {
        encoder: np.array(text_features(encoder, list(texts), workspace.features))[codes]  # (m, d)
        for encoder in dict.fromkeys(encoders)
    }
    scored = {}
    for encoder, embedders in by_encoder(encoders, methods).items():
        features = torch.from_numpy(encoded[encoder]).to(encoder.device)
        for embedder in embedders:
            both = (report_scores(features, each).cpu().numpy() for each in embeddings[embedder])
            scored[embedder] = BranchScores(*both)
    records = sentences.rename(columns={"sentence_id": "item_id"})
    return _side(records, list(encoded.values()), scored, methods)


def _side(
    records: pd.DataFrame,
    encoded: list[np.ndarray],
    scored: Mapping[Embedder, BranchScores],
    methods: Sequence[Method],
) -> Side:
    scores = {m.name: [getattr(scored[e], m.branch) for e in m.embedders] for m in methods}
    order = np.argsort(records["item_id"].to_numpy(str), kind="stable")
    return Side(records, encoded, scores).take(order)
