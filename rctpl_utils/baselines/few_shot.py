"""A few labeled films a class: what CoOp, CoCoOp and DualCoOp learn from, and RC-TPL does not.

The films are training films of MIMIC-CXR; their labels are those of their reports' triplets
(1 present, 0 absent or unmentioned, NaN uncertain), the same labels that RC-TPL's reports carry.
Rows of methods that use them are marked: they are not zero-shot.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.encoders.base import Encoder, ImageFeatures
from rctpl_utils.encoders.features import ImageFeatureFile, image_features
from rctpl_utils.errors import InputError
from rctpl_utils.text.triplets import report_labels


class FilmBatch(NamedTuple):
    """B films: features of the frozen encoder, labels (B, L): 1 present, 0 absent, NaN unknown."""

    features: ImageFeatures
    labels: Tensor


@dataclass(frozen=True)
class LabeledFilms:
    """n films as cached features, labels (n, L) as in `FilmBatch`, the L names, films a class."""

    features: ImageFeatureFile
    labels: np.ndarray
    concepts: tuple[str, ...]
    shots: int

    def __len__(self) -> int:
        """Number of films."""
        return len(self.features)

    @property
    def key(self) -> str:
        """A hash of features, labels and names."""
        digest = hashlib.sha256(repr((self.concepts, self.shots)).encode())
        for array in (self.features.global_features, self.features.dense_features, self.labels):
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()

    def batch(self, rows: np.ndarray, device: torch.device) -> FilmBatch:
        """Gather the named films."""
        labels = torch.from_numpy(self.labels[rows].astype(np.float32)).to(device)
        return FilmBatch(self.features.batch(rows, device), labels)


class Draw(NamedTuple):
    """Rows of films that were drawn, ascending, each once, and by name how many for each class."""

    rows: np.ndarray
    drawn: Mapping[str, int]


def film_labels(
    dataset: ChestXrayDataset, triplets: pd.DataFrame, concepts: Sequence[str]
) -> np.ndarray:
    """The labels of MIMIC-CXR films from their reports' triplets: (n, L) float32, NaN uncertain.

    `dataset` has a column `study`, the report's identifier; `triplets` are those of all reports.
    """
    studies = dataset.records["study"]
    by_report = report_labels(triplets, list(studies.unique()), concepts)
    return by_report.loc[studies].to_numpy(np.float32)


def draw_films(labels: np.ndarray, concepts: Sequence[str], shots: int, seed: int) -> Draw:
    """Draw films for each class among those that show it; where there are fewer, all of them.

    A film that shows several classes may be drawn for each, so that there are at most shots x L.
    Draws nest: those of few shots are among those of more, with the same seed; a class's draw does
    not depend on the other classes. An `InputError` tells of no shot, or of no film with a class.
    """
    if shots < 1:
        raise InputError(f"{shots} labeled films a class", "Ask for one at least.")
    rows, drawn = [], {}
    for column, concept in enumerate(concepts):
        positive = np.flatnonzero(labels[:, column] == 1)
        generator = np.random.default_rng([seed, *concept.encode()])
        rows.append(generator.permutation(positive)[:shots])
        drawn[concept] = len(rows[-1])
    if not any(drawn.values()):
        raise InputError(
            f"no film shows any of {', '.join(concepts)}", "Use a training set with labels."
        )
    return Draw(np.unique(np.concatenate(rows)), drawn)


def draw_table(draws: Mapping[tuple[int, int], Draw]) -> pd.DataFrame:
    """What was drawn, by (shots, seed): shots, seed, concept, drawn."""
    return pd.DataFrame([
        {"shots": shots, "seed": seed, "concept": concept, "drawn": count}
        for (shots, seed), draw in draws.items()
        for concept, count in draw.drawn.items()
    ])  # fmt: skip


def few_shot_films(
    encoder: Encoder,
    dataset: ChestXrayDataset,
    labels: np.ndarray,
    concepts: Sequence[str],
    folder: Path,
    draws: Mapping[int, Draw],
) -> dict[int, LabeledFilms]:
    """Encode the films that were drawn for one seed, once for all numbers of shots.

    `dataset` holds n training films (only drawn ones are opened), `labels` (n, L) are those of
    `film_labels`, `folder` is the feature cache, `draws` and the result are by shots.
    """
    pool = np.unique(np.concatenate([draw.rows for draw in draws.values()]))
    chosen = ChestXrayDataset(
        dataset.name, dataset.split, dataset.concepts, dataset.records.iloc[pool]
    )  # what is not drawn is never encoded
    encoded = image_features(encoder, chosen, folder)
    films = {}
    for shots, draw in draws.items():
        place = np.searchsorted(pool, draw.rows)
        part = ImageFeatureFile(encoded.global_features[place], encoded.dense_features[place])
        films[shots] = LabeledFilms(part, labels[draw.rows], tuple(concepts), shots)
    return films
