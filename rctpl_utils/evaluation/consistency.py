"""Is the premise true: are text features consistent with image features of the same semantics?

The paper learns prompts from texts in place of images because, after pre-training, "textual
features have achieved complete consistency with image features of the same semantics" (3.2). Here
that is measured on validation films, on the frozen encoder alone: the mean image feature of each
class's films against the text feature of every class, by cosine. Consistent is an encoder whose
films lie nearer to their own class's text than to the others'; *complete* is one where each class's
films lie nearest to their own.

Films and texts lie in two separate cones of the joint space (the modality gap: Liang et al.,
NeurIPS 2022), which plain cosines mostly show. Centered ones take the mean over the set's films
from the films, and the mean over the classes from the texts; they are the fairer test. A film of
several classes counts in each, which blurs the classes and makes the test stricter.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from rctpl_utils.datasets.availability import present
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.evaluation.bootstrap_samples import Draws, save_draws
from rctpl_utils.evaluation.metrics import named_interval, patient_weights
from rctpl_utils.evaluation.results import write_csv
from rctpl_utils.evaluation.table1 import film_features
from rctpl_utils.prompts import handwritten
from rctpl_utils.scoring import ClassEmbeddings
from rctpl_utils.workspace import Workspace

DATASETS = ("chestxray14", "chexpert")
TEXTS: dict[str, Callable[[Encoder, Sequence[str]], ClassEmbeddings]] = {
    "class names": handwritten.class_names,
    "descriptions": handwritten.descriptions,
}
KINDS = {"cosine": False, "centered_cosine": True}  # metric -> whether both sides are centered
OWN, OTHERS, NEAREST = "own class", "other classes", "nearest is the own class"
_BOUNDS = (-1, 1)
_COLUMNS = (
    "dataset", "method", "metric", "value", "ci_low", "ci_high", "seeds", "n", "classes",
)  # fmt: skip


def class_cosines(
    films: np.ndarray, labels: np.ndarray, texts: np.ndarray, weights: np.ndarray, centered: bool
) -> np.ndarray:
    """Cosine of the mean image feature of class i's films with text j, in every resample.

    Args:
        films: (n, d) image features.
        labels: (n, L), 1 where the class is present; whatever else is not counted.
        texts: (L, d) text features.
        weights: (R, n) from `metrics.patient_weights`.
        centered: take the mean over all films of the resample, and over all texts, away.

    Returns:
        (R, L, L), NaN where a class has no film in a resample, or nothing is left of a vector.
    """
    films, weights = films.astype(np.float64), weights.astype(np.float64)
    texts = texts.astype(np.float64)
    pool = 0.0
    if centered:
        pool = weights @ films / weights.sum(axis=1, keepdims=True)
        texts = texts - texts.mean(axis=0)
    texts = _units(texts)
    found = []
    for own in (labels == 1).T:
        count = weights[:, own].sum(axis=1, keepdims=True)
        sums = weights[:, own] @ films[own] - count * pool
        found.append(_units(sums) @ texts.T)
    return np.stack(found, axis=1)


def agreement(cosines: np.ndarray) -> dict[str, np.ndarray]:
    """Mean cosine with the own text, with others', and the share of classes nearest to their own.

    Args:
        cosines: (R, L, L), L > 1, from `class_cosines`; rows of NaN are left out.

    Returns:
        (R,) for each of `OWN`, `OTHERS` and `NEAREST`; NaN where a resample has no class at all.
    """
    classes = cosines.shape[1]
    own = np.einsum("rii->ri", cosines)
    others = (cosines.sum(axis=2) - own) / (classes - 1)
    first = np.where(np.isnan(own), np.nan, own >= np.nan_to_num(cosines).max(axis=2))
    return {OWN: _mean(own), OTHERS: _mean(others), NEAREST: _mean(first)}


def measure_consistency(workspace: Workspace, encoders: Sequence[Encoder]) -> pd.DataFrame:
    """Measure all sets that are there; write consistency.csv and the draws that the ledger tests.

    Args:
        encoders: one a seed.

    Returns:
        tidy rows: dataset, method (texts and what is counted), metric, value, ci_low, ci_high,
        seeds, n (films), classes.
    """
    rows, draws = [], {}
    for name in present(workspace, DATASETS):
        found, films, classes = _series(workspace, encoders, name)
        draws |= found
        for key, series in found.items():
            about = dict(zip(("dataset", "method", "metric"), key, strict=True))
            count = {"seeds": len(series), "n": films, "classes": classes}
            bounds = (0, 1) if key[1].endswith(NEAREST) else _BOUNDS
            rows.append({**about, **named_interval(series, bounds), **count})
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    save_draws(workspace.results, "consistency", draws)
    write_csv(workspace.figures / "consistency.csv", table)
    return table


def _series(workspace: Workspace, encoders: Sequence[Encoder], name: str) -> tuple[Draws, int, int]:
    """A data set's draws, (K, 1 + R) each; its numbers of films and of classes that films have."""
    dataset = open_split(workspace, name, "validation")
    read = film_features(workspace, dataset)
    labels = dataset.records[list(dataset.concepts)].to_numpy(float)
    shown = np.flatnonzero((labels == 1).any(axis=0))
    concepts = [dataset.concepts[k] for k in shown]
    patients = dataset.records["patient_id"]
    weights = patient_weights(patients, workspace.profile.bootstrap)
    found: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for encoder in dict.fromkeys(encoders):  # a checkpoint is one for all seeds
        films = np.asarray(read(encoder).global_features)
        for texts, embed in TEXTS.items():
            vectors = embed(encoder, concepts).report.cpu().numpy()
            for metric, centered in KINDS.items():
                cosines = class_cosines(films, labels[:, shown], vectors, weights, centered)
                for what, values in agreement(cosines).items():
                    found.setdefault((name, f"{texts}, {what}", metric), []).append(values)
    stacked = {key: np.stack(values) for key, values in found.items()}
    return stacked, len(dataset), len(concepts)


def _units(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.full_like(vectors, np.nan), where=length > 1e-9)


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over classes, (R, L) to (R,), without those that are NaN."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=1)
    count = known.sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
