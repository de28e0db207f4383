"""How sure one may be of a score: what films of the validation splits with such scores showed.

A cosine says little to a person. A calibration holds it, concept by concept, against labeled
validation films only, counted and graded; it belongs to one set of prompts and one image encoder.

It also tells whether a film is like those films, by its dense map: global features of real and
simulated films are alike. A film is described by mean and deviation of each dimension over its
cells, its distance is Mahalanobis' from all validation films (Lee et al., NeurIPS 2018), in units
of a limit that 99 % of them keep.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load, save
from scipy.stats import binomtest
from sklearn.covariance import LedoitWolf
from sklearn.model_selection import GroupKFold
from tqdm import tqdm

from rctpl_utils.datasets.splits import open_split, present
from rctpl_utils.encoders.base import Encoder, ImageFeatures
from rctpl_utils.encoders.features import IMAGE_BATCH, ImageFeatureFile, image_features
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation import metrics
from rctpl_utils.evaluation.grounding_metrics import scale_of
from rctpl_utils.evaluation.results import data_note
from rctpl_utils.files import read_json, write_json
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.prompts.zero_shot import score_images
from rctpl_utils.scoring import similarity_maps
from rctpl_utils.workspace import Workspace

# Data set -> the concepts that its validation films calibrate; None: all that it labels. COVIDx
# is not asked for pneumonia: it counts COVID-19 films, which show one, as films without.
SOURCES = {"chestxray14": None, "chexpert": None, "rsna": None, "covidx": ("COVID-19",)}
FOLDS = 5
KEPT = 0.99  # the share of validation films within the limit
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

    The grade is `CANNOT_TELL` when the AUC's interval reaches down to 0.5; else `_BOUNDS` against
    `ratio_low`. The ratio: how many times as often films with the concept score at least `cut`.
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
    """One concept's validation films, counted at K ascending cuts: `present` and `absent`, those
    with and without it, score at least as high. `threshold`: the cut with the best F1.
    """

    sources: tuple[str, ...]  # their data sets
    cuts: tuple[float, ...]
    present: tuple[int, ...]
    absent: tuple[int, ...]
    threshold: float
    auc: float
    auc_low: float
    auc_high: float

    def judge(self, score: float) -> Evidence:
        """The evidence of a score: that of the most telling cut that it reaches.

        Every reached cut is a true statement ("at least ..."). That with the highest lower end of
        the ratio's interval is taken, so that evidence never falls when the score rises.
        """
        reached = max(int(np.searchsorted(self.cuts, score, side="right")), 1)
        counts = list(zip(self.present, self.absent, strict=True))[:reached]
        with_it, without = counts[0]
        ratios = [likelihood_ratio(here, with_it, other, without) for here, other in counts]
        at = max(range(reached), key=lambda k: ratios[k][1])
        grade = CANNOT_TELL
        if self.auc_low > 0.5:
            reaches = (grade for bound, grade in _BOUNDS if ratios[at][1] >= bound)
            grade = next(reaches, NO_EVIDENCE)
        present, films = counts[at][0], with_it + without
        as_high = sum(counts[at])
        share = binomtest(present, as_high).proportion_ci(method="wilson")
        return Evidence(
            grade, bool(score >= self.threshold), self.threshold, 1 - counts[-1][1] / without,
            self.cuts[at], *ratios[at], as_high, present, present / as_high, float(share.low),
            float(share.high), with_it / films, films, self.auc, self.auc_low, self.auc_high,
        )  # fmt: skip


def descriptors(features: ImageFeatures) -> np.ndarray:
    """Mean and deviation of the dense map over its cells: (n, 2 d)."""
    cells = features.dense_features.flatten(1, 2).double()
    return torch.cat([cells.mean(dim=1), cells.std(dim=1)], dim=1).cpu().numpy()


def file_descriptors(file: ImageFeatureFile, encoder: Encoder) -> np.ndarray:
    """Those of a data set's cached features."""
    rows = (slice(start, start + IMAGE_BATCH) for start in range(0, len(file), IMAGE_BATCH))
    return np.concatenate([descriptors(file.batch(part, encoder.device)) for part in rows])


@torch.no_grad()
def described(encoder: Encoder, images: Sequence[np.ndarray]) -> np.ndarray:
    """Those of pictures, float (H, W) in [0, 1]."""
    parts = []
    for start in range(0, len(images), IMAGE_BATCH):
        part = map(np.ascontiguousarray, images[start : start + IMAGE_BATCH])
        batch = torch.stack([encoder.preprocess(each) for each in part])
        parts.append(descriptors(encoder.encode_image(batch)))
    return np.concatenate(parts)


@dataclass(frozen=True)
class Domain:
    """Where validation films lie: their mean (2 d,), the inverse of their shrunk covariance (Ledoit
    and Wolf 2004), the distance within which `KEPT` lie, each measured from other patients' films.
    """

    center: np.ndarray
    precision: np.ndarray
    limit: float

    @classmethod
    def fit(cls, films: np.ndarray, patients: Sequence[str]) -> "Domain":
        """Of validation films (n, 2 d) and their patients, `FOLDS` or more."""
        held_out = np.empty(len(films))
        for rest, fold in GroupKFold(FOLDS).split(films, groups=list(patients)):
            held_out[fold] = LedoitWolf().fit(films[rest]).mahalanobis(films[fold])
        whole = LedoitWolf().fit(films)
        return cls(whole.location_, whole.precision_, float(np.quantile(held_out, KEPT) ** 0.5))

    def distance(self, films: np.ndarray) -> np.ndarray:
        """Distances of films (n, 2 d) in units of the limit, (n,): above 1 is out of the domain."""
        away = films - self.center
        return np.sqrt(np.einsum("ni,ij,nj->n", away, self.precision, away)) / self.limit

    def as_text(self) -> str:
        """For a JSON file: safetensors in base64."""
        arrays = {"center": self.center, "precision": self.precision}
        packed = {name: np.ascontiguousarray(each, np.float32) for name, each in arrays.items()}
        return base64.b64encode(save(packed | {"limit": np.array([self.limit])})).decode()

    @classmethod
    def from_text(cls, text: str) -> "Domain":
        """What `as_text` wrote; ValueError: it is damaged."""
        try:
            arrays = load(base64.b64decode(text, validate=True))
            return cls(arrays["center"], arrays["precision"], float(arrays["limit"][0]))
        except Exception as error:  # safetensors' own errors share no base but Exception
            raise ValueError(f"the domain is damaged: {error}") from error


@dataclass(frozen=True)
class Calibration:
    """The calibrated `concepts` of one set of prompts with one image encoder, by their keys."""

    prompts_key: str
    image_key: str
    data: str  # what the films were, in a sentence
    concepts: Mapping[str, ConceptCalibration]
    scale: tuple[float, float] | None = None  # cosines between which heat maps are drawn
    domain: Domain | None = None  # where the films lie

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
        table = pd.DataFrame.from_dict(rows, orient="index")
        return table.sort_values("AUC", ascending=False) if rows else table

    def save(self, path: str | Path) -> Path:
        """Write one small JSON file, atomically."""
        domain = self.domain.as_text() if self.domain else None
        return write_json(path, asdict(replace(self, domain=None)) | {"domain": domain})

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read what `save` wrote; InputError: the file is absent or damaged."""
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
            scale, domain = stored.pop("scale"), stored.pop("domain")
            return cls(
                **stored,
                concepts=concepts,
                scale=scale and tuple(scale),
                domain=domain and Domain.from_text(domain),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"not a calibration ({error})", "Delete it and run notebook 09.", file=path
            ) from error

    def check(self, prompts_key: str | None, image_key: str) -> None:
        """Refuse (InputError) scores of other prompts or of another image encoder."""
        if (self.prompts_key, self.image_key) != (prompts_key, image_key):
            raise InputError(
                "this calibration belongs to other prompts or to another encoder",
                "Run notebook 09 again, or give the calibration made with these prompts.",
            )


def calibration_path(prompts: str | Path) -> Path:
    """Where the calibration of a prompt file lies: beside it."""
    return Path(prompts).with_suffix(".calibration.json")


@torch.no_grad()
def calibrate(workspace: Workspace, model: RCTPL) -> Calibration:
    """Calibrate all concepts that the validation films of `SOURCES` label; films are pooled.

    A film counts once; the AUC compares films of the same data set only (`stratified_auc`): to tell
    one hospital's films from another's is no merit. Data sets that are absent calibrate nothing.
    """
    parts: dict[str, list[tuple]] = {}  # concept -> data set, labels, scores, weights
    cosines, films, patients = [], [], []
    generator = np.random.default_rng(metrics.BOOTSTRAP_SEED)
    for name in tqdm(present(workspace, SOURCES), desc="calibrating", unit="data set"):
        dataset = open_split(workspace, name, "validation")
        concepts = SOURCES[name] or dataset.concepts
        features = image_features(model.encoder, dataset, workspace.features)
        embeddings = model.prompts.embed(model.encoder, concepts)
        scores = score_images(features, {"model": embeddings})["model"].both
        ids = dataset.records["patient_id"]
        weights = metrics.patient_weights(ids, workspace.profile.bootstrap, generator)
        for start in range(0, len(features), IMAGE_BATCH):
            batch = features.batch(slice(start, start + IMAGE_BATCH), model.encoder.device)
            films.append(descriptors(batch))
            found = similarity_maps(batch.dense_features.flatten(1, 2), embeddings.concept)
            cosines.append(found.half().flatten().cpu().numpy())  # as the cells are
        patients += [f"{name} {patient}" for patient in ids]
        for k, concept in enumerate(concepts):
            labels = dataset.records[concept].to_numpy(float)
            parts.setdefault(concept, []).append((name, labels, scores[:, k], weights))
    calibrated = {}
    for concept, of in parts.items():
        if usable := [part for part in of if metrics.scorable(part[1])]:
            sources, labels, scores, _ = zip(*usable, strict=True)
            auc = metrics.interval(stratified_auc([part[1:] for part in usable]))
            films_of = (np.concatenate(labels), np.concatenate(scores))
            calibrated[concept] = count_films(*films_of, sources, auc)
    return Calibration(
        model.prompts.metadata["key"], model.encoder.image_key, data_note(workspace), calibrated,
        scale_of(np.concatenate(cosines)) if cosines else None,
        Domain.fit(np.concatenate(films), patients) if films else None,
    )  # fmt: skip


def stratified_auc(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """The share of (present, absent) pairs in the right order, within a data set only: (1 + R,),
    from labels (n,), scores (n,) and weights (1 + R, n) of each.
    """
    right = pairs = 0.0
    for labels, scores, weights in parts:
        present, absent = ((weights * (labels == k)).sum(axis=1, dtype=float) for k in (1, 0))
        share = np.nan_to_num(metrics.weighted_auc(labels, scores, weights))
        right = right + share * present * absent
        pairs = pairs + present * absent
    return np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def count_films(
    labels: np.ndarray,
    scores: np.ndarray,
    sources: tuple[str, ...],
    auc: tuple[float, float, float],
) -> ConceptCalibration:
    """Count films at the cuts; labels 1, 0 or NaN (left out), scores, both (n,)."""
    scores, present = scores[~np.isnan(labels)].astype(float), labels[~np.isnan(labels)] == 1
    threshold = metrics.best_f1_threshold(present.astype(float), scores)
    cuts = np.union1d(np.quantile(scores, LEVELS, method="lower"), [threshold])
    above = scores >= cuts[:, None]
    counts = ((above & kind).sum(axis=1).tolist() for kind in (present, ~present))
    return ConceptCalibration(sources, tuple(cuts.tolist()), *map(tuple, counts), threshold, *auc)


def likelihood_ratio(
    present: int, all_present: int, absent: int, all_absent: int
) -> tuple[float, float, float]:
    """P(as high | present) / P(as high | absent) with the 95 % interval of Simel, Samsa and Matchar
    1991 (J Clin Epidemiol 44:763-770), on counts raised by one half (totals by one): it is finite.
    """
    with_it, total_with = present + 0.5, all_present + 1
    without, total_without = absent + 0.5, all_absent + 1
    ratio = (with_it / total_with) / (without / total_without)
    error = np.sqrt(1 / with_it - 1 / total_with + 1 / without - 1 / total_without)
    return ratio, float(ratio * np.exp(-1.96 * error)), float(ratio * np.exp(1.96 * error))
