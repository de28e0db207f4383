"""Which films the world holds, before any is drawn.

Of a test set, which findings occur together, patient by patient, is read from the real tables of
ChestX-ray14 (Wang et al. 2017) and CheXpert (Irvin et al. 2019). A training film shows what a real
Open-I report says, after its human MeSH codes; each report is one patient's. Templated reports, our
own sentences, marked wherever they count, fill up rare concepts. Identifiers lie outside the real
data sets' ranges.
"""

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count

import numpy as np
import pandas as pd

from rctpl_utils.datasets.openi import MeshFinding, OpenIReport, mesh_findings, xrv_file
from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.profiles import WorldSize
from rctpl_utils.simulation.cases import (
    LEVELS,
    Case,
    Rng,
    draw_lesions,
    draw_sites,
    openi_reports,
    reported_lesions,
    split_of,
    unit_hash,
    why_left_out,
)
from rctpl_utils.vocabulary import (
    CHEXPERT_CONCEPTS,
    TRAINING_CONCEPTS,
    UNSEEN_CONCEPTS,
    with_parents,
)
from rctpl_utils.workspace import PACKAGE_DATA

Labels = frozenset[str]  # the positive concepts of one image; empty: no finding
Patient = tuple[Labels, ...]  # the images of one patient, in the table's order
Planned = tuple[str, str, Labels, str]  # a film: image, patient, what it shows, split

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
# what the world's manifest says of itself
_NUMBERS = {"quota": QUOTA, "share": QUOTA_SHARE, "rsna": RSNA_PNEUMONIA, "siim": SIIM_PNEUMOTHORAX}
_STATED = read_json(PACKAGE_DATA / "sources.json")["statements"]
STATEMENTS = {about: text.format(**_NUMBERS) for about, text in _STATED.items()}
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
    """The concepts to draw: not those that another implies, as Pneumonia does Lung Opacity."""
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


def _chestxray14(size: WorldSize, rng: Rng) -> Iterator[Planned]:
    """Validation and test patients with ChestX-ray14's real label combinations."""
    pool, numbers = chestxray14_patients(), count(90001)
    for split, images in _split_sizes(size.chestxray14):
        drawn, pool = draw_patients(pool, images, rng)
        for patient in drawn:
            number = next(numbers)
            for k, labels in enumerate(patient):
                yield f"{number:08d}_{k:03d}.png", f"{number}", labels, split


def _chexpert(size: WorldSize, rng: Rng) -> Iterator[Planned]:
    """`valid.csv` (test), then in `train.csv` the 5x200 films and the validation patients."""
    numbers, pool = count(70001), chexpert_patients()
    # single films with exactly one of the five (Huang et al. 2021, GLoRIA)
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


def _covidx(size: WorldSize, rng: Rng) -> Iterator[Planned]:
    """A third each of normal films, pneumonia and COVID-19, one film a patient."""
    kinds = (frozenset(), frozenset({"Pneumonia"}), frozenset({"COVID-19"}))
    numbers = count(1)
    for split, images in _split_sizes(size.covidx):
        for k in rng.permutation(images):
            name = f"sim-{next(numbers):05d}"
            yield f"{name}.png", name, kinds[k % 3], split


def _rsna(size: WorldSize, rng: Rng) -> Iterator[Planned]:
    """Pneumonia with one box or more, other findings, or normal; one film a patient."""
    others = [s for s in _label_sets() if s and not s & set(OPACITIES)]
    for _ in range(_whole(size.rsna)):
        name, group = str(uuid.UUID(bytes=rng.bytes(16), version=4)), rng.random()
        sick = group < RSNA_PNEUMONIA + RSNA_OTHER
        labels = others[rng.integers(len(others))] if sick else frozenset()
        labels = frozenset({"Pneumonia"}) if group < RSNA_PNEUMONIA else labels
        yield name, name, labels, split_of(name, HASHED)


def _siim(size: WorldSize, rng: Rng) -> Iterator[Planned]:
    """Pneumothorax with its real companions, or any film without one; one film a patient."""
    sets = _label_sets()
    pools = [[s for s in sets if ("Pneumothorax" in s) == wanted] for wanted in (True, False)]
    for number in range(1, _whole(size.siim) + 1):
        name = f"1.2.826.0.1.3680043.8.498.{size.seed}.{number}"
        pool = pools[0] if rng.random() < SIIM_PNEUMOTHORAX else pools[1]
        yield name, name, pool[rng.integers(len(pool))], split_of(name, HASHED)


def _covid_rural(size: WorldSize, rng: Rng) -> Iterator[Planned]:
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


_PHRASES = read_json(PACKAGE_DATA / "report_phrases.json")
UNGRADED = ("Fracture", "Support Devices")
SIZED = ("Hernia", "Lung Lesion", "Mass", "Nodule", "Pleural Effusion", "Pneumothorax")
UNPLACED = ("Cardiomegaly", "Enlarged Cardiomediastinum", "Hernia", "Support Devices")
PLEURAL = ("Pleural Effusion", "Pleural Other", "Pleural Thickening", "Pneumothorax")


def write_report(findings: Sequence[MeshFinding], rng: Rng) -> tuple[str, str]:
    """Findings and impression that state `findings`, the main one first, and deny a few others."""
    stated = [_choose(_PHRASES["present"], rng).format(finding=phrase(f, rng)) for f in findings]
    present = with_parents(f.concept for f in findings)
    deniable = [text for text, names in _PHRASES["absent"].items() if not present & set(names)]
    denied = [str(text) for text in rng.permutation(deniable)[: rng.integers(1, 4)]]
    body = stated + denied if rng.random() < 0.5 else denied + stated
    ends = [
        _choose(_PHRASES["concluded"], rng).format(finding=phrase(f, rng)) for f in findings[:2]
    ]
    findings, impression = (" ".join(s[0].upper() + s[1:] for s in part) for part in (body, ends))
    return findings, impression


def phrase(finding: MeshFinding, rng: Rng) -> str:
    """One finding as a noun phrase: "a small nodule in the left upper lobe"."""
    noun, grade = _choose(_PHRASES["nouns"][finding.concept], rng), finding.severity
    if grade:
        article, space, rest = noun.partition(" ")
        noun = f"a {grade} {rest}" if space and article in ("a", "an") else f"{grade} {noun}"
    if finding.concept in UNPLACED:
        return noun
    lobes = finding.concept not in PLEURAL
    return f"{noun} {place_phrase(finding.side, finding.zone, rng, lobes=lobes)}".rstrip()


def place_phrase(side: str | None, zone: str | None, rng: Rng, *, lobes: bool = True) -> str:
    """A place after a noun: "in the right upper lobe" (or zone, without `lobes`); "" for none."""
    if zone not in _PHRASES["zones"]:
        known = {"left": "on the left", "right": "on the right", "bilateral": "in both lungs"}
        return known.get(side or "", "")
    name = _choose([n for n in _PHRASES["zones"][zone] if lobes or not n.endswith("lobe")], rng)
    if side == "bilateral":
        plural = {"lung apex": "lung apices"}.get(name, f"{name}s")
        return f"in both {plural}"
    return f"in the {side} {name}" if side else f"in the {name}"


def _choose(options: Sequence[str], rng: Rng) -> str:
    return options[rng.integers(len(options))]


# training reports of a concept in a world of all reports; with fewer, templates fill up
ENOUGH = 80
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
_MOST_LESIONS = 8


@dataclass(frozen=True)
class Study:
    """One report and what it says is present."""

    patient_id: str  # "pNNNNNNNN"
    split: str
    report: OpenIReport  # its `uid` is "templated" where we wrote the text
    reported: tuple[MeshFinding, ...]  # to draw; without their codes

    @property
    def study_id(self) -> str:
        """ "sNNNNNNNN", with the patient's number: each has one."""
        return f"s{self.patient_id[1:]}"

    @property
    def templated(self) -> bool:
        """Whether we wrote the text."""
        return self.report.uid == "templated"

    @property
    def concepts(self) -> Labels:
        """What is present, with parents."""
        return with_parents(finding.concept for finding in self.reported)


def training_films(size: WorldSize) -> list[tuple[Study, Case]]:
    """The films of the training studies, real and templated.

    A study without findings has one film; the others share the rest evenly: independent takes of a
    report, whose lesions, pose and exposure are drawn anew within it.
    """
    rng, everything = np.random.default_rng([size.seed, 0]), real_studies(openi_reports())
    share = min(1.0, size.studies / len(everything))  # with and without findings as among all
    parts = [[s for s in everything if bool(s.reported) == wanted] for wanted in (True, False)]
    studies = [s for part in parts for s in part[: round(share * len(part))]]
    enough = max(2, round(ENOUGH * len(studies) / len(everything)))
    studies += _templated_studies(studies, enough, rng)
    found = sum(1 for study in studies if study.reported)
    clear = len(studies) - found
    total, films, seen = max(size.pretraining - clear, found), [], 0
    for study in studies:
        takes = 1
        if study.reported:
            takes = (seen + 1) * total // found - seen * total // found
            seen += 1
        for _ in range(takes):
            raw = rng.bytes(20).hex()
            name = "-".join(raw[i : i + 8] for i in range(0, 40, 8))
            lesions = reported_lesions(study.reported, study.split, rng)
            seed = int(rng.integers(2**31))
            case = Case(name, study.patient_id, lesions, study.split, "mimic-cxr", seed)
            films.append((study, case))
    return films


def real_studies(reports: Iterable[OpenIReport]) -> list[Study]:
    """The reports that can be drawn, by a hash of their names; none of an unseen concept."""
    studies = []
    for report in reports:
        if why_left_out(report) is not None:
            continue
        found = merged(replace(f, code="") for f in mesh_findings(report))
        text = f"{report.findings} {report.impression}".lower()
        if any(f.concept in UNSEEN_CONCEPTS for f in found) or "covid" in text:
            problem = "a training report names a concept that must stay unseen"
            raise InputError(problem, "Leave this report out.", row=report.uid)
        patient = f"p{90_000_000 + int(''.join(filter(str.isdigit, report.uid)))}"
        studies.append(Study(patient, split_of(patient, SHARES), report, found))
    return sorted(studies, key=lambda study: unit_hash(f"order {study.patient_id}"))


def merged(findings: Iterable[MeshFinding]) -> tuple[MeshFinding, ...]:
    """One finding a lesion: codes often name the same thing twice.

    Dropped are repetitions, a concept without place beside the same with one, and one that a more
    specific one at a compatible place implies ("opacity", "atelectasis", both at the left base).
    """
    unique = list(dict.fromkeys(findings))
    kept = [f for f in unique if not any(_covers(other, f) for other in unique if other != f)]
    seen: dict[tuple, MeshFinding] = {}
    for finding in kept:
        seen.setdefault((finding.concept, finding.side, finding.zone), finding)
    return tuple(seen.values())[:_MOST_LESIONS]


def _covers(other: MeshFinding, finding: MeshFinding) -> bool:
    if other.concept == finding.concept:
        return (finding.side, finding.zone) == (None, None) != (other.side, other.zone)
    if finding.concept not in with_parents([other.concept]):
        return False
    levels = (LEVELS.get(f.zone or "", f.zone) for f in (other, finding))
    return all(len({*pair} - {None}) < 2 for pair in (levels, (other.side, finding.side)))


def _templated_studies(studies: Sequence[Study], enough: int, rng: Rng) -> list[Study]:
    """Reports for each concept that fewer than `enough` training `studies` hold.

    One in nine is for validation; the test split has real reports only. Accompanying findings are
    drawn from the real label sets of ChestX-ray14.
    """
    companions = [labels for patient in chestxray14_patients() for labels in patient if labels]
    counts = Counter(c for study in studies if study.split == "train" for c in study.concepts)
    made: list[Study] = []
    for concept in sorted(TRAINING_CONCEPTS, key=lambda c: counts[c]):
        sets = [labels for labels in companions if concept in labels]
        while counts[concept] < enough:
            concepts = [concept]
            if sets and rng.random() < 0.4:
                others = sets[rng.integers(len(sets))]
                concepts += sorted(others - with_parents([concept]))[:2]
            found = tuple(_templated_finding(c, rng) for c in concepts)
            split = "validation" if len(made) % 9 == 8 else "train"
            texts = (*write_report(found, rng), "Simulated study.", "None.")
            report = OpenIReport("templated", *texts, mesh=())
            study = Study(f"p{99_000_000 + len(made)}", split, report, found)
            made.append(study)
            if split == "train":
                counts.update(study.concepts)
    return made


def _templated_finding(concept: str, rng: Rng) -> MeshFinding:
    site = draw_sites(concept, "train", rng, coded=concept not in UNPLACED)[0]
    words = ("small", "large") if concept in SIZED else ("mild", "moderate", "severe")
    ungraded = concept in UNGRADED or rng.random() < 0.45
    severity = None if ungraded else words[rng.integers(len(words))]
    return MeshFinding(concept, site.side, site.zone, severity, "")
