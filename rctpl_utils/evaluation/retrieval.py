"""Image-text retrieval on CheXpert-5x200, in both directions (paper 4.2.3: Table 5).

Learned prompts leave embeddings as they are, so RC-TPL must retrieve by its scores for the five
class names, the mean of both branches (paper 3.4), compared by cosine.

Scores of a class sit around a mean of their own, those of films elsewhere than those of text (the
modality gap: Liang et al., NeurIPS 2022): a plain cosine mostly compares offsets. The rule is
therefore to **standardize** each class's scores over the pool, films and sentences apart, as GLoRIA
z-scores its similarities (Huang et al., ICCV 2021). It and the five names, not all 20 training
names, were chosen on validation films, image to text, by the mean over the class-score methods
(`rule_comparison`); they are too few (137) to tell standardizing from mere centering. Rows "plain
cosine" lack the step, a row "standardized" gives it to raw embeddings for fairness. The means come
from the whole pool: no label is read, but films are not scored one by one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rctpl_utils.datasets.chexpert import COMPETITION
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.bootstrap_samples import Draws
from rctpl_utils.evaluation.metrics import BOOTSTRAP_SEED, named_interval, patient_weights
from rctpl_utils.evaluation.retrieval_sides import DATASET, Pair, Side

RANKS = (1, 2, 5, 10)  # K of Precision@K
RAW, RAW_STANDARDIZED, CHANCE = "raw embeddings", "raw embeddings, standardized", "chance"
OURS = ("RC-TPL", "RC-TPL+")
PLAIN_SUFFIX = ", plain cosine"
Rule = Callable[[np.ndarray], np.ndarray]  # from the vectors of a pool to others
DIRECTIONS = {"precision_at_": "image to text", "text_to_image_precision_at_": "text to image"}
QUERY_BLOCK = 256  # similarities of so many queries are held at once
_TIE = 1e-6  # cosines are compared to so much: equal sentences tie whatever the sum's order


@dataclass(frozen=True)
class Retrieval:
    """The outcome: tidy rows, values by method, metric and seed, and each method's metrics in the
    sample and in every resample.
    """

    rows: pd.DataFrame
    per_seed: pd.DataFrame
    draws: Draws


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


def represent(images: Side, sentences: Side) -> dict[str, list[Pair]]:
    """The rows of Table 5: for each the vectors that it compares, one pair a seed."""
    embedded = list(zip(images.embeddings, sentences.embeddings, strict=True))
    rows = {
        RAW: [Pair(*each) for each in embedded],
        RAW_STANDARDIZED: [_pair(*each, standardized) for each in embedded],
    }
    for name in images.scores:
        both = list(zip(images.scores[name], sentences.scores[name], strict=True))
        if name in OURS:
            rows[name + PLAIN_SUFFIX] = [Pair(unit(a), unit(b)) for a, b in both]
        rows[name] = [_pair(a, b, standardized) for a, b in both]
    return rows


def _pair(images: np.ndarray, sentences: np.ndarray, rule: Rule) -> Pair:
    return Pair(unit(rule(images)), unit(rule(sentences)))


def top(queries: np.ndarray, candidates: np.ndarray, count: int = max(RANKS)) -> np.ndarray:
    """The best `count` candidates (m, v) of each query (n, v) by cosine, best first: (n, count).
    Ties go to the lower index, the order of identifiers. Memory grows with `QUERY_BLOCK` times m.
    InputError: fewer candidates than that.
    """
    if len(candidates) < count:
        problem = f"{len(candidates)} candidates, but the first {count} are asked for"
        raise InputError(problem, "Use a larger pool.")
    return np.concatenate([_best(block @ candidates.T, count) for block in _blocks(queries)])


def _best(similarities: np.ndarray, count: int) -> np.ndarray:
    """The columns of the largest entries of each row, lower columns first among ties: rank and
    column make one whole number, whose smallest are found without sorting all.
    """
    columns = similarities.shape[1]
    ranked = np.rint(-similarities / _TIE).astype(np.int64)
    keys = ranked * columns + np.arange(columns)
    return np.sort(np.partition(keys, count - 1, axis=1)[:, :count], axis=1) % columns


def _blocks(queries: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(queries), QUERY_BLOCK):
        yield queries[start : start + QUERY_BLOCK].astype(np.float64)


def precisions(
    found: np.ndarray, query_classes: np.ndarray, candidate_classes: np.ndarray
) -> np.ndarray:
    """Precision@K of each query for each K of `RANKS`, (n, ranks): the share of its class among its
    first K; `found` (n, at least 10) from `top`.
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


def retrieve(
    images: Side,
    sentences: Side,
    resamples: int,
    others: Mapping[str, Sequence[Pair]] | None = None,
) -> Retrieval:
    """Precision@K of all rows in both directions, with 95 % intervals.

    A resample draws the queries' patients (a sentence's is its report's), repeats of a sentence
    together; what is searched stays whole. `others`: rows with vectors of their own, one pair a
    seed.
    """
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    pairs = represent(images, sentences) | dict(others or {})
    rows, per_seed, draws = [], [], {}
    for metric, (queries, searched) in zip(
        DIRECTIONS, ((images, sentences), (sentences, images)), strict=True
    ):
        weights = patient_weights(queries.records["patient_id"], resamples, generator)
        level = chance(queries.classes, searched.classes)
        values = {CHANCE: np.full((1, len(weights), len(RANKS)), level)}  # (seeds, 1 + R, ranks)
        for name, runs in pairs.items():
            ordered = runs if queries is images else [run[::-1] for run in runs]
            values[name] = np.stack([
                _resampled(precisions(top(*run), queries.classes, searched.classes), weights)
                for run in ordered
            ])  # fmt: skip
        for name, per_run in values.items():
            for k, rank in enumerate(RANKS):
                series = per_run[:, :, k]
                key = {"dataset": DATASET, "method": name, "metric": f"{metric}{rank}"}
                counts = {"seeds": len(per_run), "n": len(queries.records)}
                rows.append({**key, **named_interval(series), **counts})
                per_seed += [
                    {**key, "seed": seed, "value": value}
                    for seed, value in enumerate(per_run[:, 0, k])
                ]
                draws[tuple(key.values())] = series
    return Retrieval(pd.DataFrame(rows), pd.DataFrame(per_seed), draws)


def _resampled(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means over the queries, (n, ranks) and (1 + R, n) to (1 + R, ranks): hits are summed
    as whole numbers, so that no order of summation shows in the last digit.
    """
    hits = np.rint(values * RANKS)
    return weights.astype(np.float64) @ hits / weights.sum(axis=1, keepdims=True) / RANKS


def rule_comparison(images: Side, sentences: Side) -> pd.DataFrame:
    """Image to text by rule, one row a method, last the mean over the class-score methods:
    Precision@K, mean over K and over the classes alike, as validation films are few and of unequal
    classes.
    """
    rules = {"plain": lambda vectors: vectors, "centered": centered, "standardized": standardized}
    scored = {RAW: list(zip(images.embeddings, sentences.embeddings, strict=True))}
    for name, runs in images.scores.items():
        scored[name] = list(zip(runs, sentences.scores[name], strict=True))
    table = pd.DataFrame({
        label: {
            name: np.mean([_balanced(_pair(*run, rule), images, sentences) for run in runs])
            for name, runs in scored.items()
        }
        for label, rule in rules.items()
    })  # fmt: skip
    table.loc["mean of class scores"] = table.loc[list(images.scores)].mean()
    return table


def _balanced(pair: Pair, images: Side, sentences: Side) -> float:
    values = precisions(top(*pair), images.classes, sentences.classes).mean(axis=1)
    return float(pd.Series(values).groupby(images.classes).mean().mean())
