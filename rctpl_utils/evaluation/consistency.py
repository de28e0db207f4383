"""Is the premise true: are text features consistent with image features of the same semantics?

The paper learns from texts in place of images as, after pre-training, "textual features have
achieved complete consistency with image features of the same semantics" (3.2). Measured on
validation films and the frozen encoder alone: the mean image feature of each class's films against
every class's text, by cosine. *Complete* is where each lies nearest to its own.

Films and texts lie in two separate cones (the modality gap: Liang et al., NeurIPS 2022), which
plain cosines mostly show; centered ones, less the films' and the texts' means, are fairer. A film
of several classes counts in each, which blurs the classes and makes the test stricter.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from rctpl_utils.datasets.splits import open_split, present
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.evaluation.metrics import named_interval, patient_weights
from rctpl_utils.evaluation.results import Draws, save_draws, write_csv
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
    """Cosine of the mean image feature of class i's films with text j, in every resample: (R, L,
    L), NaN where a class has no film in a resample, or nothing is left of a vector.

    Films (n, d), labels (n, L), 1 where present, texts (L, d), weights (R, n). `centered` takes the
    mean over all films of the resample, and over all texts, away.
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
    """Of (R, L, L), L > 1: the mean cosine with the own text, with others', and the share of
    classes nearest to their own, (R,) each; rows of NaN are left out, NaN where a resample has no
    class.
    """
    classes = cosines.shape[1]
    own = np.einsum("rii->ri", cosines)
    others = (cosines.sum(axis=2) - own) / (classes - 1)
    first = np.where(np.isnan(own), np.nan, own >= np.nan_to_num(cosines).max(axis=2))
    return {OWN: _mean(own), OTHERS: _mean(others), NEAREST: _mean(first)}


def measure_consistency(workspace: Workspace, encoders: Sequence[Encoder]) -> pd.DataFrame:
    """Measure all sets that are there, an encoder a seed; write consistency.csv (a method is texts
    and what is counted; n films) and the draws that the ledger tests.
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
