"""The films of a split with boxes, and which boxes and maps are compared (paper 4.3.3)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.errors import InputError


class Case(NamedTuple):
    """A box, and another map to look for it in: positions of films and of concepts."""

    film: int
    concept: int
    other_film: int
    other_concept: int


@dataclass(frozen=True)
class Boxed:
    """The films of a split that have boxes: `rows` in it by image identifier, (n,); the L
    `concepts` with boxes; `drawn`, which film has boxes of which concept, bool (n, L).
    """

    dataset: ChestXrayDataset
    rows: np.ndarray
    concepts: tuple[str, ...]
    drawn: np.ndarray

    @classmethod
    def of(cls, dataset: ChestXrayDataset) -> "Boxed":
        """Collect them; InputError: no film has a box."""
        if not dataset.has_masks:
            raise InputError(f"no film of {dataset.name!r} has a box", "Add its table of boxes.")
        drawn = np.stack([dataset.annotated(concept) for concept in dataset.concepts], axis=1)
        order = np.argsort(dataset.records["image_id"].to_numpy(str), kind="stable")
        rows = order[drawn[order].any(axis=1)]
        kept = np.flatnonzero(drawn.any(axis=0))
        return cls(
            dataset, rows, tuple(dataset.concepts[k] for k in kept), drawn[np.ix_(rows, kept)]
        )

    @property
    def patients(self) -> pd.Series:
        """The films' patients."""
        return self.dataset.records["patient_id"].iloc[self.rows].reset_index(drop=True)

    def mask(self, film: int, concept: int) -> np.ndarray:
        """The boxes of one film and concept, by position: bool (H, W)."""
        return self.dataset.mask(int(self.rows[film]), self.concepts[concept])


def concept_pairs(drawn: np.ndarray) -> list[Case]:
    """Every ordered pair of concepts with boxes on one film; `drawn` is bool (n, L)."""
    return [
        Case(film, concept, film, other)
        for film, line in enumerate(drawn)
        for concept in np.flatnonzero(line)
        for other in np.flatnonzero(line)
        if concept != other
    ]


def film_pairs(drawn: np.ndarray, patients: pd.Series) -> list[Case]:
    """Every box with the next film, in order and cyclic, that shows it in another patient."""
    codes, cases = pd.factorize(patients)[0], []
    for concept, column in enumerate(drawn.T):
        films = np.flatnonzero(column)
        for place, film in enumerate(films):
            following = np.roll(films, -place - 1)
            others = following[codes[following] != codes[film]]
            cases += [Case(film, concept, other, concept) for other in others[:1]]
    return cases
