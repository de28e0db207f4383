"""Classification metrics with intervals (definitions and sources: paper 4.1.4; MedKLIP; CheXzero).
A resample of patients is a vector of weights, one an image: all are computed at once.
"""

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.sparse import csr_array
from scipy.special import ndtri, stdtrit
from scipy.stats import norm

BOOTSTRAP_SEED = 2024
FEW = 10  # resamples in a tail below which counting them is too coarse


def patient_weights(
    patients: pd.Series, resamples: int, generator: np.random.Generator | None = None
) -> np.ndarray:
    """How often each image is drawn when patients are drawn with replacement, by default the same
    for all methods: (1 + resamples, n) float32 in Fortran order, first the sample itself, all ones.
    """
    generator = generator or np.random.default_rng(BOOTSTRAP_SEED)
    codes, unique = pd.factorize(patients)
    count = len(unique)
    counts = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
    weights = np.ones((1 + resamples, len(codes)), np.float32, order="F")
    weights[1:] = counts[:, codes]
    return weights


def resampled_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A mean over images in every resample: (..., n) and (R, n) to (..., R)."""
    return (values @ weights.T) / weights.sum(axis=1)


def weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The area under the ROC curve of one class in every resample, ties one half: (R,), NaN where
    one lacks a label. Labels (n,), 1, 0 or NaN (left out); scores (n,); weights (R, n), fastest in
    Fortran order (sums of whole numbers are exact).
    """
    positives, negatives = (np.flatnonzero(labels == value) for value in (1, 0))
    steps, own = np.unique(scores[positives], return_inverse=True)  # K distinct scores
    # A negative is below all steps from `last` on and level with one in between, if there is any:
    # one half from `first` on, the other half from `last` on.
    first, last = (np.searchsorted(steps, scores[negatives], side=s) for s in ("left", "right"))

    def summed(places: np.ndarray, images: np.ndarray, share: float) -> np.ndarray:
        """A share of images' weights, summed by place: (K + 1, R), last what is above all steps."""
        shares = np.full(len(places), share, weights.dtype)
        shape = (len(steps) + 1, weights.shape[1])
        return csr_array((shares, (places, images)), shape=shape) @ weights.T

    positive = summed(own, positives, 1)
    halves = summed(np.r_[first, last], np.r_[negatives, negatives], 0.5)
    below = np.cumsum(halves, axis=0, dtype=np.float64)
    wins = np.einsum("kr,kr->r", positive, below)
    pairs = positive.sum(axis=0, dtype=np.float64) * below[-1]
    return np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def macro_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """The mean AUC of the classes that have both labels, (n, L) each; a look, without interval."""
    ones = np.ones((1, len(scores)), np.float32)
    pairs = zip(labels.T, scores.T, strict=True)
    return float(np.mean([weighted_auc(*each, ones)[0] for each in pairs if scorable(each[0])]))


def macro_aucs(
    labels: np.ndarray, scores: np.ndarray, columns: list[int], weights: np.ndarray
) -> np.ndarray:
    """The mean AUC of some classes, columns of (n, L), in every resample: (R,)."""
    return np.mean([weighted_auc(labels[:, k], scores[:, k], weights) for k in columns], axis=0)


def weighted_accuracy(
    labels: np.ndarray, scores: np.ndarray, threshold: float | np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The share of known labels on the right side of a threshold in every resample: (R,), or (R,
    L).
    """
    known = ~np.isnan(labels)
    right = ((scores >= threshold) == (labels == 1)) & known
    return (weights @ right.astype(weights.dtype)) / (weights @ known.astype(weights.dtype))


def best_f1_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """The score, the lowest of equals, with the best F1; on a test set an oracle. As in MedKLIP's
    test script F1 comes from precision and recall: rounding decides ties as there. ValueError: no
    positive label.
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


def interval(
    series: np.ndarray, within: tuple[float, float] | None = (0, 1)
) -> tuple[float, float, float]:
    """(value, low, high) of a metric: 95 percent, over patients and, with several runs, seeds.

    With K > 1 runs the value is their mean in the sample. Its variance over resampled patients is
    V, taken as known; seeds add S^2 / K, S the runs' deviation, with K - 1 degrees of freedom. The
    half width is sqrt(z^2 V + t^2 S^2 / K), z the normal's quantile and t Student's (Howe, JASA 69,
    1974; Zou and Donner, Statistics in Medicine 27, 2008): exact where either dominates, wider than
    needed between. Satterthwaite's degrees of freedom (1946) would not do: with three seeds and
    patients that bring a tenth of the variance, 1.6 percent of true null hypotheses get p < 0.001;
    a percentile bootstrap over three seeds covers 74 percent where seeds dominate. One run: the
    percentile bootstrap over patients.

    `series`: (1 + R,) or (K, 1 + R), in the sample, then in every resample (the same patients for
    all runs); `within`: what the metric can be, None for differences.
    """
    series = np.atleast_2d(series)
    if len(series) == 1:
        low, high = np.nanpercentile(series[0, 1:], [2.5, 97.5])
        return float(series[0, 0]), float(low), float(high)
    value, patients, seeds = variances(series)
    reach = _reach(0.05, patients, seeds, len(series))
    low, high = value - reach, value + reach
    if within is not None:
        low, high = np.clip([low, high], *within)
    return value, float(low), float(high)


def variances(series: np.ndarray) -> tuple[float, float, float]:
    """Of (K, 1 + R), K > 1: the mean in the sample, its variance over patients and over seeds.

    Resamples that are not finite are left out.
    """
    runs, resampled = series[:, 0], series[:, 1:].mean(axis=0)
    resampled = resampled[np.isfinite(resampled)]
    patients = resampled.var(ddof=1) if len(resampled) > 1 else 0.0
    return float(runs.mean()), float(patients), float(runs.var(ddof=1) / len(runs))


def _reach(level: float, patients: float, seeds: float, runs: int) -> float:
    """Half the width of the interval that misses the truth with a probability of `level`."""
    normal, student = ndtri(level / 2), stdtrit(runs - 1, level / 2)
    return float(np.sqrt(normal**2 * patients + student**2 * seeds))


def named_interval(
    series: np.ndarray, within: tuple[float, float] | None = (0, 1)
) -> dict[str, float]:
    """`interval` as the columns of a tidy row: value, ci_low, ci_high."""
    return dict(zip(("value", "ci_low", "ci_high"), interval(series, within), strict=True))


def tidy_row(
    key: tuple[str, str, str],
    series: np.ndarray,
    within: tuple[float, float] | None = (0, 1),
    **more: object,
) -> dict[str, object]:
    """A row of a table: dataset, method, metric of `key`, the interval of (K, 1 + R), seeds (K)."""
    about = dict(zip(("dataset", "method", "metric"), key, strict=True))
    return {**about, **named_interval(series, within), "seeds": len(series), **more}


def paired_test(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """`first` minus `second`, run by run on the same resamples: its interval and p-value."""
    difference = first - second
    return {**named_interval(difference, None), "p_value": paired_p_value(difference)}


def paired_p_value(differences: np.ndarray) -> float:
    """Two-sided p-value of "the difference is zero" (Efron and Tibshirani 1993, chapter 16)."""
    return min(tail_p_value(differences), tail_p_value(-differences))


def tail_p_value(differences: np.ndarray) -> float:
    """Doubled one-sided p-value of "the difference is not above zero"; (1 + R,) or (K, 1 + R).

    Several runs: the level, not below 1e-100, at which `interval` would just reach zero. One run:
    resamples at or below zero are counted where there are at least ten. A thousand cannot tell
    0.002 from less, too coarse for many comparisons: where fewer lie there, the tail of a normal
    distribution with the resamples' mean and deviation takes over (Efron and Tibshirani 1993,
    chapter 13), if smaller and if they have any spread.
    """
    differences = np.atleast_2d(differences)
    if len(differences) > 1:
        value, patients, seeds = variances(differences)

        def beyond(exponent: float) -> float:
            return _reach(10**exponent, patients, seeds, len(differences)) - value

        if patients + seeds > 1e-24:  # equal differences differ by rounding only
            if value <= 0:
                return 1.0
            return 10 ** brentq(beyond, -100, 0) if beyond(-100) > 0 else 1e-100
    resampled = differences[:, 1:].mean(axis=0)
    resampled = resampled[np.isfinite(resampled)]
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
