"""Classification metrics with intervals (definitions and sources: paper 4.1.4; MedKLIP; CheXzero).

Every interval is a percentile bootstrap over patients. A resample is a vector of weights, one an
image, so that a metric is computed for all resamples at once.
"""

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.stats import norm

FEW = 10  # resamples in a tail below which counting them is too coarse


def patient_weights(
    patients: pd.Series, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """How often each image is drawn when patients are drawn with replacement.

    Returns:
        (1 + resamples, n) float32 in Fortran order: an image's weights lie side by side, as
        `weighted_auc` reads them. The first row is the sample itself, all ones.
    """
    codes, unique = pd.factorize(patients)
    counts = generator.multinomial(
        len(unique), np.full(len(unique), 1 / len(unique)), size=resamples
    )
    weights = np.ones((1 + resamples, len(codes)), np.float32, order="F")
    weights[1:] = counts[:, codes]
    return weights


def weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The area under the ROC curve of one class in every resample; ties count one half.

    Args:
        labels: (n,), 1 or 0, NaN where unknown (left out).
        scores: (n,).
        weights: (R, n), fastest in Fortran order; sums of whole numbers are exact.

    Returns:
        (R,), NaN where a resample lacks one of the two labels.
    """
    positives, negatives = (np.flatnonzero(labels == value) for value in (1, 0))
    steps, own = np.unique(scores[positives], return_inverse=True)  # K distinct scores
    # A negative is below all steps from `last` on and level with one in between, if there is any:
    # one half from `first` on, the other half from `last` on.
    first, last = (np.searchsorted(steps, scores[negatives], side=s) for s in ("left", "right"))
    size = len(steps) + 1  # the last place is for negatives above all steps
    positive = _summed(own, positives, 1, size, weights)
    halves = np.r_[first, last], np.r_[negatives, negatives]
    below = np.cumsum(_summed(*halves, 0.5, size, weights), axis=0, dtype=np.float64)
    wins = np.einsum("kr,kr->r", positive, below)
    pairs = positive.sum(axis=0, dtype=np.float64) * below[-1]
    return np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def _summed(
    places: np.ndarray, images: np.ndarray, share: float, size: int, weights: np.ndarray
) -> np.ndarray:
    """A share of each image's weights, summed by place: (size, R); one pass over the weights."""
    shares = np.full(len(places), share, weights.dtype)
    shape = (size, weights.shape[1])
    return csr_array((shares, (places, images)), shape=shape) @ weights.T


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
    labels: np.ndarray, scores: np.ndarray, threshold: float | np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The share of images on the right side of a threshold in every resample.

    Args:
        labels: (n,) or, for L classes in one product, (n, L); NaN where unknown (left out).
        scores: of the same shape.
        threshold: one a class, (L,).
        weights: (R, n).

    Returns:
        (R,) or (R, L).
    """
    known = ~np.isnan(labels)
    right = ((scores >= threshold) == (labels == 1)) & known
    return (weights @ right.astype(weights.dtype)) / (weights @ known.astype(weights.dtype))


def best_f1_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """The threshold with the best F1, MedKLIP's rule; on a test set it is an oracle.

    Every score is tried as a threshold; of equally good ones the lowest is taken. F1 comes from
    precision and recall, as in MedKLIP's test script, so that rounding decides ties as it does
    there.

    Raises:
        ValueError: no positive label.
    """
    known = ~np.isnan(labels)
    positive, scores = labels[known] == 1, scores[known]
    if not positive.any():
        raise ValueError("a threshold needs at least one positive label")
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    firsts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # of each distinct score
    reached = np.r_[0, np.cumsum(positive[order])]
    hits = reached[-1] - reached[firsts]  # positives at the threshold or above it
    precision, recall = hits / (len(ranked) - firsts), hits / reached[-1]
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return float(ranked[firsts[np.argmax(f1)]])


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
