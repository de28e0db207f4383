"""Image-text retrieval on CheXpert-5x200, in both directions (paper 4.2.3: Table 5).

Learned prompts leave embeddings as they are, so RC-TPL must retrieve by its scores for the five
class names, the mean of both branches (paper 3.4), compared by cosine. Scores of a class sit around
a mean of their own, those of films elsewhere than those of text (the modality gap: Liang et al.,
NeurIPS 2022): a plain cosine mostly compares offsets. The rule is therefore to **standardize** each
class's scores over the pool, films and sentences apart, as GLoRIA z-scores its similarities (Huang
et al., ICCV 2021). It and the five names, not all 20 training names, were chosen on validation
films, image to text, by the mean over the class-score methods (`rule_comparison`); they are too few
(137) to tell standardizing from mere centering. Rows "plain cosine" lack the step, a row
"standardized" gives it to raw embeddings for fairness. The means come from the whole pool: no label
is read, but films are not scored one by one.

The paper samples 200 sentences of MIMIC-CXR for each class and does not say how. Here a sentence
belongs to a class when extraction finds that concept present in it; no other concept, except
parents of it (`vocabulary.PARENTS`: an opacity that is edema); and none of the five absent or
uncertain ("edema without effusion" is about two of them, "cardiomegaly, no pneumothorax" stays).
Sentences that differ in case, punctuation or space only count as one. A class takes its distinct
ones in a fixed order: reports that prompts did not learn from first, real reports before templated
ones, then by report and place in it; no chance is involved. Too few are taken again, in the same
order, until all classes weigh the same: chance is 1/5, as in the paper.
"""

from collections.abc import Callable, Mapping, Sequence
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
from rctpl_utils.evaluation.metrics import BOOTSTRAP_SEED, patient_weights, tidy_row
from rctpl_utils.evaluation.results import Draws
from rctpl_utils.evaluation.table1 import by_encoder, by_method, film_features, score_runs
from rctpl_utils.prompts.zero_shot import BranchScores, Embedder, Method
from rctpl_utils.scoring import ClassEmbeddings, report_scores
from rctpl_utils.text.reports import MIMIC, Report, quotable_sources, run_reports
from rctpl_utils.vocabulary import with_parents
from rctpl_utils.workspace import Workspace

DATASET = "chexpert5x200"
RANKS = (1, 2, 5, 10)  # K of Precision@K
RAW, RAW_STANDARDIZED, CHANCE = "raw embeddings", "raw embeddings, standardized", "chance"
OURS = ("RC-TPL", "RC-TPL+")
PLAIN_SUFFIX = ", plain cosine"
DIRECTIONS = {"precision_at_": "image to text", "text_to_image_precision_at_": "text to image"}
QUERY_BLOCK = 256  # similarities of so many queries are held at once
_TIE = 1e-6  # cosines are compared to so much: equal sentences tie whatever the sum's order


def per_class(workspace: Workspace) -> int:
    """How many images and how many sentences a class has: 200, fewer in small worlds."""
    world = workspace.profile.world
    return PER_CLASS if world is None else world.chexpert_5x200


def candidate_sentences(workspace: Workspace) -> pd.DataFrame:
    """All qualifying sentences of the run's reports, as `single_concept_sentences` gives them."""
    triplets = pd.read_parquet(workspace.triplets)
    sources = quotable_sources(workspace.data_root / MIMIC)
    return single_concept_sentences(triplets, run_reports(workspace), sources)


def single_concept_sentences(
    triplets: pd.DataFrame, reports: Sequence[Report], sources: pd.Series
) -> pd.DataFrame:
    """The sentences about exactly one of the five findings (see the module), best candidates first.

    `sources`: report_id -> where it may be quoted from; empty for real MIMIC-CXR, which must not be
    quoted. `held_out`: the report is in the validation or test split; `templated`: we wrote it.
    """
    keys = ["report_id", "sentence"]
    present = triplets["positive"] == "present"
    five = triplets["concept"].isin(COMPETITION)
    rows = triplets[present].groupby(keys)["concept"].agg(frozenset).to_frame("found")
    rows["concept"] = [_only(concepts) for concepts in rows["found"]]
    rows["start"] = triplets.groupby(keys)["start"].min()
    doubtful = rows.index.isin(triplets[five & ~present].set_index(keys).index)
    rows = rows[rows["concept"].notna() & ~doubtful].reset_index()
    by_id = {report.report_id: report for report in reports}
    rows = rows[rows["report_id"].isin(by_id)].copy()
    report = rows["report_id"].map(by_id)
    rows["patient_id"] = [each.patient_id for each in report]
    rows["held_out"] = [each.split != "train" for each in report]
    rows["templated"] = ~rows["report_id"].isin(sources.index) & bool(len(sources))
    rows["source"] = [sources.get(each, "") for each in rows["report_id"]]
    rows["sentence_id"] = rows["report_id"] + "-" + rows["start"].astype(str)
    order = ["held_out", "templated", "report_id", "start"]
    rows = rows.sort_values(order, ascending=[False, True, True, True]).reset_index(drop=True)
    columns = "sentence_id report_id patient_id sentence concept held_out templated source"
    return rows[columns.split()]


def _only(present: frozenset[str]) -> str | None:
    """The one of the five that is present, unless something else than its parents is too."""
    named = present.intersection(COMPETITION)
    return next(iter(named)) if len(named) == 1 and present <= with_parents(list(named)) else None


def _key(rows: pd.DataFrame) -> pd.Series:
    """What makes two sentences of a class the same: its letters and digits, in lower case."""
    words = rows["sentence"].str.lower().str.replace(r"[\W_]+", " ", regex=True).str.strip()
    return rows["concept"] + "|" + words


def select_sentences(candidates: pd.DataFrame, size: int) -> pd.DataFrame:
    """The pool: `size` of the `candidates` a class, distinct ones first (`turn` 1), then the same
    again (2, ...). InputError: a class has no sentence at all.
    """
    distinct = candidates[~_key(candidates).duplicated()]
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


def equal_share(pool: pd.DataFrame) -> np.ndarray:
    """Which distinct sentences of a pool to keep, bool (m,), so that the five classes have equally
    many: the first of each, as many as the rarest has.
    """
    first = pool["turn"] == 1
    turn = pool[first].groupby("concept").cumcount()
    smallest = pool[first]["concept"].value_counts().reindex(list(COMPETITION)).fillna(0).min()
    return turn.reindex(pool.index, fill_value=len(pool)).lt(smallest).to_numpy()


def sentence_counts(candidates: pd.DataFrame, pool: pd.DataFrame) -> pd.DataFrame:
    """Where the pool's sentences come from, one row a class and their sum; and how often one
    sentence stands in the pool at most.
    """
    learned = set(_key(candidates[~candidates["held_out"]]))
    first = pool[pool["turn"] == 1]
    held = first[first["held_out"]]
    counted = {
        "sentences": pool,
        "distinct": first,
        "held-out reports": held,
        "... also in training": held[_key(held).isin(learned)],
        "training reports": first[~first["held_out"]],
        "templated": first[first["templated"]],
        "repeats": pool[pool["turn"] > 1],
    }
    table = pd.DataFrame({name: rows["concept"].value_counts() for name, rows in counted.items()})
    table = table.reindex(list(COMPETITION)).fillna(0).astype(int)
    table.loc["all"] = table.sum()
    turns = pool.groupby("concept")["turn"].max()
    return table.assign(**{"most often": turns.reindex(table.index, fill_value=turns.max())})


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
    return _in_order(Side(records, encoded, by_method(methods, scored)))


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
    return _in_order(Side(records, list(encoded.values()), by_method(methods, scored)))


def _in_order(side: Side) -> Side:
    return side.take(np.argsort(side.records["item_id"].to_numpy(str), kind="stable"))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows (n, v) at length one; a zero row stays."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def centered(vectors: np.ndarray) -> np.ndarray:
    """Columns (n, v) with mean zero over the pool."""
    return vectors - vectors.mean(axis=0)


def standardized(vectors: np.ndarray) -> np.ndarray:
    """Columns (n, v) with mean zero and deviation one over the pool; a constant one is all zero."""
    spread = vectors.std(axis=0)
    shifted = centered(vectors)
    return np.divide(shifted, spread, out=np.zeros_like(shifted), where=spread > 0)


def _pairs(
    images: list[np.ndarray],
    sentences: list[np.ndarray],
    rule: Callable[[np.ndarray], np.ndarray] = standardized,
) -> list[Pair]:
    both = zip(images, sentences, strict=True)
    return [Pair(*(unit(rule(vectors)) for vectors in pair)) for pair in both]


def represent(images: Side, sentences: Side) -> dict[str, list[Pair]]:
    """The rows of Table 5: for each the vectors that it compares, one pair a seed."""
    raw = images.embeddings, sentences.embeddings
    rows = {RAW: [Pair(*each) for each in zip(*raw, strict=True)], RAW_STANDARDIZED: _pairs(*raw)}
    for name in images.scores:
        both = images.scores[name], sentences.scores[name]
        if name in OURS:
            rows[name + PLAIN_SUFFIX] = _pairs(*both, np.asarray)
        rows[name] = _pairs(*both)
    return rows


def top(queries: np.ndarray, candidates: np.ndarray, count: int = max(RANKS)) -> np.ndarray:
    """The best `count` candidates (m, v) of each query (n, v) by cosine, best first: (n, count);
    ties to the lower index. InputError: fewer candidates than that.
    """
    if len(candidates) < count:
        problem = f"{len(candidates)} candidates, but the first {count} are asked for"
        raise InputError(problem, "Use a larger pool.")
    columns, found = len(candidates), []
    for start in range(0, len(queries), QUERY_BLOCK):
        similarities = queries[start : start + QUERY_BLOCK].astype(np.float64) @ candidates.T
        # rank and column make one whole number, whose smallest are found without sorting all
        keys = np.rint(-similarities / _TIE).astype(np.int64) * columns + np.arange(columns)
        best = np.sort(np.partition(keys, count - 1, axis=1)[:, :count], axis=1)
        found.append(best % columns)
    return np.concatenate(found)


def precisions(
    found: np.ndarray, query_classes: np.ndarray, candidate_classes: np.ndarray
) -> np.ndarray:
    """Precision@K of each query for each K of `RANKS`, (n, ranks); `found` is from `top`.

    The share of a query's own class among its first K candidates.
    """
    right = candidate_classes[found] == query_classes[:, None]
    return np.stack([right[:, :rank].mean(axis=1) for rank in RANKS], axis=1)


def chance(query_classes: np.ndarray, candidate_classes: np.ndarray) -> float:
    """The expected precision of a random ranking: the mean share of a query's own class."""
    queries, candidates = (
        np.bincount(classes, minlength=len(COMPETITION))
        for classes in (query_classes, candidate_classes)
    )
    return float(queries @ candidates / (len(query_classes) * len(candidate_classes)))


@dataclass(frozen=True)
class Retrieval:
    """The outcome: tidy rows, values by seed, and the draws behind the intervals."""

    rows: pd.DataFrame
    per_seed: pd.DataFrame
    draws: Draws


def retrieve(
    images: Side,
    sentences: Side,
    resamples: int,
    others: Mapping[str, Sequence[Pair]] | None = None,
) -> Retrieval:
    """Precision@K of all rows in both directions, with 95 % intervals.

    A resample draws the queries' patients (a sentence's is its report's), repeats of a sentence
    together; what is searched stays whole. `others`: rows with vectors of their own.
    """
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    pairs = represent(images, sentences) | dict(others or {})
    rows, per_seed, draws = [], [], {}
    for metric, (queries, searched) in zip(
        DIRECTIONS, ((images, sentences), (sentences, images)), strict=True
    ):
        classes = queries.classes, searched.classes
        weights = patient_weights(queries.records["patient_id"], resamples, generator)
        values = {CHANCE: np.full((1, len(weights), len(RANKS)), chance(*classes))}
        for name, runs in pairs.items():  # (seeds, 1 + R, ranks)
            ordered = runs if queries is images else [run[::-1] for run in runs]
            values[name] = np.stack([
                _resampled(precisions(top(*run), *classes), weights) for run in ordered
            ])  # fmt: skip
        for name, per_run in values.items():
            for k, rank in enumerate(RANKS):
                about = {"dataset": DATASET, "method": name, "metric": f"{metric}{rank}"}
                key, series = tuple(about.values()), per_run[:, :, k]
                rows.append(tidy_row(key, series, n=len(queries.records)))
                per_seed += [
                    {**about, "seed": seed, "value": value}
                    for seed, value in enumerate(series[:, 0])
                ]
                draws[key] = series
    return Retrieval(pd.DataFrame(rows), pd.DataFrame(per_seed), draws)


def _resampled(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means over the queries, (n, ranks) to (1 + R, ranks); hits are summed as whole
    numbers, so that no order of summation shows in the last digit.
    """
    hits = np.rint(values * RANKS)
    return weights.astype(np.float64) @ hits / weights.sum(axis=1, keepdims=True) / RANKS


def rule_comparison(images: Side, sentences: Side) -> pd.DataFrame:
    """Image to text by rule, one row a method, last the mean over the class-score methods:
    Precision@K, mean over K and over the classes alike, as validation films are few and of unequal
    classes.
    """
    scored = {RAW: (images.embeddings, sentences.embeddings)}
    scored |= {name: (runs, sentences.scores[name]) for name, runs in images.scores.items()}

    def balanced(pair: Pair) -> float:
        values = precisions(top(*pair), images.classes, sentences.classes).mean(axis=1)
        return float(pd.Series(values).groupby(images.classes).mean().mean())

    rules = {"plain": np.asarray, "centered": centered, "standardized": standardized}
    table = pd.DataFrame({
        label: {
            name: np.mean([balanced(pair) for pair in _pairs(*both, rule)])
            for name, both in scored.items()
        }
        for label, rule in rules.items()
    })  # fmt: skip
    table.loc["mean of class scores"] = table.loc[list(images.scores)].mean()
    return table
