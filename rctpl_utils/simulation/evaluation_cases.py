"""Which films each simulated test set holds, before any is drawn.

Which findings occur together, patient by patient, is read from the real tables of ChestX-ray14
(Wang et al. 2017) and CheXpert (Irvin et al. 2019) in torchxrayvision. Identifiers lie outside the
real data sets' ranges, so that no film can be taken for a real one.
"""

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import count

import numpy as np
import pandas as pd

from rctpl_utils.datasets.openi import xrv_file
from rctpl_utils.profiles import WorldSize
from rctpl_utils.simulation.cases import Case, Rng, draw_lesions, split_of
from rctpl_utils.vocabulary import CHEXPERT_CONCEPTS, with_parents

Labels = frozenset[str]  # the positive concepts of one image; empty: no finding
Patient = tuple[Labels, ...]  # the images of one patient, in the table's order
Film = tuple[str, str, Labels, str]  # image, patient, what it shows, split

MAX_IMAGES = 3  # of one patient: a few patients of ChestX-ray14 have more than a hundred
FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")  # of 5x200
OPACITIES = ("Pneumonia", "Consolidation", "Infiltration", "Edema")  # never in RSNA's negatives
QUOTA, QUOTA_SHARE = 40, 1 / 30  # positives of a rare concept: at least so many, or this share
VALIDATION_SHARE = 1 / 3  # of the test set's size
HASHED = {"validation": 0.2, "test": 0.8}  # sets without official splits, as the loaders split them
# shares of films; in the real sets RSNA has 0.23, 0.44 and 0.33 (26,684 patients), SIIM-ACR 0.22
# with a pneumothorax (12,047 films), and COVID Rural outlines opacities on all but a few
RSNA_PNEUMONIA, RSNA_OTHER = 0.35, 0.4
SIIM_PNEUMOTHORAX = 0.4
RURAL_VISIBLE = 0.85
# A device in one film of eight of these, whatever its class, so that it tells nothing of it.
WITH_DEVICES, DEVICES = ("covidx", "covid-rural"), 0.125
_CHESTXRAY14_NAMES = {"Effusion": "Pleural Effusion", "Pleural_Thickening": "Pleural Thickening"}


def cases_of(name: str, size: WorldSize) -> list[Case]:
    """The films of a test set and its validation split; each set has a generator of its own."""
    rng = np.random.default_rng([size.seed, 1 + list(SETS).index(name)])
    cases = []
    for image, patient, labels, split in SETS[name](size, rng):
        lesions = draw_lesions(drawn_kinds(labels), split, rng)
        if name in WITH_DEVICES and rng.random() < DEVICES:
            lesions += draw_lesions(["Support Devices"], "test", rng)
        cases.append(Case(image, patient, lesions, split, name, 0))
    return [replace(case, seed=int(rng.integers(2**31))) for case in cases]


@cache
def chestxray14_patients() -> tuple[Patient, ...]:
    """The label sets of ChestX-ray14's 30,805 patients, at most `MAX_IMAGES` each (read once)."""
    columns = ["Finding Labels", "Patient ID"]
    table = pd.read_csv(xrv_file("Data_Entry_2017_v2020.csv.gz"), usecols=columns)
    sets = {
        text: frozenset(_CHESTXRAY14_NAMES.get(n, n) for n in text.split("|") if n != "No Finding")
        for text in table["Finding Labels"].unique()
    }
    return _by_patient(table["Patient ID"], table["Finding Labels"].map(sets))


@cache
def chexpert_patients() -> tuple[Patient, ...]:
    """The positives (1) of CheXpert's 64,534 training patients with frontal views (read once)."""
    columns = ["Path", "Frontal/Lateral", *CHEXPERT_CONCEPTS]
    table = pd.read_csv(xrv_file("chexpert_train.csv.gz"), usecols=columns)
    table = table[table["Frontal/Lateral"] == "Frontal"]
    positive = table[list(CHEXPERT_CONCEPTS)].to_numpy() == 1
    codes = positive @ (1 << np.arange(len(CHEXPERT_CONCEPTS)))
    sets = {
        code: with_parents(c for bit, c in enumerate(CHEXPERT_CONCEPTS) if code >> bit & 1)
        for code in np.unique(codes)
    }
    return _by_patient(table["Path"].str.split("/").str[2], [sets[code] for code in codes])


def drawn_kinds(labels: Iterable[str]) -> Labels:
    """The concepts to draw: those that no other label of the set implies.

    "Lung Opacity" beside "Pneumonia" is the same lesion named twice; alone, it is drawn.
    """
    labels = frozenset(labels)
    implied = {ancestor for label in labels for ancestor in with_parents([label]) - {label}}
    return labels - implied


def draw_patients(
    pool: Sequence[Patient], size: int, rng: Rng, quota: int | None = None
) -> tuple[list[Patient], list[Patient]]:
    """Draw patients of `size` images in all, after `quota` positives of each concept, rarest first.

    The rest keeps its prevalence, the last patient is cut short. Returns drawn (shuffled), others.
    """
    quota = quota or max(1, min(QUOTA, round(size * QUOTA_SHARE)))
    order = rng.permutation(len(pool)).tolist()
    frequency = Counter(concept for patient in pool for labels in patient for concept in labels)
    first: dict[int, None] = {}
    counts: Counter[str] = Counter()
    for concept, _ in reversed(frequency.most_common()):
        for i in order:
            if counts[concept] >= quota:
                break
            if i not in first and any(concept in labels for labels in pool[i]):
                first[i] = None
                counts.update(each for labels in pool[i] for each in labels)
    drawn: dict[int, Patient] = {}
    for i in dict.fromkeys([*first, *order]):
        if size <= 0:
            break
        drawn[i] = pool[i][:size]
        size -= len(drawn[i])
    rest = [pool[i] for i in order if i not in drawn]
    patients = list(drawn.values())
    return [patients[i] for i in rng.permutation(len(patients))], rest


def _chestxray14(size: WorldSize, rng: Rng) -> Iterator[Film]:
    """Validation and test patients with ChestX-ray14's real label combinations."""
    pool, numbers = chestxray14_patients(), count(90001)
    for split, images in _split_sizes(size.chestxray14):
        drawn, pool = draw_patients(pool, images, rng)
        for patient in drawn:
            number = next(numbers)
            for k, labels in enumerate(patient):
                yield f"{number:08d}_{k:03d}.png", f"{number}", labels, split


def _chexpert(size: WorldSize, rng: Rng) -> Iterator[Film]:
    """`valid.csv` (test), then in `train.csv` the 5x200 films and the validation patients.

    The former are single films with exactly one of the five (Huang et al. 2021, GLoRIA).
    """
    numbers, pool = count(70001), chexpert_patients()
    missing, five = dict.fromkeys(FIVE, size.chexpert_5x200), {}
    for i in rng.permutation(len(pool)).tolist():
        hit = pool[i][0] & set(FIVE)
        if len(hit) == 1 and missing[next(iter(hit))]:
            missing[next(iter(hit))] -= 1
            five[i] = pool[i][:1]
        if not any(missing.values()):
            break
    pool = [patient for i, patient in enumerate(pool) if i not in five]
    groups = [("train", "test", five.values())]
    for split, images in reversed(_split_sizes(size.chexpert)):
        drawn, pool = draw_patients(pool, images, rng)
        groups.append(("valid" if split == "test" else "train", split, drawn))
    for folder, split, patients in groups:
        for patient in patients:
            name = f"patient{next(numbers)}"
            for k, labels in enumerate(patient, 1):
                path = f"CheXpert-v1.0-small/{folder}/{name}/study{k}/view1_frontal.jpg"
                yield path, name, labels, split


def _covidx(size: WorldSize, rng: Rng) -> Iterator[Film]:
    """A third each of normal films, pneumonia and COVID-19, one film a patient."""
    kinds = (frozenset(), frozenset({"Pneumonia"}), frozenset({"COVID-19"}))
    numbers = count(1)
    for split, images in _split_sizes(size.covidx):
        for k in rng.permutation(images):
            name = f"sim-{next(numbers):05d}"
            yield f"{name}.png", name, kinds[k % 3], split


def _rsna(size: WorldSize, rng: Rng) -> Iterator[Film]:
    """Pneumonia with one box or more, other findings, or normal; one film a patient."""
    others = [s for s in _label_sets() if s and not s & set(OPACITIES)]
    for _ in range(_whole(size.rsna)):
        name, group = str(uuid.UUID(bytes=rng.bytes(16), version=4)), rng.random()
        sick = group < RSNA_PNEUMONIA + RSNA_OTHER
        labels = others[rng.integers(len(others))] if sick else frozenset()
        labels = frozenset({"Pneumonia"}) if group < RSNA_PNEUMONIA else labels
        yield name, name, labels, split_of(name, HASHED)


def _siim(size: WorldSize, rng: Rng) -> Iterator[Film]:
    """Pneumothorax with its real companions, or any film without one; one film a patient."""
    sets = _label_sets()
    pools = [[s for s in sets if ("Pneumothorax" in s) == wanted] for wanted in (True, False)]
    for number in range(1, _whole(size.siim) + 1):
        name = f"1.2.826.0.1.3680043.8.498.{size.seed}.{number}"
        pool = pools[0] if rng.random() < SIIM_PNEUMOTHORAX else pools[1]
        yield name, name, pool[rng.integers(len(pool))], split_of(name, HASHED)


def _covid_rural(size: WorldSize, rng: Rng) -> Iterator[Film]:
    """COVID-19, on a few films with nothing of it to be seen; one film a patient."""
    for number in range(1, _whole(size.covid_rural) + 1):
        name = f"SIM-COVID-{number:05d}"
        labels = frozenset({"COVID-19"}) if rng.random() < RURAL_VISIBLE else frozenset()
        yield name, name, labels, split_of(name, HASHED)


def _split_sizes(test: int) -> list[tuple[str, int]]:
    return [("test", test), ("validation", round(test * VALIDATION_SHARE))]


def _whole(test: int) -> int:
    """Images of a set that a hash of the patient splits, so that about `test` are test images."""
    return round(test / HASHED["test"])


def _label_sets() -> list[Labels]:
    return [labels for patient in chestxray14_patients() for labels in patient]


def _by_patient(patients: Iterable[str], sets: Iterable[Labels]) -> tuple[Patient, ...]:
    grouped: dict[str, list[Labels]] = {}
    for patient, labels in zip(patients, sets, strict=True):
        images = grouped.setdefault(patient, [])
        if len(images) < MAX_IMAGES:
            images.append(labels)
    return tuple(tuple(images) for images in grouped.values())


SETS = {  # their order numbers their random streams
    "chestxray14": _chestxray14, "chexpert": _chexpert, "covidx": _covidx, "rsna": _rsna,
    "siim": _siim, "covid-rural": _covid_rural,
}  # fmt: skip
