"""What a score means: films with and without a concept that score as high, counted and graded."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from rctpl_utils.evaluation.metrics import best_f1_threshold

# Where films are counted: quantiles of all scores, finer at the top, where findings are.
LEVELS = (*np.linspace(0, 0.95, 39), 0.96, 0.97, 0.98, 0.985, 0.99, 0.995)

CANNOT_TELL = "this model cannot tell this concept"
NO_EVIDENCE = "no evidence"
NOT_CALIBRATED = "not calibrated"
# Bounds of the likelihood ratio. Jaeschke, Guyatt and Sackett 1994, JAMA 271:703-707: above 10
# large, 5 to 10 moderate, 2 to 5 small, below 2 rarely important changes of probability. We hold
# the lower end of its interval against them, so that a handful of films is no strong evidence.
_BOUNDS = ((10.0, "strong"), (5.0, "moderate"), (2.0, "weak"))
GRADES = (*(grade for _, grade in _BOUNDS), NO_EVIDENCE, CANNOT_TELL, NOT_CALIBRATED)


@dataclass(frozen=True)
class Evidence:
    """What a score means, measured on validation films; each ratio with its 95 % interval.

    `CANNOT_TELL` is the grade when the AUC's interval reaches down to 0.5; else `_BOUNDS` against
    `ratio_low`, the low end of how many times as often films with the concept score as high (at
    least `cut`, see `ConceptCalibration.judge`) as those without.
    """

    grade: str  # one of `GRADES`
    found: bool  # whether the score reaches the threshold
    threshold: float  # the score with the best F1
    percentile: float  # at least this share of the films without the concept score lower
    cut: float
    likelihood_ratio: float
    ratio_low: float
    ratio_high: float
    as_high: int  # films that score as high
    as_high_present: int  # how many of them show it
    ppv: float  # that share, at the validation films' prevalence
    ppv_low: float
    ppv_high: float
    prevalence: float  # the share of validation films that show it
    films: int  # validation films
    auc: float
    auc_low: float
    auc_high: float


@dataclass(frozen=True)
class ConceptCalibration:
    """One concept's validation films, from the data sets `sources`, counted at K cuts of the score.

    `cuts` ascend from the lowest score of all; `present` and `absent` count films with and without
    the concept that score at least each; `threshold`, the cut with the best F1; the AUC with a 95 %
    bootstrap interval over patients.
    """

    sources: tuple[str, ...]
    cuts: tuple[float, ...]
    present: tuple[int, ...]
    absent: tuple[int, ...]
    threshold: float
    auc: float
    auc_low: float
    auc_high: float

    def judge(self, score: float) -> Evidence:
        """The evidence of a score: that of the most telling cut that it reaches.

        Every reached cut is a true statement ("the film scores at least ..."). The one with the
        highest lower end of the likelihood ratio's interval is taken, so that evidence never falls
        when the score rises and the films above it become few.
        """
        reached = max(int(np.searchsorted(self.cuts, score, side="right")), 1)
        ratios = [self._ratio(k) for k in range(reached)]
        at = max(range(reached), key=lambda k: ratios[k][1])
        present, absent = self.present[at], self.absent[at]
        films = self.present[0] + self.absent[0]
        share = binomtest(present, present + absent).proportion_ci(method="wilson")
        return Evidence(
            _grade(ratios[at][1], self.auc_low), bool(score >= self.threshold), self.threshold,
            1 - self.absent[reached - 1] / self.absent[0], self.cuts[at], *ratios[at],
            present + absent, present, present / (present + absent), float(share.low),
            float(share.high), self.present[0] / films, films, self.auc, self.auc_low,
            self.auc_high,
        )  # fmt: skip

    def _ratio(self, at: int) -> tuple[float, float, float]:
        return likelihood_ratio(self.present[at], self.present[0], self.absent[at], self.absent[0])


def count_films(
    labels: np.ndarray,
    scores: np.ndarray,
    sources: tuple[str, ...],
    auc: tuple[float, float, float],
) -> ConceptCalibration:
    """Count films at the cuts; labels 1, 0 or NaN (left out), scores, both (n,)."""
    scores, present = scores[~np.isnan(labels)].astype(float), labels[~np.isnan(labels)] == 1
    threshold = best_f1_threshold(present.astype(float), scores)
    cuts = np.union1d(np.quantile(scores, LEVELS, method="lower"), [threshold])
    above = scores >= cuts[:, None]
    counts = ((above & kind).sum(axis=1).tolist() for kind in (present, ~present))
    return ConceptCalibration(sources, tuple(cuts.tolist()), *map(tuple, counts), threshold, *auc)


def likelihood_ratio(
    present: int, all_present: int, absent: int, all_absent: int
) -> tuple[float, float, float]:
    """P(as high | present) / P(as high | absent) with its 95 % interval, that of Simel, Samsa and
    Matchar 1991 (J Clin Epidemiol 44:763-770), on counts raised by one half (totals by one), so
    that an empty cell leaves the ratio finite.
    """
    with_it, total_with = present + 0.5, all_present + 1
    without, total_without = absent + 0.5, all_absent + 1
    ratio = (with_it / total_with) / (without / total_without)
    error = np.sqrt(1 / with_it - 1 / total_with + 1 / without - 1 / total_without)
    return ratio, float(ratio * np.exp(-1.96 * error)), float(ratio * np.exp(1.96 * error))


def _grade(ratio_low: float, auc_low: float) -> str:
    if auc_low <= 0.5:
        return CANNOT_TELL
    return next((grade for bound, grade in _BOUNDS if ratio_low >= bound), NO_EVIDENCE)
