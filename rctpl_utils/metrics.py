"""Classification metrics with intervals (definitions and sources: paper 4.1.4; MedKLIP; CheXzero).

Every interval is a percentile bootstrap over patients. A resample is a vector of weights, one an
image, so that a metric is computed for all resamples at once.
"""

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.metrics import precision_recall_curve

FEW = 10  # resamples in a tail below which counting them is too coarse


def patient_weights(
    patients: pd.Series, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """How often each image is drawn when patients are drawn with replacement.

    Returns:
        (1 + resamples, n) float32; the first row is the sample itself, all ones.
    """
    codes, unique = pd.factorize(patients)
    counts = generator.multinomial(
        len(unique), np.full(len(unique), 1 / len(unique)), size=resamples
    )
    drawn = counts[:, codes].astype(np.float32)
    return np.concatenate([np.ones((1, len(codes)), np.float32), drawn])


def weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The area under the ROC curve of one class in every resample; ties count one half.

    Args:
        labels: (n,), 1 or 0, NaN where unknown (left out).
        scores: (n,).
        weights: (R, n).

    Returns:
        (R,), NaN where a resample lacks one of the two labels.
    """
    places = {value: np.flatnonzero(labels == value) for value in (0, 1)}
    order = places[0][np.argsort(scores[places[0]], kind="stable")]  # negatives, ascending
    ranked, positive = scores[order], weights[:, places[1]]
    below = np.zeros((len(weights), len(order) + 1))
    np.cumsum(weights[:, order], axis=1, out=below[:, 1:])  # weight of the k lowest negatives
    first, last = (np.searchsorted(ranked, scores[places[1]], side=s) for s in ("left", "right"))
    wins = np.einsum("rp,rp->r", positive, (below[:, first] + below[:, last]) / 2)
    pairs = positive.sum(axis=1, dtype=np.float64) * below[:, -1]
    return np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def macro_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """The mean AUC of the classes that have both labels, (n, L) each; a look, without interval."""
    ones = np.ones((1, len(scores)), np.float32)
    values = [
        weighted_auc(own, scored, ones)[0]
        for own, scored in zip(labels.T, scores.T, strict=True)
        if scorable(own)
    ]
    return float(np.mean(values))


def weighted_accuracy(
    labels: np.ndarray, scores: np.ndarray, threshold: float, weights: np.ndarray
) -> np.ndarray:
    """The share of images on the right side of a threshold in every resample: (R,)."""
    known = ~np.isnan(labels)
    right = (scores[known] >= threshold) == (labels[known] == 1)
    part = weights if known.all() else weights[:, known]  # a copy costs more than the product
    return part @ right / part.sum(axis=1)


def best_f1_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """The threshold with the best F1, MedKLIP's rule; on a test set it is an oracle.

    Raises:
        ValueError: no positive label.
    """
    known = ~np.isnan(labels)
    if not (labels[known] == 1).any():
        raise ValueError("a threshold needs at least one positive label")
    precision, recall, thresholds = precision_recall_curve(labels[known] == 1, scores[known])
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return float(thresholds[np.argmax(f1[:-1])])


def scorable(labels: np.ndarray) -> bool:
    """Whether a class has both labels, so that it has an AUC."""
    return bool((labels == 1).any() and (labels == 0).any())


def interval(resampled: np.ndarray) -> tuple[float, float, float]:
    """(value, low, high): the first entry and the 2.5 and 97.5 percentiles of the others."""
    low, high = np.nanpercentile(resampled[1:], [2.5, 97.5])
    return float(resampled[0]), float(low), float(high)


def named_interval(resampled: np.ndarray) -> dict[str, float]:
    """`interval` as the columns of a tidy row: value, ci_low, ci_high."""
    return dict(zip(("value", "ci_low", "ci_high"), interval(resampled), strict=True))


def seed_picks(seeds: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Which seeds each resample averages: all of them in the sample itself; (R, seeds)."""
    picks = generator.integers(seeds, size=(resamples, seeds))
    picks[0] = np.arange(seeds)
    return picks


def over_seeds(values: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """The mean over the picked seeds in every resample: (seeds, R) and (R, seeds) to (R,)."""
    return values[picks, np.arange(values.shape[1])[:, None]].mean(axis=1)


def paired_p_value(differences: np.ndarray) -> float:
    """Two-sided bootstrap p-value of "the difference is zero".

    Args:
        differences: (1 + R,): A minus B in the sample and in every resample (the same resamples
            for both methods; Efron and Tibshirani 1993, chapter 16).
    """
    return min(tail_p_value(differences), tail_p_value(-differences))


def tail_p_value(differences: np.ndarray) -> float:
    """Doubled one-sided bootstrap p-value of "the difference is not above zero".

    Resamples at or below zero are counted where there are at least ten. A thousand resamples cannot
    tell 0.002 from less, too coarse for a correction over many comparisons: where fewer lie there,
    the tail of a normal distribution with the resamples' mean and standard deviation takes over
    (Efron and Tibshirani 1993, chapter 13), if it is smaller.

    Args:
        differences: (1 + R,): in the sample and in every resample; not finite ones are left out.
    """
    resampled = differences[1:][np.isfinite(differences[1:])]
    crossing = int((resampled <= 0).sum())
    counted = min(1.0, 2 * (crossing + 1) / (len(resampled) + 1))
    spread = resampled.std() if len(resampled) else 0.0
    if crossing >= FEW or spread < 1e-12:  # equal resamples differ by rounding only
        return counted
    return float(min(counted, 2 * norm.sf(resampled.mean() / spread)))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down correction (1979) of several p-values, in their order."""
    order = np.argsort(p_values)
    steps = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(steps, 1)
    return corrected
