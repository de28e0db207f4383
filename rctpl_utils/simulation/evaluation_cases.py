"""Which films each simulated test set holds, before any is drawn.

Which findings occur together, patient by patient, is read from the real tables of ChestX-ray14
(Wang et al. 2017) and CheXpert (Irvin et al. 2019), as torchxrayvision packages them. Identifiers
lie outside the real data sets' ranges, so that no film can be taken for a real one.
"""

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count

import numpy as np
import pandas as pd

from rctpl_utils.datasets.openi import xrv_file
from rctpl_utils.datasets.tables import VALIDATION_SHARE as HASHED_SHARE
from rctpl_utils.datasets.tables import hash_split
from rctpl_utils.profiles import WorldSize
from rctpl_utils.simulation.cases import Case, Lesion, Rng
from rctpl_utils.simulation.sample_lesions import Illustrator
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
    pool: Sequence[Patient], size: int, quota: int, rng: Rng
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


FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")  # of 5x200
OPACITIES = ("Pneumonia", "Consolidation", "Infiltration", "Edema")  # never in RSNA's negatives
QUOTA, QUOTA_SHARE = 40, 1 / 30  # positives of a rare concept: at least so many, or this share
VALIDATION_SHARE = 1 / 3  # of the test set's size
# shares of films; in the real sets RSNA has 0.23, 0.44 and 0.33 (26,684 patients), SIIM-ACR 0.22
# with a pneumothorax (12,047 films), and COVID Rural outlines opacities on all but a few
RSNA_PNEUMONIA, RSNA_OTHER = 0.35, 0.4
SIIM_PNEUMOTHORAX = 0.4
RURAL_VISIBLE = 0.85


@dataclass(frozen=True)
class Casebook:
    """Draws the films of each test set.

    Attributes:
        size: images a set, and the seed; each set has a generator of its own.
        illustrator: places lesions.
    """

    size: WorldSize
    illustrator: Illustrator

    def chestxray14(self) -> list[Case]:
        """Validation and test patients with ChestX-ray14's real label combinations."""
        rng = self._rng(1)
        films, pool, numbers = [], chestxray14_patients(), count(90001)
        for split, images in _split_sizes(self.size.chestxray14):
            drawn, pool = draw_patients(pool, images, _quota(images), rng)
            for patient in drawn:
                number = next(numbers)
                names = [f"{number:08d}_{k:03d}.png" for k in range(len(patient))]
                films += self._films(zip(names, patient, strict=True), f"{number}", split, rng)
        return self._cases(films, "chestxray14", rng)

    def chexpert(self) -> list[Case]:
        """`valid.csv` (test), then in `train.csv` the 5x200 films and the validation patients."""
        rng = self._rng(2)
        numbers, pool = count(70001), chexpert_patients()
        five, pool = _five_by_class(pool, self.size.chexpert_5x200, rng)
        groups: list[tuple[str, str, list[Patient]]] = [("train", "test", five)]
        for split, images in reversed(_split_sizes(self.size.chexpert)):
            drawn, pool = draw_patients(pool, images, _quota(images), rng)
            groups.append(("valid" if split == "test" else "train", split, drawn))
        films = []
        for folder, split, patients in groups:
            for patient in patients:
                name = f"patient{next(numbers)}"
                paths = [
                    f"CheXpert-v1.0-small/{folder}/{name}/study{k}/view1_frontal.jpg"
                    for k in range(1, len(patient) + 1)
                ]
                films += self._films(zip(paths, patient, strict=True), name, split, rng)
        return self._cases(films, "chexpert", rng)

    def covidx(self) -> list[Case]:
        """A third each of normal films, pneumonia and COVID-19, one film a patient."""
        rng = self._rng(3)
        kinds: tuple[Labels, ...] = (frozenset(), frozenset({"Pneumonia"}), frozenset({"COVID-19"}))
        films, numbers = [], count(1)
        for split, images in _split_sizes(self.size.covidx):
            for k in rng.permutation(images):
                name = f"sim-{next(numbers):05d}"
                lesions = self.illustrator.lesions(kinds[k % 3], split, rng)
                films.append(Film(f"{name}.png", name, lesions + self._devices(rng), split))
        return self._cases(films, "covidx", rng)

    def rsna(self) -> list[Case]:
        """Pneumonia with one box or more, other findings, or normal; one film a patient."""
        rng = self._rng(4)
        others = [s for s in _label_sets(chestxray14_patients()) if s and not s & set(OPACITIES)]
        both = RSNA_PNEUMONIA + RSNA_OTHER
        films = []
        for _ in range(_whole(self.size.rsna)):
            name, group = _uuid(rng), rng.random()
            labels = others[rng.integers(len(others))] if group < both else frozenset()
            labels = frozenset({"Pneumonia"}) if group < RSNA_PNEUMONIA else labels
            films += self._films([(name, labels)], name, _hashed(name), rng)
        return self._cases(films, "rsna", rng)

    def siim(self) -> list[Case]:
        """Pneumothorax with its real companions, or any film without one; one film a patient."""
        rng = self._rng(5)
        sets = _label_sets(chestxray14_patients())
        pools = [[s for s in sets if ("Pneumothorax" in s) == wanted] for wanted in (True, False)]
        films = []
        for number in range(1, _whole(self.size.siim) + 1):
            name = f"1.2.826.0.1.3680043.8.498.{self.size.seed}.{number}"
            pool = pools[0] if rng.random() < SIIM_PNEUMOTHORAX else pools[1]
            labels = pool[rng.integers(len(pool))]
            films += self._films([(name, labels)], name, _hashed(name), rng)
        return self._cases(films, "siim", rng)

    def covid_rural(self) -> list[Case]:
        """COVID-19, on a few films with nothing of it to be seen; one film a patient."""
        rng = self._rng(6)
        films = []
        for number in range(1, _whole(self.size.covid_rural) + 1):
            name = f"SIM-COVID-{number:05d}"
            labels = frozenset({"COVID-19"}) if rng.random() < RURAL_VISIBLE else frozenset()
            lesions = self.illustrator.lesions(labels, _hashed(name), rng) + self._devices(rng)
            films.append(Film(name, name, lesions, _hashed(name)))
        return self._cases(films, "covid-rural", rng)

    def _films(
        self, images: Iterable[tuple[str, Labels]], patient: str, split: str, rng: Rng
    ) -> Iterator["Film"]:
        for name, labels in images:
            lesions = self.illustrator.lesions(drawn_kinds(labels), split, rng)
            yield Film(name, patient, lesions, split)

    def _devices(self, rng: Rng) -> tuple[Lesion, ...]:
        """A device in one film of eight, whatever its class, so that it tells nothing of it."""
        if rng.random() >= 0.125:
            return ()
        return self.illustrator.lesions(["Support Devices"], "test", rng)

    def _cases(self, films: Iterable["Film"], style: str, rng: Rng) -> list[Case]:
        return [
            Case(f.image_id, f.patient_id, f.lesions, f.split, style, int(rng.integers(2**31)))
            for f in films
        ]

    def _rng(self, stream: int) -> Rng:
        return np.random.default_rng([self.size.seed, stream])


@dataclass(frozen=True)
class Film:
    """A case without its style and seed."""

    image_id: str
    patient_id: str
    lesions: tuple[Lesion, ...]
    split: str


def _split_sizes(test: int) -> list[tuple[str, int]]:
    return [("test", test), ("validation", round(test * VALIDATION_SHARE))]


def _whole(test: int) -> int:
    """Images of a set that a hash of the patient splits, so that about `test` are test images."""
    return round(test / (1 - HASHED_SHARE))


def _hashed(patient: str) -> str:
    return str(hash_split([patient])[0])


def _quota(images: int) -> int:
    return max(1, min(QUOTA, round(images * QUOTA_SHARE)))


def _label_sets(patients: Iterable[Patient]) -> list[Labels]:
    return [labels for patient in patients for labels in patient]


def _five_by_class(
    pool: Sequence[Patient], a_class: int, rng: Rng
) -> tuple[list[Patient], list[Patient]]:
    """Single films with exactly one of the five (Huang et al. 2021, GLoRIA), and the rest."""
    missing = dict.fromkeys(FIVE, a_class)
    chosen: dict[int, Patient] = {}
    for i in (int(k) for k in rng.permutation(len(pool))):
        hit = pool[i][0] & set(FIVE)
        concept = next(iter(hit)) if len(hit) == 1 else None
        if concept and missing[concept]:
            missing[concept] -= 1
            chosen[i] = pool[i][:1]
        if not any(missing.values()):
            break
    return list(chosen.values()), [p for i, p in enumerate(pool) if i not in chosen]


def _uuid(rng: Rng) -> str:
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))
