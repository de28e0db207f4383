"""The texts that the stand-in learns from, each with what it says as a vector.

A label vector has, for each concept, one entry for its presence, two for its side and three for its
zone; then one for each visual attribute; a last entry says "nothing found". Absent concepts count
negatively. Cosines of such vectors are the soft targets of MedCLIP's semantic matching (Wang et al.
2022, section 3.3), extended from labels to places so that a sentence about a left lung matches left
lungs best.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rctpl_utils.vocabulary import TRAINING_CONCEPTS, prompt_name, split_location, with_parents

PLACES = ("left", "right", "upper", "middle", "lower")
_ZONES_IN = {
    "upper": ("apex", "upper"),
    "middle": ("middle", "hilum", "perihilar"),
    "lower": ("lower", "base", "costophrenic", "retrocardiac"),
}
ZONES = {zone: place for place, zones in _ZONES_IN.items() for zone in zones}
PLACE_WEIGHT = 0.5
ENTRIES = 1 + len(PLACES)  # a concept's entries: presence, then places
# How findings look and spread: `simulation.stand_ins` alone makes sentences of it.
ATTRIBUTES = (
    "hazy", "patchy", "dense", "streaky", "reticular", "linear", "round", "fluid", "lucent",
    "mild", "gross", "bilateral", "peripheral", "central",
)  # fmt: skip
ATTRIBUTE_WEIGHT = 0.7
WIDTH = len(TRAINING_CONCEPTS) * ENTRIES + len(ATTRIBUTES) + 1
ATTRIBUTE_ENTRIES = np.arange(WIDTH) >= len(TRAINING_CONCEPTS) * ENTRIES
ATTRIBUTE_ENTRIES[-1] = False


def label_vector(findings: Sequence[tuple[str, str | None, str]]) -> np.ndarray:
    """(concept, location, positive) triplets to one label vector, (WIDTH,) float32."""
    vector = np.zeros(WIDTH, np.float32)
    for concept, _, positive in findings:
        if positive == "absent":
            vector[TRAINING_CONCEPTS.index(concept) * ENTRIES] = -1
    present = [(concept, place) for concept, place, positive in findings if positive == "present"]
    for concept, location in present:
        _mark(vector, concept, *(split_location(location) if location else (None, None)))
    vector[-1] = float(not present)
    return vector


def attribute_vector(
    concept: str, side: str | None, zone: str | None, attributes: Iterable[str]
) -> np.ndarray:
    """What a sentence about looks says, (WIDTH,) float32.

    The concept that it gives away, present with its parents at side and zone, and `ATTRIBUTES`.
    """
    vector = np.zeros(WIDTH, np.float32)
    _mark(vector, concept, side, zone)
    for each in attributes:
        vector[len(TRAINING_CONCEPTS) * ENTRIES + ATTRIBUTES.index(each)] = ATTRIBUTE_WEIGHT
    return vector


def _mark(vector: np.ndarray, concept: str, side: str | None, zone: str | None) -> None:
    sides = ("left", "right") if side == "bilateral" else (side,)
    places = [PLACES.index(p) for p in (*sides, ZONES.get(zone)) if p in PLACES]
    for each in with_parents([concept]):
        start = TRAINING_CONCEPTS.index(each) * ENTRIES
        vector[start] = 1
        for place in places:
            vector[start + 1 + place] = PLACE_WEIGHT


@dataclass(frozen=True)
class TextBank:
    """Distinct texts of the training reports."""

    texts: list[str]
    vectors: np.ndarray  # what each text says, (n, WIDTH)
    rows: list[np.ndarray]  # for each report, of all its texts (the whole report first)
    finding_rows: list[np.ndarray]  # for each report, of its texts that name a present finding
    report_vectors: np.ndarray  # what each report says, (reports, WIDTH)


def build_text_bank(
    report_ids: list[str], report_texts: list[str], triplets: pd.DataFrame
) -> TextBank:
    """Whole reports, their sentences with a concept, and one phrase a triplet.

    No knowledge description is among them: the encoder meets those for the first time when the
    prompts are trained, as MedCLIP does.
    """
    known = triplets[triplets["concept"].isin(TRAINING_CONCEPTS)]
    groups = dict(iter(known.groupby("report_id", sort=False)))
    index: dict[tuple[str, bytes], int] = {}
    vectors, rows, finding_rows, report_vectors = [], [], [], []

    def add(text: str, vector: np.ndarray) -> int:
        row = index.setdefault((text, vector.tobytes()), len(index))
        if row == len(vectors):
            vectors.append(vector)
        return row

    for report_id, text in zip(report_ids, report_texts, strict=True):
        group = groups.get(report_id)
        whole = label_vector(_findings(group))
        report_vectors.append(whole)
        mine = [add(text, whole)]
        if group is not None:
            for sentence, part in group.groupby("sentence", sort=False):
                mine.append(add(str(sentence), label_vector(_findings(part))))
            for concept, location, positive in dict.fromkeys(_findings(group)):
                if positive != "uncertain":
                    phrase = finding_phrase(concept, location, positive)
                    mine.append(add(phrase, label_vector([(concept, location, positive)])))
        rows.append(np.array(list(dict.fromkeys(mine))))
        finding_rows.append(np.array([r for r in rows[-1] if (vectors[r][:-1] > 0).any()], int))
    texts = [text for text, _ in index]
    return TextBank(texts, np.stack(vectors), rows, finding_rows, np.stack(report_vectors))


def training_texts(bank: TextBank, impressions: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """All texts that anything learns from, in one order: the bank's, then the impressions.

    And for each report the row of its impression, of the whole report where that is empty.
    """
    texts, rows = list(bank.texts), []
    for own, impression in zip(bank.rows, impressions, strict=True):
        rows.append(len(texts) if impression else own[0])
        if impression:
            texts.append(impression)
    return texts, np.array(rows)


def finding_phrase(concept: str, location: str | None, positive: str) -> str:
    """A short plain phrase for one triplet: "atelectasis, left lower lobe"; "no atelectasis"."""
    name = prompt_name(concept)
    if positive == "absent":
        return f"no {name}"
    return f"{name}, {location}" if location else name


def _findings(group: pd.DataFrame | None) -> list[tuple[str, str | None, str]]:
    if group is None:
        return []
    locations = group["location"].astype(object).where(group["location"].notna(), None)
    return list(zip(group["concept"], locations, group["positive"], strict=True))
