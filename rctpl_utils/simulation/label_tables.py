"""Label combinations of the real data sets: which findings occur together, patient by patient.

Only labels are read (no pixels): ChestX-ray14's `Data_Entry_2017_v2020.csv` (Wang et al. 2017) and
CheXpert's `train.csv` (Irvin et al. 2019), as torchxrayvision packages them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
import pandas as pd

from rctpl_utils.datasets.openi import xrv_file
from rctpl_utils.vocabulary import CHEXPERT_CONCEPTS, with_parents

Labels = frozenset[str]  # the positive concepts of one image; empty: no finding
Patient = tuple[Labels, ...]  # the images of one patient, in the table's order

MAX_IMAGES = 3  # of one patient: a few patients of ChestX-ray14 have more than a hundred
_CHESTXRAY14_NAMES = {"Effusion": "Pleural Effusion", "Pleural_Thickening": "Pleural Thickening"}


@cache
def chestxray14_patients() -> tuple[Patient, ...]:
    """The label sets of ChestX-ray14's 30,805 patients, at most `MAX_IMAGES` each (read once)."""
    table = pd.read_csv(
        xrv_file("Data_Entry_2017_v2020.csv.gz"), usecols=["Finding Labels", "Patient ID"]
    )
    sets = {text: _chestxray14_labels(text) for text in table["Finding Labels"].unique()}
    return _by_patient(table["Patient ID"], table["Finding Labels"].map(sets))


@cache
def chexpert_patients() -> tuple[Patient, ...]:
    """The label sets of CheXpert's 64,534 training patients with frontal views (read once).

    Only positive (1) labels count; uncertain (-1) and blank ones are not drawn.
    """
    columns = ["Path", "Frontal/Lateral", *CHEXPERT_CONCEPTS]
    table = pd.read_csv(xrv_file("chexpert_train.csv.gz"), usecols=columns)
    table = table[table["Frontal/Lateral"] == "Frontal"]
    positive = table[list(CHEXPERT_CONCEPTS)].to_numpy() == 1
    codes = positive @ (1 << np.arange(len(CHEXPERT_CONCEPTS)))
    sets = {code: _decode(code) for code in np.unique(codes)}
    return _by_patient(table["Path"].str.split("/").str[2], [sets[code] for code in codes])


def drawn_kinds(labels: Iterable[str]) -> Labels:
    """The concepts to draw: those that no other label of the set implies.

    "Lung Opacity" beside "Pneumonia" is the same lesion named twice; alone, it is drawn.
    """
    labels = frozenset(labels)
    implied = {ancestor for label in labels for ancestor in with_parents([label]) - {label}}
    return labels - implied


def draw_patients(
    pool: Sequence[Patient], size: int, quota: int, rng: np.random.Generator
) -> tuple[list[Patient], list[Patient]]:
    """Draw patients at random, after enough of each concept, the rarest first.

    Args:
        pool: the real patients.
        size: images wanted in all (the last patient is cut short to meet it).
        quota: positives of each concept that are drawn first; the rest keeps its prevalence.
        rng: the generator.

    Returns:
        The drawn patients, shuffled, and the rest of the pool.
    """
    order = [int(i) for i in rng.permutation(len(pool))]
    frequency = Counter(concept for patient in pool for labels in patient for concept in labels)
    taken: dict[int, None] = {}
    counts: Counter[str] = Counter()

    def take(i: int) -> None:
        taken[i] = None
        counts.update(concept for labels in pool[i] for concept in labels)

    for concept, _ in reversed(frequency.most_common()):
        for i in order:
            if counts[concept] >= quota:
                break
            if i not in taken and any(concept in labels for labels in pool[i]):
                take(i)
    drawn = _fill(pool, list(taken), [i for i in order if i not in taken], size)
    rest = [pool[i] for i in order if i not in drawn]
    patients = list(drawn.values())
    return [patients[i] for i in rng.permutation(len(patients))], rest


def _fill(
    pool: Sequence[Patient], first: list[int], order: list[int], size: int
) -> dict[int, Patient]:
    """Patients until their images number `size`: those of `first`, then those of `order`."""
    drawn: dict[int, Patient] = {}
    missing = size
    for i in [*first, *order]:
        if missing <= 0:
            break
        drawn[i] = pool[i][:missing]
        missing -= len(drawn[i])
    return drawn


def _chestxray14_labels(text: str) -> Labels:
    names = [_CHESTXRAY14_NAMES.get(name, name) for name in text.split("|")]
    return frozenset(name for name in names if name != "No Finding")


def _decode(code: int) -> Labels:
    present = {name for bit, name in enumerate(CHEXPERT_CONCEPTS) if code >> bit & 1}
    return with_parents(present)


def _by_patient(patients: Iterable[str], sets: Iterable[Labels]) -> tuple[Patient, ...]:
    grouped: dict[str, list[Labels]] = {}
    for patient, labels in zip(patients, sets, strict=True):
        images = grouped.setdefault(patient, [])
        if len(images) < MAX_IMAGES:
            images.append(labels)
    return tuple(tuple(images) for images in grouped.values())
