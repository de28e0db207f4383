"""The training world: real Open-I reports as studies, and films that show what they say.

Each report is one patient's (Open-I's DICOM table has one patient identifier a report). What is
drawn comes from its human MeSH codes. Concepts that few training reports hold are filled up with
templated reports, our own sentences, marked wherever they are counted.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from rctpl_utils.datasets.openi import OpenIReport, mesh_findings, openi_archive, read_openi
from rctpl_utils.errors import InputError
from rctpl_utils.profiles import WorldSize
from rctpl_utils.simulation.cases import Case, Rng, split_of, unit_hash
from rctpl_utils.simulation.evaluation_cases import Labels, chestxray14_patients
from rctpl_utils.simulation.sample_lesions import (
    LEVELS,
    MIDLINE,
    LesionSampler,
    Place,
    ReportedFinding,
    annotated_pools,
)
from rctpl_utils.vocabulary import TRAINING_CONCEPTS, UNSEEN_CONCEPTS, with_parents

_NOUNS = {  # with the article where there is one; a grade goes before the noun
    "Atelectasis": ("atelectasis", "subsegmental atelectasis", "atelectatic change"),
    "Cardiomegaly": ("cardiomegaly", "enlargement of the heart"),
    "Consolidation": ("consolidation", "airspace consolidation", "an area of consolidation"),
    "Edema": ("pulmonary edema", "interstitial edema", "edema of the lungs"),
    "Emphysema": ("emphysema", "emphysematous change", "bullous emphysema"),
    "Enlarged Cardiomediastinum": ("widening of the mediastinum", "mediastinal widening"),
    "Fibrosis": ("fibrosis", "pulmonary fibrosis", "fibrotic change"),
    "Fracture": ("a rib fracture", "a fracture of a rib", "a displaced rib fracture"),
    "Hernia": ("a hiatal hernia", "a hiatus hernia", "a sliding hiatal hernia"),
    "Infiltration": ("an infiltrate", "a patchy infiltrate", "a pulmonary infiltrate"),
    "Lung Lesion": ("a lung lesion", "a pulmonary lesion", "a granuloma"),
    "Lung Opacity": ("an opacity", "a hazy opacity", "airspace opacity"),
    "Mass": ("a mass", "a lung mass", "a pulmonary mass", "a lobulated mass"),
    "Nodule": ("a nodule", "a pulmonary nodule", "a round nodule"),
    "Pleural Effusion": ("a pleural effusion", "an effusion", "pleural fluid"),
    "Pleural Other": ("pleural plaque", "pleural calcification", "a calcified pleural plaque"),
    "Pleural Thickening": ("pleural thickening", "thickening of the pleura"),
    "Pneumonia": ("pneumonia", "bronchopneumonia", "an infectious pneumonia"),
    "Pneumothorax": ("a pneumothorax", "a simple pneumothorax"),
    "Support Devices": ("a central venous catheter", "a pacemaker", "an endotracheal tube"),
}
UNGRADED = ("Fracture", "Support Devices")
SIZED = ("Hernia", "Lung Lesion", "Mass", "Nodule", "Pleural Effusion", "Pneumothorax")
UNPLACED = ("Cardiomegaly", "Enlarged Cardiomediastinum", "Hernia", "Support Devices")
PLEURAL = ("Pleural Effusion", "Pleural Other", "Pleural Thickening", "Pneumothorax")
_ZONES = {  # zone -> phrases after a side
    "upper": ("upper lobe", "upper lung zone"), "middle": ("mid lung", "mid lung zone"),
    "lower": ("lower lobe", "lower lung zone"), "base": ("lung base",), "apex": ("lung apex",),
    "hilum": ("hilar region",), "perihilar": ("perihilar region",),
    "retrocardiac": ("retrocardiac region",), "costophrenic": ("costophrenic angle",),
}  # fmt: skip
_PRESENT = (
    "There is {finding}.", "{finding} is seen.", "{finding} is present.",
    "The film shows {finding}.", "Findings include {finding}.",
)  # fmt: skip
_CONCLUDED = ("{finding}.", "Findings consistent with {finding}.", "Appearance of {finding}.")
_ABSENT = (  # the concepts that a sentence denies
    ("No pleural effusion or pneumothorax.", ("Pleural Effusion", "Pneumothorax")),
    ("There is no pneumothorax.", ("Pneumothorax",)),
    ("No pleural effusion.", ("Pleural Effusion",)),
    ("No focal consolidation.", ("Consolidation", "Pneumonia", "Infiltration")),
    ("No evidence of pulmonary edema.", ("Edema",)),
    ("The heart is normal in size.", ("Cardiomegaly", "Enlarged Cardiomediastinum")),
    ("The mediastinal contour is normal.", ("Cardiomegaly", "Enlarged Cardiomediastinum")),
    ("No displaced rib fracture.", ("Fracture",)),
    ("No suspicious nodule or mass.", ("Nodule", "Mass", "Lung Lesion")),
)


def write_report(findings: Sequence[ReportedFinding], rng: Rng) -> tuple[str, str]:
    """Findings and impression that state `findings`, the main one first, and deny a few others."""
    stated = [_choose(_PRESENT, rng).format(finding=phrase(f, rng)) for f in findings]
    present = with_parents(f.concept for f in findings)
    deniable = [text for text, concepts in _ABSENT if not present & set(concepts)]
    denied = [str(text) for text in rng.permutation(deniable)[: rng.integers(1, 4)]]
    body = stated + denied if rng.random() < 0.5 else denied + stated
    concluded = [_choose(_CONCLUDED, rng).format(finding=phrase(f, rng)) for f in findings[:2]]
    return " ".join(map(_capital, body)), " ".join(map(_capital, concluded))


def phrase(finding: ReportedFinding, rng: Rng) -> str:
    """One finding as a noun phrase: "a small nodule in the left upper lobe"."""
    noun = _graded(_choose(_NOUNS[finding.concept], rng), finding.severity)
    if finding.concept in UNPLACED:
        return noun
    place = place_phrase(finding.side, finding.zone, rng, lobes=finding.concept not in PLEURAL)
    return f"{noun} {place}" if place else noun


def place_phrase(side: str | None, zone: str | None, rng: Rng, *, lobes: bool = True) -> str:
    """A place after a noun: "in the right upper lobe", "on the left", "" for none.

    Without `lobes`, a lung zone is named instead: the pleura has no lobes.
    """
    if zone not in _ZONES:
        known = {"left": "on the left", "right": "on the right", "bilateral": "in both lungs"}
        return known.get(side or "", "")
    names = [name for name in _ZONES[zone] if lobes or not name.endswith("lobe")]
    name = _choose(names, rng)
    if side == "bilateral":
        plural = {"lung apex": "lung apices"}.get(name, f"{name}s")
        return f"in both {plural}"
    return f"in the {side} {name}" if side else f"in the {name}"


def _graded(noun: str, grade: str | None) -> str:
    if not grade:
        return noun
    article, space, rest = noun.partition(" ")
    return f"a {grade} {rest}" if space and article in ("a", "an") else f"{grade} {noun}"


def _choose(options: Sequence[str], rng: Rng) -> str:
    return options[rng.integers(len(options))]


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


# training reports of a concept in a world of all reports; with fewer, templates fill up
ENOUGH = 80
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
UNCODED = "No Indexing"  # the coders' mark of a report that they left uncoded
_MOST_LESIONS = 8


@dataclass(frozen=True)
class Study:
    """One report and what it says is present."""

    patient_id: str  # "pNNNNNNNN"
    split: str
    indication: str
    comparison: str
    findings: str
    impression: str
    reported: tuple[ReportedFinding, ...]  # to draw
    source: str  # the Open-I report's identifier, or "templated"

    @property
    def study_id(self) -> str:
        """ "sNNNNNNNN", with the patient's number."""
        return study_id_of(self.patient_id)

    @property
    def templated(self) -> bool:
        """Whether we wrote the text."""
        return self.source == "templated"

    @property
    def concepts(self) -> Labels:
        """What is present, with parents."""
        return with_parents(finding.concept for finding in self.reported)


def study_id_of(patient_id: str) -> str:
    """The one study of a patient: "p90000123" has "s90000123"."""
    return f"s{patient_id[1:]}"


def real_studies(reports: Iterable[OpenIReport]) -> list[Study]:
    """The reports that can be drawn, by a hash of their names; none of an unseen concept."""
    studies = [_real_study(report) for report in reports if why_left_out(report) is None]
    return sorted(studies, key=lambda study: unit_hash(f"order {study.patient_id}"))


def why_left_out(report: OpenIReport) -> str | None:
    """Why a report is no study: what cannot be drawn as it says; None for one that can."""
    if not (report.findings or report.impression):
        return "no findings and no impression"
    if UNCODED in report.mesh:
        return "not coded"
    if any(f.concept == "Fracture" and f.zone not in (None, "rib") for f in mesh_findings(report)):
        return "a fracture elsewhere than at the ribs, which the simulation does not draw"
    return None


def reported_places(reports: Iterable[OpenIReport]) -> dict[str, list[Place]]:
    """concept -> (side, zone) of each of its human codes in the reports that can be drawn."""
    places: dict[str, list[Place]] = {}
    for report in filter(lambda report: why_left_out(report) is None, reports):
        for finding in mesh_findings(report):
            places.setdefault(finding.concept, []).append((finding.side, finding.zone))
    return places


def select_studies(studies: Sequence[Study], count: int) -> list[Study]:
    """About `count` studies, with and without findings as often as among all."""
    share = min(1.0, count / len(studies))
    found = [study for study in studies if study.reported]
    clear = [study for study in studies if not study.reported]
    return found[: round(share * len(found))] + clear[: round(share * len(clear))]


def templated_studies(
    studies: Sequence[Study],
    enough: int,
    companions: Sequence[Labels],
    sampler: LesionSampler,
    rng: Rng,
) -> list[Study]:
    """Reports for each concept that fewer than `enough` training `studies` hold.

    One in nine is for validation; the test split has real reports only. Accompanying findings are
    drawn from real label sets, `companions`.
    """
    counts = Counter(c for study in studies if study.split == "train" for c in study.concepts)
    made: list[Study] = []
    for concept in sorted(TRAINING_CONCEPTS, key=lambda c: counts[c]):
        sets = [labels for labels in companions if concept in labels]
        while counts[concept] < enough:
            study = _templated_study(len(made), concept, sets, sampler, rng)
            made.append(study)
            if study.split == "train":
                counts.update(study.concepts)
    return made


def mimic_films(
    studies: Sequence[Study], images: int, sampler: LesionSampler, rng: Rng
) -> list[tuple[Study, Case]]:
    """The films of each study: one without findings; the others share the rest evenly.

    They are independent takes of a report: lesions, pose, exposure are drawn anew within it.
    """
    found = sum(1 for study in studies if study.reported)
    clear = len(studies) - found
    total, films, seen = max(images - clear, found), [], 0
    for study in studies:
        takes = 1
        if study.reported:
            takes = (seen + 1) * total // found - seen * total // found
            seen += 1
        films += [(study, _film(study, sampler, rng)) for _ in range(takes)]
    return films


def merged(findings: Iterable[ReportedFinding]) -> tuple[ReportedFinding, ...]:
    """One finding a lesion: codes often name the same thing twice.

    Dropped are repetitions, a concept without place beside the same with one, and one that a more
    specific one at a compatible place implies ("opacity", "atelectasis", both at the left base).
    """
    unique = list(dict.fromkeys(findings))
    kept = [f for f in unique if not any(_covers(other, f) for other in unique if other != f)]
    seen: dict[tuple, ReportedFinding] = {}
    for finding in kept:
        seen.setdefault((finding.concept, finding.side, finding.zone), finding)
    return tuple(seen.values())[:_MOST_LESIONS]


def _covers(other: ReportedFinding, finding: ReportedFinding) -> bool:
    if other.concept == finding.concept:
        return (finding.side, finding.zone) == (None, None) != (other.side, other.zone)
    if finding.concept not in with_parents([other.concept]):
        return False
    levels = (LEVELS.get(f.zone or "", f.zone) for f in (other, finding))
    return all(len({*pair} - {None}) < 2 for pair in (levels, (other.side, finding.side)))


def _real_study(report: OpenIReport) -> Study:
    number = int("".join(filter(str.isdigit, report.uid)))
    patient = f"p{90_000_000 + number}"
    codes = mesh_findings(report)
    found = merged(ReportedFinding(f.concept, f.side, f.zone, f.severity) for f in codes)
    text = f"{report.findings} {report.impression}".lower()
    if any(f.concept in UNSEEN_CONCEPTS for f in found) or "covid" in text:
        raise InputError(
            "a training report names a concept that must stay unseen",
            "Leave this report out.",
            row=report.uid,
        )
    texts = (report.indication, report.comparison, report.findings, report.impression)
    return Study(patient, split_of(patient, SHARES), *texts, found, report.uid)


def _templated_study(
    number: int, concept: str, companions: Sequence[Labels], sampler: LesionSampler, rng: Rng
) -> Study:
    concepts = [concept]
    if companions and rng.random() < 0.4:
        others = companions[rng.integers(len(companions))]
        concepts += sorted(others - with_parents([concept]))[:2]
    found = tuple(_templated_finding(c, sampler, rng) for c in concepts)
    findings, impression = write_report(found, rng)
    split = "validation" if number % 9 == 8 else "train"
    texts = ("Simulated study.", "None.", findings, impression)
    return Study(f"p{99_000_000 + number}", split, *texts, found, "templated")


def _templated_finding(concept: str, sampler: LesionSampler, rng: Rng) -> ReportedFinding:
    sites = sampler.sites(concept, "train", rng)
    if concept in MIDLINE or concept in UNPLACED:
        side, zone = None, None
    else:
        side, zone = (sites[0].side, sites[0].zone) if sites else sampler.place(concept, rng)
    words = ("small", "large") if concept in SIZED else ("mild", "moderate", "severe")
    ungraded = concept in UNGRADED or rng.random() < 0.45
    severity = None if ungraded else words[rng.integers(len(words))]
    return ReportedFinding(concept, side, zone, severity)


def _film(study: Study, sampler: LesionSampler, rng: Rng) -> Case:
    raw = rng.bytes(20).hex()
    dicom_id = "-".join(raw[i : i + 8] for i in range(0, 40, 8))
    lesions, seed = sampler.reported(study.reported, study.split, rng), int(rng.integers(2**31))
    return Case(dicom_id, study.patient_id, lesions, study.split, "mimic-cxr", seed)


@cache
def openi_reports() -> tuple[OpenIReport, ...]:
    """The Open-I reports."""
    return tuple(read_openi(openi_archive()))


@cache
def load_sampler() -> LesionSampler:
    """Places lesions as the real annotations and codes do."""
    return LesionSampler(annotated_pools(), reported_places(openi_reports()))


def training_films(size: WorldSize) -> list[tuple[Study, Case]]:
    """The films of the training studies, real and templated."""
    rng, sampler = np.random.default_rng([size.seed, 0]), load_sampler()
    everything = real_studies(openi_reports())
    studies = select_studies(everything, size.studies)
    enough = max(2, round(ENOUGH * len(studies) / len(everything)))
    companions = [labels for patient in chestxray14_patients() for labels in patient if labels]
    made = templated_studies(studies, enough, companions, sampler, rng)
    return mimic_films([*studies, *made], size.pretraining, sampler, rng)
