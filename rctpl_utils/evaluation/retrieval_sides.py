"""The two sides of image-text retrieval, films and sentences, embedded and scored (paper 4.2.3).

The paper samples 200 sentences of MIMIC-CXR for each class of CheXpert-5x200 and does not say how.
Here a sentence belongs to a class when extraction finds that concept present in it, and

- no other concept present, except parents of it (`vocabulary.PARENTS`): an opacity that is edema;
- none of the five absent or uncertain: "edema without effusion" is about two of them;
- other concepts may be absent or uncertain in it: "cardiomegaly, no pneumothorax" stays.

Sentences that differ in case, punctuation or space only count as one. A class takes its distinct
ones in a fixed order: reports that prompts did not learn from first, real reports before templated
ones, then by report and place in it; no chance is involved. Too few are taken again, in the same
order, until all classes weigh the same: chance is 1/5, as in the paper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from rctpl_utils.datasets.chexpert import COMPETITION, PER_CLASS
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import text_features
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.table1 import by_encoder, film_features, score_runs
from rctpl_utils.prompts.zero_shot import BranchScores, Embedder, Method
from rctpl_utils.scoring import ClassEmbeddings, report_scores
from rctpl_utils.text.reports import MIMIC, Report, quotable_sources, run_reports
from rctpl_utils.vocabulary import with_parents
from rctpl_utils.workspace import Workspace

DATASET = "chexpert5x200"


@dataclass(frozen=True)
class Side:
    """The films or the sentences of the pool, in the order of their identifiers: `records`
    (item_id, patient_id, concept, ...; index 0..n-1), the frozen encoders' (n, d) unit vectors, and
    for each method its class scores, the mean of both branches, one (n, L) a seed.
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
    """Embed and score sentences (`select_sentences`): Eq. 7 with one region."""
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


COLUMNS = (
    "sentence_id", "report_id", "patient_id", "sentence", "concept", "held_out", "templated",
    "source",
)  # fmt: skip


def per_class(workspace: Workspace) -> int:
    """How many images and how many sentences a class has: 200, fewer in small worlds."""
    world = workspace.profile.world
    return PER_CLASS if world is None else world.chexpert_5x200


def candidate_sentences(workspace: Workspace) -> pd.DataFrame:
    """All qualifying sentences of the run's reports, as `single_concept_sentences` gives them."""
    triplets, sources = (
        pd.read_parquet(workspace.triplets),
        quotable_sources(workspace.data_root / MIMIC),
    )
    return single_concept_sentences(triplets, run_reports(workspace), sources)


def single_concept_sentences(
    triplets: pd.DataFrame, reports: Sequence[Report], sources: pd.Series
) -> pd.DataFrame:
    """The sentences about exactly one of the five findings (see the module), best candidates first.

    Triplets: report_id, sentence, concept, positive, start; of other reports they are left out.
    `sources`: report_id -> where it may be quoted from; empty for real MIMIC-CXR, which must not be
    quoted. Gives sentence_id, report_id, patient_id, sentence, concept, held_out (the report is in
    the validation or test split), templated (we wrote it), source ("" where not quotable).
    """
    of_a_class = _classes(triplets)
    by_id = {report.report_id: report for report in reports}
    rows = of_a_class[of_a_class["report_id"].isin(by_id)].copy()
    report = rows["report_id"].map(by_id)
    rows["patient_id"] = [each.patient_id for each in report]
    rows["held_out"] = [each.split != "train" for each in report]
    rows["templated"] = ~rows["report_id"].isin(sources.index) & bool(len(sources))
    rows["source"] = [sources.get(each, "") for each in rows["report_id"]]
    rows["sentence_id"] = rows["report_id"] + "-" + rows["start"].astype(str)
    order = ["held_out", "templated", "report_id", "start"]
    rows = rows.sort_values(order, ascending=[False, True, True, True]).reset_index(drop=True)
    return rows[list(COLUMNS)]


def select_sentences(candidates: pd.DataFrame, size: int) -> pd.DataFrame:
    """The pool: `size` of the `candidates` a class, distinct ones first, then the same again:
    `turn` is 1 for a sentence's first time, 2 for its second. InputError: a class has no sentence
    at all.
    """
    distinct = distinct_sentences(candidates)
    chosen = []
    for concept in COMPETITION:
        rows = distinct[distinct["concept"] == concept]
        if rows.empty:
            cure = "Use more reports: each of the five findings needs a sentence of its own."
            raise InputError(f"no sentence is about {concept} alone", cure)
        turns = -(-size // len(rows))  # rounded up
        repeated = pd.concat([rows.assign(turn=turn + 1) for turn in range(turns)])
        chosen.append(repeated.head(size))
    pool = pd.concat(chosen, ignore_index=True)
    again = "#" + pool["turn"].astype(str)
    pool["sentence_id"] += again.where(pool["turn"] > 1, "")
    return pool


def distinct_sentences(candidates: pd.DataFrame) -> pd.DataFrame:
    """Each sentence once a class, its best candidate; case, punctuation, space do not count."""
    return candidates[~_key(candidates).duplicated()]


def equal_share(pool: pd.DataFrame) -> np.ndarray:
    """Which distinct sentences of a pool to keep, bool (m,), so that the five classes have equally
    many: the first of each, best first or in the order of identifiers, as many as the rarest has.
    """
    first = pool["turn"] == 1
    turn = pool[first].groupby("concept").cumcount()
    smallest = pool[first]["concept"].value_counts().reindex(list(COMPETITION)).fillna(0).min()
    return turn.reindex(pool.index, fill_value=len(pool)).lt(smallest).to_numpy()


def sentence_counts(candidates: pd.DataFrame, pool: pd.DataFrame) -> pd.DataFrame:
    """Where the pool's sentences come from, one row a class and their sum: all; distinct; of these
    from held-out reports, and those whose words a training report has too; from training reports;
    templated; then repeats, and how often one sentence stands in the pool at most.
    """
    learned = set(_key(candidates[~candidates["held_out"]]))
    first = pool[pool["turn"] == 1]
    held = first[first["held_out"]]
    shared = held[_key(held).isin(learned)]
    counted = {
        "sentences": pool,
        "distinct": first,
        "held-out reports": held,
        "... also in training": shared,
        "training reports": first[~first["held_out"]],
        "templated": first[first["templated"]],
        "repeats": pool[pool["turn"] > 1],
    }
    table = pd.DataFrame({name: rows["concept"].value_counts() for name, rows in counted.items()})
    table = table.reindex(list(COMPETITION)).fillna(0).astype(int)
    table.loc["all"] = table.sum()
    turns = pool.groupby("concept")["turn"].max()
    return table.assign(**{"most often": turns.reindex(table.index, fill_value=turns.max())})


def _classes(triplets: pd.DataFrame) -> pd.DataFrame:
    """report_id, sentence, start, concept of the sentences that belong to a class."""
    keys = ["report_id", "sentence"]
    present = triplets["positive"] == "present"
    five = triplets["concept"].isin(COMPETITION)
    found = triplets[present].groupby(keys)["concept"].agg(frozenset).rename("found")
    starts = triplets.groupby(keys)["start"].min()
    doubtful = triplets[five & ~present].set_index(keys).index
    rows = found.to_frame().join(starts)
    rows["concept"] = [_only(concepts) for concepts in rows["found"]]
    rows = rows[rows["concept"].notna() & ~rows.index.isin(doubtful)]
    return rows.drop(columns="found").reset_index()


def _only(present: frozenset[str]) -> str | None:
    """The one of the five that is present, unless something else than its parents is too."""
    named = present.intersection(COMPETITION)
    if len(named) != 1:
        return None
    (concept,) = named
    return concept if present <= with_parents([concept]) else None


def _key(rows: pd.DataFrame) -> pd.Series:
    """What makes two sentences of a class the same: its letters and digits, in lower case."""
    words = rows["sentence"].str.lower().str.replace(r"[\W_]+", " ", regex=True).str.strip()
    return rows["concept"] + "|" + words
