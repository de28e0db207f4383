"""What a column of Table 1 asks of a data set's films (paper 4.2.1).

Most columns ask a set's own classes. COVID-19 is asked twice, against one other kind of film each:
the share that a softmax over three names gives it was highest on *normal* films, since "pneumonia"
is near to both diseased kinds and "no finding" to none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from rctpl_utils.datasets import ChestXrayDataset

COVID, PNEUMONIA = "COVID-19", "Pneumonia"


@dataclass(frozen=True)
class Question:
    """A column: whose films, and what counts as right.

    `against` is None for the set's own classes; else the films that COVID-19's are told from,
    "normal" (those with neither label) or "pneumonia" (of another cause). Films of the third kind
    are left out.
    """

    dataset: str
    against: str | None = None

    def asked(self, dataset: ChestXrayDataset) -> tuple[str, ...]:
        """The classes put to a model; COVID-19's rival in both of its columns, asked once."""
        return dataset.concepts if self.against is None else (COVID, PNEUMONIA)

    def shown(self, dataset: ChestXrayDataset) -> tuple[str, ...]:
        """The classes that are evaluated."""
        return dataset.concepts if self.against is None else (COVID,)

    def can_ask(self, dataset: ChestXrayDataset) -> bool:
        """Whether the set's labels tell the kinds of film apart."""
        return self.against != "pneumonia" or PNEUMONIA in dataset.concepts

    def labels(self, dataset: ChestXrayDataset) -> np.ndarray:
        """1, 0 or NaN (left out): (n, classes shown)."""
        labels = np.array(dataset.records[list(self.shown(dataset))], float)
        if self.against is not None and PNEUMONIA in dataset.concepts:
            pneumonia = dataset.records[PNEUMONIA].to_numpy() == 1
            other = pneumonia if self.against == "normal" else ~pneumonia
            labels[other & (labels[:, 0] == 0)] = np.nan
        return labels

    def scores(self, scores: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        """What a model's scores (n, classes asked) say of the classes shown: (n, classes shown).

        COVID-19 against normal films: its own score. Against pneumonia: the difference of the two
        scores, each standardized on validation films (`held_out`), whose labels are not read.
        """
        if self.against != "pneumonia":
            return scores if self.against is None else scores[:, :1]
        spread = held_out.std(axis=0)
        standard = (scores - held_out.mean(axis=0)) / np.where(spread > 0, spread, 1)
        return standard[:, :1] - standard[:, 1:]


QUESTIONS: Mapping[str, Question] = MappingProxyType({
    "chestxray14": Question("chestxray14"),
    "chexpert": Question("chexpert"),
    "covidx-normal": Question("covidx", "normal"),
    "covidx-pneumonia": Question("covidx", "pneumonia"),
    "rsna": Question("rsna"),
})  # fmt: skip
