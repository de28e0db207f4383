"""Templated reports: our own sentences, for concepts that few real reports hold.

They are marked as templated wherever they are counted, and never taken for real ones.
"""

from collections.abc import Sequence

import numpy as np

from rctpl_utils.simulation.illustrator import ReportedFinding
from rctpl_utils.vocabulary import with_parents

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
    "upper": ("upper lobe", "upper lung zone"),
    "middle": ("mid lung", "mid lung zone"),
    "lower": ("lower lobe", "lower lung zone"),
    "base": ("lung base",),
    "apex": ("lung apex",),
    "hilum": ("hilar region",),
    "perihilar": ("perihilar region",),
    "retrocardiac": ("retrocardiac region",),
    "costophrenic": ("costophrenic angle",),
}
_PRESENT = (
    "There is {finding}.",
    "{finding} is seen.",
    "{finding} is present.",
    "The film shows {finding}.",
    "Findings include {finding}.",
)
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


def write_report(findings: Sequence[ReportedFinding], rng: np.random.Generator) -> tuple[str, str]:
    """Findings and impression of a report that states `findings` and denies a few others.

    Args:
        findings: what is present, the main one first.
        rng: chooses the wording.

    Returns:
        (findings, impression).
    """
    stated = [_choose(_PRESENT, rng).format(finding=phrase(f, rng)) for f in findings]
    present = with_parents(f.concept for f in findings)
    deniable = [text for text, concepts in _ABSENT if not present & set(concepts)]
    denied = [str(text) for text in rng.permutation(deniable)[: rng.integers(1, 4)]]
    body = stated + denied if rng.random() < 0.5 else denied + stated
    concluded = [_choose(_CONCLUDED, rng).format(finding=phrase(f, rng)) for f in findings[:2]]
    return " ".join(map(_capital, body)), " ".join(map(_capital, concluded))


def phrase(finding: ReportedFinding, rng: np.random.Generator) -> str:
    """One finding as a noun phrase: "a small nodule in the left upper lobe"."""
    noun = _graded(_choose(_NOUNS[finding.concept], rng), finding.severity)
    if finding.concept in UNPLACED:
        return noun
    place = place_phrase(finding.side, finding.zone, rng, lobes=finding.concept not in PLEURAL)
    return f"{noun} {place}" if place else noun


def place_phrase(
    side: str | None, zone: str | None, rng: np.random.Generator, *, lobes: bool = True
) -> str:
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
    if not space or article not in ("a", "an"):
        return f"{grade} {noun}"
    return f"a {grade} {rest}"


def _choose(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
