"""The training world: real Open-I reports as studies, and films that show what they say.

Each report is one patient's (Open-I's DICOM table has one patient identifier a report). What is
drawn comes from its human MeSH codes. Concepts that few training reports hold are filled up with
templated reports, our own sentences, marked wherever they are counted.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rctpl_utils.datasets.openi import OpenIReport, mesh_findings
from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.profiles import WorldSize
from rctpl_utils.simulation.cases import (
    LEVELS,
    Case,
    ReportedFinding,
    Rng,
    draw_sites,
    openi_reports,
    reported_lesions,
    split_of,
    unit_hash,
    why_left_out,
)
from rctpl_utils.simulation.evaluation_cases import Labels, chestxray14_patients
from rctpl_utils.vocabulary import TRAINING_CONCEPTS, UNSEEN_CONCEPTS, with_parents
from rctpl_utils.workspace import PACKAGE_DATA

_PHRASES = read_json(PACKAGE_DATA / "report_phrases.json")
UNGRADED = ("Fracture", "Support Devices")
SIZED = ("Hernia", "Lung Lesion", "Mass", "Nodule", "Pleural Effusion", "Pneumothorax")
UNPLACED = ("Cardiomegaly", "Enlarged Cardiomediastinum", "Hernia", "Support Devices")
PLEURAL = ("Pleural Effusion", "Pleural Other", "Pleural Thickening", "Pneumothorax")


def write_report(findings: Sequence[ReportedFinding], rng: Rng) -> tuple[str, str]:
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


def phrase(finding: ReportedFinding, rng: Rng) -> str:
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
    """A place after a noun: "in the right upper lobe", "on the left", "" for none.

    Without `lobes`, a lung zone is named instead: the pleura has no lobes.
    """
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
    indication: str
    comparison: str
    findings: str
    impression: str
    reported: tuple[ReportedFinding, ...]  # to draw
    source: str  # the Open-I report's identifier, or "templated"

    @property
    def study_id(self) -> str:
        """ "sNNNNNNNN", with the patient's number: each has one."""
        return f"s{self.patient_id[1:]}"

    @property
    def templated(self) -> bool:
        """Whether we wrote the text."""
        return self.source == "templated"

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
    studies = [_real_study(report) for report in reports if why_left_out(report) is None]
    return sorted(studies, key=lambda study: unit_hash(f"order {study.patient_id}"))


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
            texts = ("Simulated study.", "None.", *write_report(found, rng))
            study = Study(f"p{99_000_000 + len(made)}", split, *texts, found, "templated")
            made.append(study)
            if split == "train":
                counts.update(study.concepts)
    return made


def _templated_finding(concept: str, rng: Rng) -> ReportedFinding:
    site = draw_sites(concept, "train", rng, coded=concept not in UNPLACED)[0]
    words = ("small", "large") if concept in SIZED else ("mild", "moderate", "severe")
    ungraded = concept in UNGRADED or rng.random() < 0.45
    severity = None if ungraded else words[rng.integers(len(words))]
    return ReportedFinding(concept, site.side, site.zone, severity)
