"""From the embedded world's MIMIC-CXR tree to the arrays that pre-training takes.

Clinical encoders have read how findings look ("hazy", "reticular"); Open-I's terse reports seldom
say so. Attribute sentences fill that gap: what is drawn, in our own words after Hansell et al.,
"Fleischner Society: Glossary of terms for thoracic imaging", Radiology 246 (2008), recalled and not
quoted. None is a knowledge description, none names COVID-19, which no training film has.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from rctpl_utils.datasets import open_dataset
from rctpl_utils.encoders.features import TEXT_BATCH, word_states
from rctpl_utils.encoders.pretraining import (
    ATTRIBUTE_ENTRIES,
    WIDTH,
    Pairs,
    TextLists,
    attribute_vector,
    build_text_bank,
    load_images,
    training_texts,
)
from rctpl_utils.encoders.text_tower import TextTower
from rctpl_utils.simulation.world import DRAWN_TABLE
from rctpl_utils.text.reports import Report


class Look(NamedTuple):
    """How a concept is drawn."""

    says: str  # what the words give away; "Lung Opacity" for any opacity
    phrases: tuple[str, ...]  # noun phrases, singular
    attributes: tuple[str, ...]  # of `ATTRIBUTES`


LOOKS: dict[str, Look] = {
    "Lung Opacity": Look("Lung Opacity",
        ("hazy ground-glass opacity", "vague hazy density", "faint ground-glass haze"), ("hazy",)),
    "Pneumonia": Look("Lung Opacity", (
        "patchy ill-defined airspace opacity", "fluffy alveolar opacity", "patchy opacification",
    ), ("patchy", "hazy")),
    "Consolidation": Look("Lung Opacity", (
        "dense homogeneous airspace opacity", "dense opacification with air bronchograms",
    ), ("dense",)),
    "Infiltration": Look("Lung Opacity",
        ("faint streaky opacity along the vessels", "ill-defined streaky markings"), ("streaky",)),
    "Edema": Look("Lung Opacity", (
        "hazy perihilar opacity with thick vessels", "central haze with septal lines",
    ), ("hazy", "central")),
    "Atelectasis": Look("Lung Opacity",
        ("linear band-like opacity", "plate-like opacity with volume loss"), ("linear",)),
    "Fibrosis": Look("Fibrosis", (
        "coarse reticular markings", "peripheral net-like lines with small lungs",
    ), ("reticular", "peripheral")),
    "Emphysema": Look("Emphysema", (
        "dark overinflated lung with few vessels", "hyperlucent lung and a flat diaphragm",
    ), ("lucent",)),
    "Nodule": Look("Lung Lesion",
        ("small round well-defined opacity", "small rounded density"), ("round",)),
    "Mass": Look("Lung Lesion", (
        "large round opacity with lobulated margins", "large rounded soft-tissue density",
    ), ("round",)),
    "Lung Lesion": Look("Lung Lesion",
        ("focal round density", "small dense rounded focus"), ("round",)),
    "Pleural Effusion": Look("Pleural Effusion", (
        "layering fluid density with a meniscus", "blunting of the costophrenic angle",
    ), ("fluid", "dense")),
    "Pneumothorax": Look("Pneumothorax", (
        "dark air without lung markings beyond a thin pleural line", "visible pleural line",
    ), ("lucent", "peripheral")),
    "Pleural Thickening": Look("Pleural Other",
        ("smooth band of soft tissue along the chest wall",), ("peripheral",)),
    "Pleural Other": Look("Pleural Other",
        ("calcified plaque along the chest wall",), ("peripheral", "dense")),
    "Cardiomegaly": Look("Cardiomegaly",
        ("large heart shadow", "heart wider than half of the chest"), ("central",)),
    "Enlarged Cardiomediastinum": Look("Enlarged Cardiomediastinum",
        ("wide mediastinal shadow",), ("central",)),
    "Hernia": Look("Hernia", ("round shadow with air and fluid behind the heart",), ("central",)),
    "Fracture": Look("Fracture", ("break in the outline of a rib", "step in a rib"), ()),
    "Support Devices": Look("Support Devices",
        ("bright metallic line", "thin bright tube or wire"), ()),
}  # fmt: skip
_GRADED = ("Lung Opacity", "Fibrosis")  # words of extent fit these
_PLACED = ("Lung Opacity", "Lung Lesion", "Fibrosis")  # words of distribution fit these
_ZONES = {
    "upper": "upper zone", "apex": "apex", "middle": "mid zone", "hilum": "hilar region",
    "perihilar": "perihilar region", "lower": "lower zone", "base": "base",
    "retrocardiac": "region behind the heart", "costophrenic": "costophrenic angle",
}  # fmt: skip
_CENTRAL = ("hilum", "perihilar")
FAR, NEAR = 0.28, 0.15  # distance of a box from the midline, in widths of the film
MILD, GROSS = 0.35, 0.65  # severities


class FilmTexts(NamedTuple):
    """Attribute sentences of n films."""

    texts: list[str]  # distinct
    vectors: np.ndarray  # what each text says, (t, WIDTH)
    rows: list[np.ndarray]  # of each film the rows of its sentences
    film_vectors: np.ndarray  # the attributes that each film shows, (n, WIDTH)


def film_texts(drawn: pd.DataFrame, films: Sequence[str]) -> FilmTexts:
    """Sentences for each film's lesions in the world's `drawn.csv` (`manifest.write_drawn`)."""
    place = {name: row for row, name in enumerate(films)}
    own = drawn[drawn["image"].isin(place)]
    index: dict[tuple[str, bytes], int] = {}
    vectors: list[np.ndarray] = []
    known: dict[Seen, tuple[list[int], np.ndarray]] = {}
    rows: list[dict[int, None]] = [{} for _ in films]
    film_vectors = np.zeros((len(films), WIDTH), np.float32)
    for lesion in own.itertuples():
        seen = _seen(lesion)
        if seen not in known:
            vector, mine = _vector(seen), []
            for text in _sentences(seen):
                mine.append(index.setdefault((text, vector.tobytes()), len(index)))
                if mine[-1] == len(vectors):
                    vectors.append(vector)
            known[seen] = mine, np.where(ATTRIBUTE_ENTRIES, vector, 0)
        mine, shown = known[seen]
        rows[place[lesion.image]].update(dict.fromkeys(mine))
        film = film_vectors[place[lesion.image]]
        np.maximum(film, shown, out=film)
    found = np.stack(vectors) if vectors else np.zeros((0, WIDTH), np.float32)
    return FilmTexts(
        [t for t, _ in index], found, [np.array([*r], int) for r in rows], film_vectors
    )


class Seen(NamedTuple):
    """What words can tell of a lesion."""

    concept: str
    side: str | None
    zone: str | None
    far: str  # "peripheral", "central" or ""
    grade: str  # "mild", "gross" or ""


def _seen(lesion: tuple) -> Seen:
    """Side, zone and distance from the midline: as asked for, else where the box lies."""
    side, zone = (str(v) if isinstance(v, str) and v else None for v in (lesion.side, lesion.zone))
    grade = "gross" if lesion.severity > GROSS else "mild" if lesion.severity < MILD else ""
    if not np.isfinite(lesion.x):
        return Seen(lesion.concept, side, zone, "", grade)
    side = side or ("right" if lesion.x < 0.5 else "left")  # the patient's right is on the left
    zone = zone or ("upper" if lesion.y < 0.42 else "middle" if lesion.y < 0.58 else "lower")
    off = abs(lesion.x - 0.5)
    far = "peripheral" if off > FAR else "central" if off < NEAR else ""
    return Seen(lesion.concept, side, zone, far, grade)


def _vector(seen: Seen) -> np.ndarray:
    look = LOOKS[seen.concept]
    attributes = list(look.attributes)
    if look.says in _GRADED and seen.grade:
        attributes.append(seen.grade)
    if look.says in _PLACED:
        attributes += [seen.far] if seen.far else []
        attributes += ["central"] * (seen.zone in _CENTRAL)
        attributes += ["bilateral"] * (seen.side == "bilateral")
    return attribute_vector(look.says, seen.side, seen.zone, attributes)


def _sentences(seen: Seen) -> list[str]:
    look = LOOKS[seen.concept]
    extent = {"gross": "extensive ", "mild": "slight "}.get(seen.grade, "")
    extent = extent if look.says in _GRADED else ""
    where = _where(seen.side, seen.zone, seen.far if look.says in _PLACED else "")
    return [f"{extent}{phrase}{where}" for phrase in look.phrases]


def _where(side: str | None, zone: str | None, far: str) -> str:
    place = _ZONES.get(zone or "")
    edge = {"peripheral": " near the chest wall", "central": " near the hilum"}.get(far, "")
    if side == "bilateral":
        return f" in the {place}s of both lungs{edge}" if place else f" in both lungs{edge}"
    if side:
        return f" in the {side} {place or 'lung'}{edge}"
    return f" in the {place}{edge}" if place else edge


def load_pairs(
    data_root: Path,
    reports: Sequence[Report],
    triplets: pd.DataFrame,
    tower: TextTower,
    size: int,
    features: Path,
) -> Pairs:
    """The training images of MIMIC-CXR with what their reports say and what they show.

    MiniLM, the `tower`, reads each text once (kept in `features`); films have `size` pixels a side.
    """
    bank = build_text_bank([r.report_id for r in reports], [r.text for r in reports], triplets)
    rows = {report.report_id: row for row, report in enumerate(reports)}
    dataset = open_dataset("mimic-cxr", data_root, "train")
    studies = dataset.records["study"].map(rows)
    kept = np.flatnonzero(studies.notna())
    names = dataset.records["image_id"].iloc[kept]
    # the texts that only baselines read go through MiniLM with the bank's: both find one file
    texts, _ = training_texts(bank, [report.impression for report in reports])
    words, _ = word_states(tower, texts, features)
    pooled = words.means(np.arange(len(bank.texts)))
    looks = film_texts(pd.read_csv(data_root / "mimic-cxr" / DRAWN_TABLE), list(names))
    studies = studies.iloc[kept].to_numpy(int)
    # the bank's texts, then the attribute sentences of what was drawn, in one list
    both = np.concatenate([pooled, pooled_texts(tower, looks.texts)]).astype(np.float16)
    return Pairs(
        images=load_images(dataset, kept, size),
        reports=studies,
        image_vectors=bank.report_vectors[studies] + looks.film_vectors,
        pooled=both,
        vectors=np.concatenate([bank.vectors, looks.vectors]),
        texts=TextLists.of(bank.rows),
        findings=TextLists.of(bank.finding_rows),
        looks=TextLists.of([len(bank.texts) + rows for rows in looks.rows]),
    )


def pooled_texts(tower: TextTower, texts: Sequence[str]) -> np.ndarray:
    """Texts before the projection, (n, W), texts of like length together."""
    order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
    found = np.empty((len(texts), tower.bert.config.hidden_size), np.float32)
    for start in range(0, len(order), TEXT_BATCH):
        part = order[start : start + TEXT_BATCH]
        found[part] = tower.pooled([texts[k] for k in part]).cpu().numpy()
    return found
