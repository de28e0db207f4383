"""How sure one may be of a score: what films of the validation splits with such scores showed.

A cosine says little to a person. A calibration compares it with the scores of validation films
whose labels are known, concept by concept. It is made from validation films only and belongs to
one set of prompts and one image encoder.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from tqdm import tqdm

from rctpl_utils.errors import InputError
from rctpl_utils.features import image_features
from rctpl_utils.files import read_json, write_json
from rctpl_utils.metrics import (
    best_f1_threshold,
    interval,
    patient_weights,
    scorable,
    weighted_auc,
)
from rctpl_utils.results import data_note
from rctpl_utils.table1 import BOOTSTRAP_SEED, open_split
from rctpl_utils.workspace import Workspace
from rctpl_utils.zero_shot import score_images

if TYPE_CHECKING:  # the model takes a calibration
    from rctpl_utils.model import RCTPL

# Data set -> the concepts that its validation films calibrate; None: all that it labels. COVIDx
# is not asked for pneumonia: it counts COVID-19 films, which show one, as films without.
SOURCES: Mapping[str, tuple[str, ...] | None] = {
    "chestxray14": None,
    "chexpert": None,
    "rsna": None,
    "covidx": ("COVID-19",),
}
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
    """What a score means, measured on validation films.

    Attributes:
        grade: one of `GRADES`: `CANNOT_TELL` when the AUC's interval reaches down to 0.5, else
            `_BOUNDS` against `ratio_low`.
        found: whether the score reaches the threshold.
        threshold: the score with the best F1 on the validation films.
        percentile: at least this share of the films without the concept score lower.
        cut: "as high" means at least this score (see `ConceptCalibration.judge`).
        likelihood_ratio, ratio_low, ratio_high: how many times as often films with the concept
            score as high as those without, with its 95 % interval.
        as_high, as_high_present: how many films score as high, and how many of them show it.
        ppv, ppv_low, ppv_high: their ratio with its 95 % interval, at the validation films'
            prevalence.
        prevalence, films: the share of validation films that show it, and their number.
        auc, auc_low, auc_high: the area under the ROC curve with its 95 % interval.
    """

    grade: str
    found: bool
    threshold: float
    percentile: float
    cut: float
    likelihood_ratio: float
    ratio_low: float
    ratio_high: float
    as_high: int
    as_high_present: int
    ppv: float
    ppv_low: float
    ppv_high: float
    prevalence: float
    films: int
    auc: float
    auc_low: float
    auc_high: float


@dataclass(frozen=True)
class ConceptCalibration:
    """One concept's validation films, counted at a few cuts of the score.

    Attributes:
        sources: the data sets that the films come from.
        cuts: scores, ascending, K of them; the first is the lowest score of all.
        present: how many films with the concept score at least each cut, K counts.
        absent: the same for films without it.
        threshold: the score with the best F1, one of the cuts.
        auc, auc_low, auc_high: with a 95 % bootstrap interval over patients.
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


@dataclass(frozen=True)
class Calibration:
    """The calibrated concepts of one set of prompts with one image encoder.

    Attributes:
        prompts_key: the key in the prompts' metadata.
        image_key: the encoder's.
        data: what the films were, in a sentence.
        concepts: name -> calibration.
    """

    prompts_key: str
    image_key: str
    data: str
    concepts: Mapping[str, ConceptCalibration]

    def table(self) -> pd.DataFrame:
        """One row a concept: its films and how well scores tell it apart, best first."""
        rows = {
            name: {
                "sources": ", ".join(one.sources),
                "films": one.present[0] + one.absent[0],
                "with it": one.present[0],
                "AUC": one.auc,
                "low": one.auc_low,
                "high": one.auc_high,
                "can tell": one.auc_low > 0.5,
                "threshold": one.threshold,
            }
            for name, one in self.concepts.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").sort_values("AUC", ascending=False)

    def save(self, path: str | Path) -> Path:
        """Write one small JSON file, atomically."""
        return write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            InputError: the file is absent or damaged.
        """
        if not Path(path).exists():
            raise InputError("no calibration there", "Run notebook 09 first.", file=path)
        try:
            stored = read_json(path)
            concepts = {
                name: ConceptCalibration(
                    **{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()}
                )
                for name, one in stored.pop("concepts").items()
            }
            return cls(**stored, concepts=concepts)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"not a calibration ({error})", "Delete it and run notebook 09.", file=path
            ) from error

    def check(self, prompts_key: str | None, image_key: str) -> None:
        """Refuse to judge the scores of other prompts or of another image encoder.

        Raises:
            InputError: the keys differ.
        """
        if (self.prompts_key, self.image_key) != (prompts_key, image_key):
            raise InputError(
                "this calibration belongs to other prompts or to another encoder",
                "Run notebook 09 again, or give the calibration made with these prompts.",
            )


def calibration_path(prompts: str | Path) -> Path:
    """Where the calibration of a prompt file lies: beside it."""
    return Path(prompts).with_suffix(".calibration.json")


def calibrate(workspace: Workspace, model: "RCTPL") -> Calibration:
    """Calibrate all concepts that the validation films of `SOURCES` label; films are pooled.

    A film belongs to one data set, so each counts once. The AUC compares films of the same data
    set only (`stratified_auc`): to tell one hospital's films from another's is no merit.
    """
    parts: dict[str, list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]] = {}
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    for name, chosen in tqdm(SOURCES.items(), desc="calibrating", unit="data set"):
        dataset = open_split(workspace, name, "validation")
        concepts = chosen or dataset.concepts
        features = image_features(model.encoder, dataset, workspace.features)
        embeddings = model.prompts.embed(model.encoder, concepts)
        scores = score_images(features, {"model": embeddings})["model"].both
        resamples = workspace.profile.bootstrap
        weights = patient_weights(dataset.records["patient_id"], resamples, generator)
        for k, concept in enumerate(concepts):
            labels = dataset.records[concept].to_numpy(float)
            parts.setdefault(concept, []).append((name, labels, scores[:, k], weights))
    concepts = {name: _calibrate_concept(of) for name, of in parts.items()}
    return Calibration(
        model.prompts.metadata["key"], model.encoder.image_key, data_note(workspace),
        {name: found for name, found in concepts.items() if found is not None},
    )  # fmt: skip


def _calibrate_concept(
    parts: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]],
) -> ConceptCalibration | None:
    usable = [part for part in parts if scorable(part[1])]
    if not usable:
        return None
    auc = interval(stratified_auc([part[1:] for part in usable]))
    labels, scores = (np.concatenate([part[k] for part in usable]) for k in (1, 2))
    return count_films(labels, scores, tuple(part[0] for part in usable), auc)


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


def stratified_auc(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """The share of (present, absent) pairs in the right order, pairs within a data set only.

    Args:
        parts: a data set each: labels (n,), scores (n,), weights (1 + R, n).

    Returns:
        (1 + R,).
    """
    right = pairs = 0.0
    for labels, scores, weights in parts:
        present, absent = ((weights * (labels == k)).sum(axis=1, dtype=float) for k in (1, 0))
        right = right + np.nan_to_num(weighted_auc(labels, scores, weights)) * present * absent
        pairs = pairs + present * absent
    return np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def likelihood_ratio(
    present: int, all_present: int, absent: int, all_absent: int
) -> tuple[float, float, float]:
    """P(as high | present) / P(as high | absent) with its 95 % interval.

    The interval is that of Simel, Samsa and Matchar 1991 (J Clin Epidemiol 44:763-770), on counts
    raised by one half (totals by one), so that an empty cell leaves the ratio finite.

    Args:
        present, absent: films with and without the concept that score as high.
        all_present, all_absent: all of them.
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
