"""Is the premise true: are text features consistent with image features of the same semantics?

The paper learns from texts in place of images as, after pre-training, "textual features have
achieved complete consistency with image features of the same semantics" (3.2). Measured on
validation films and the frozen encoder alone: the cosine of each class's mean image feature with
every class's text. *Complete* is where each lies nearest to its own. Films and texts lie in two
separate cones (the modality gap: Liang et al., NeurIPS 2022), which plain cosines mostly show;
centered ones, less the films' and the texts' means, are fairer. A film of several classes counts in
each, which blurs the classes and makes the test stricter.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rctpl_utils.datasets.splits import open_split, present
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.evaluation.metrics import patient_weights, tidy_row
from rctpl_utils.evaluation.results import COLUMNS, save_draws, write_csv
from rctpl_utils.evaluation.table1 import film_features
from rctpl_utils.prompts import handwritten
from rctpl_utils.workspace import Workspace

DATASETS = ("chestxray14", "chexpert")
TEXTS = {"class names": handwritten.class_names, "descriptions": handwritten.descriptions}
KINDS = {"cosine": False, "centered_cosine": True}  # metric -> whether both sides are centered
OWN, OTHERS, NEAREST = "own class", "other classes", "nearest is the own class"


def class_cosines(
    films: np.ndarray, labels: np.ndarray, texts: np.ndarray, weights: np.ndarray, centered: bool
) -> np.ndarray:
    """Cosine of the mean feature of class i's films with text j, in every resample: (R, L, L); NaN
    where a class has no film in it.

    Films (n, d), labels (n, L), 1 where present, texts (L, d), weights (R, n). `centered` takes the
    mean over all films of the resample, and over all texts, away.
    """
    films, texts, weights = (each.astype(np.float64) for each in (films, texts, weights))
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
    """Of (R, L, L): the mean cosine with the own text, with others', and the share of classes
    nearest to their own, (R,) each; classes of NaN are left out.
    """
    classes = cosines.shape[1]
    own = np.einsum("rii->ri", cosines)
    others = (cosines.sum(axis=2) - own) / (classes - 1)
    first = np.where(np.isnan(own), np.nan, own >= np.nan_to_num(cosines).max(axis=2))
    found = {OWN: own, OTHERS: others, NEAREST: first}
    known = {what: np.ma.masked_invalid(values) for what, values in found.items()}
    return {what: values.mean(axis=1).filled(np.nan) for what, values in known.items()}


def measure_consistency(workspace: Workspace, encoders: Sequence[Encoder]) -> pd.DataFrame:
    """Measure all sets that are there, an encoder a seed; write consistency.csv and the draws."""
    rows, draws = [], {}
    for name in present(workspace, DATASETS):
        dataset = open_split(workspace, name, "validation")
        read = film_features(workspace, dataset)
        labels = dataset.records[list(dataset.concepts)].to_numpy(float)
        shown = np.flatnonzero((labels == 1).any(axis=0))
        concepts = [dataset.concepts[k] for k in shown]
        weights = patient_weights(dataset.records["patient_id"], workspace.profile.bootstrap)
        found: dict[tuple[str, str, str], list[np.ndarray]] = {}
        for encoder in dict.fromkeys(encoders):  # a checkpoint is one for all seeds
            films = np.asarray(read(encoder).global_features)
            for texts, embed in TEXTS.items():
                vectors = embed(encoder, concepts).report.cpu().numpy()
                for metric, centered in KINDS.items():
                    cosines = class_cosines(films, labels[:, shown], vectors, weights, centered)
                    for what, values in agreement(cosines).items():
                        found.setdefault((name, f"{texts}, {what}", metric), []).append(values)
        for key, runs in found.items():
            draws[key] = np.stack(runs)
            within = (0, 1) if key[1].endswith(NEAREST) else (-1, 1)
            count = {"n": len(dataset), "classes": len(concepts)}
            rows.append(tidy_row(key, draws[key], within, **count))
    table = pd.DataFrame(rows, columns=[*COLUMNS[:-2], "classes"])
    save_draws(workspace.results, "consistency", draws)
    write_csv(workspace.figures / "consistency.csv", table)
    return table


def _units(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.full_like(vectors, np.nan), where=length > 1e-9)
