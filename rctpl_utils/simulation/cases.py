"""What a simulated radiograph shows: lesions, at places of real annotations and codes.

Boxes of ChestX-ray14 (Wang et al. 2017), the RSNA challenge (Shih et al. 2019), VinBigData (Nguyen
et al. 2022) and SIIM-ACR's run lengths, from torchxrayvision. Each annotated image belongs to one
split, so that no training lesion has a test lesion's box.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd

from rctpl_utils.datasets.openi import (
    MeshFinding,
    OpenIReport,
    mesh_findings,
    openi_archive,
    read_openi,
    xrv_file,
)
from rctpl_utils.files import read_json
from rctpl_utils.workspace import PACKAGE_DATA

Rng = np.random.Generator
Box = tuple[float, float, float, float]  # x, y, width, height relative to the image frame
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Lesion:
    """One finding to draw."""

    concept: str  # of the vocabulary, drawn as a kind of its own
    side: str | None = None  # "left", "right" or "bilateral" (the patient's); None: open
    zone: str | None = None  # "upper", "middle", "lower", "apex", "base", ...
    severity: float = 0.5  # in (0, 1], from barely visible to gross
    box: Box | None = None  # a real one

    def in_zone(self, *names: str) -> bool:
        """Whether the zone has one of some names, or parts of names."""
        return any(name in (self.zone or "") for name in names)


@dataclass(frozen=True)
class Case:
    """One radiograph to render: all that its pixels depend on."""

    image_id: str  # unique within its data set
    patient_id: str  # of all the patient's images; no patient is on two sides of a split
    lesions: tuple[Lesion, ...]  # the drawn findings; labels are their upward closure
    split: str  # which pool of poses and outlines is drawn from
    style: str  # a key of `radiograph.STYLES`
    seed: int  # of this image's own random generator

    @property
    def concepts(self) -> frozenset[str]:
        """The drawn concepts, before their parents are added."""
        return frozenset(lesion.concept for lesion in self.lesions)


def split_of(identifier: str, shares: Mapping[str, float]) -> str:
    """The split of a patient or source image, by a hash of its name; the shares sum to 1."""
    number = unit_hash(identifier)
    for split, share in shares.items():
        if number < share:
            return split
        number -= share
    return split  # rounding of the shares only


def unit_hash(identifier: str) -> float:
    """A number in [0, 1) that depends on the identifier alone."""
    digest = hashlib.sha256(identifier.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


# How gross a lesion is: Beta draws, so that subtle and gross ones both occur, shifted by words.
_UNSTATED = (2.2, 1.3)
_WORDS = read_json(PACKAGE_DATA / "drawing.json")["severity"]  # word -> Beta parameters
# Findings that change the whole outline are seen at any grade: their draws are bent towards mild,
# so that none of them is recognized without exception.
_BENT = {"Cardiomegaly": 2.6, "Edema": 2.0, "Enlarged Cardiomediastinum": 1.4}


def draw_severity(concept: str, word: str | None, rng: Rng) -> float:
    """A severity in [0.06, 1]; `word` is a report's grade, an unknown one counts as none."""
    drawn = rng.beta(*_WORDS.get(word or "", _UNSTATED)) ** _BENT.get(concept, 1.0)
    return float(0.06 + 0.94 * drawn)


POOL_SHARES = {"train": 0.5, "validation": 0.15, "test": 0.35}
MIDLINE = ("Cardiomegaly", "Enlarged Cardiomediastinum", "Hernia")  # have no side, no zone
LEVELS = {"apex": "upper", "base": "lower", "costophrenic": "lower", "lingula": "middle"}
MAX_SITES = 4  # lesions of one concept in one image
_PIXELS = 1024  # the frame of ChestX-ray14's, RSNA's and SIIM-ACR's annotations
_CHESTXRAY14 = {"Effusion": "Pleural Effusion", "Infiltrate": "Infiltration"}
_VINBIGDATA = {
    "Pleural thickening": "Pleural Thickening", "Pulmonary fibrosis": "Fibrosis",
    "Nodule/Mass": "Lung Lesion", "Lung Opacity": "Lung Opacity", "Infiltration": "Infiltration",
    "Consolidation": "Consolidation",
}  # fmt: skip


def in_box(concept: str, box: Box) -> Lesion:
    """A lesion where a box lies, side and zone as a radiologist says: right is on the left."""
    if concept in MIDLINE:
        return Lesion(concept, box=box)
    x, y, width, height = box
    side = "right" if x + width / 2 < 0.5 else "left"
    level = y + height / 2
    # thirds of 0.12 to 0.80 of the frame's height, the range of ChestX-ray14's boxes
    zone = "upper" if level < 0.35 else "middle" if level < 0.57 else "lower"
    return Lesion(concept, side, zone, box=box)


@cache
def annotated_sites() -> Mapping[tuple[str, str], list[list[Lesion]]]:
    """(concept, split) -> of each annotated image the sites of its boxes (about a second)."""
    sites, pools = defaultdict(list), defaultdict(list)
    for image, concept, box in _annotated_boxes():
        sites[image, concept].append(in_box(concept, box))
    for (image, concept), found in sites.items():
        patient = image.split("_")[0]  # ChestX-ray14 names files <patient>_<number>
        pools[concept, split_of(patient, POOL_SHARES)].append(found)
    return dict(pools)


def _annotated_boxes() -> Iterator[tuple[str, str, Box]]:
    """Image, concept, box of all real annotations; VinBigData's are its first reader's.

    Its table lacks the images' sizes. The thorax is symmetric, so the frame's width is taken as
    twice the mean center of all lung findings, its height from the hearts' mean center, which
    ChestX-ray14's boxes put at 0.57: an approximation, good for sizes.
    """
    table = pd.read_csv(xrv_file("BBox_List_2017.csv.gz")).iloc[:, :6]
    for image, name, *box in table.itertuples(index=False):
        yield image, _CHESTXRAY14.get(name, name), _relative(box, _PIXELS, _PIXELS)
    table = pd.read_csv(xrv_file("kaggle_stage_2_train_labels.csv.zip")).dropna()
    columns = ["patientId", "x", "y", "width", "height"]
    for image, *box in table[columns].itertuples(index=False):
        yield image, "Pneumonia", _relative(box, _PIXELS, _PIXELS)
    table = pd.read_csv(xrv_file("siim-pneumothorax-train-rle.csv.gz"))
    for image, text in table.itertuples(index=False):
        if (box := run_length_box(text)) is not None:
            yield image, "Pneumothorax", box
    table = pd.read_csv(xrv_file("vinbigdata-train.csv.gz")).dropna()
    heart = table[table["class_name"] == "Cardiomegaly"]
    table = table[table["class_name"].isin(_VINBIGDATA)]
    width = (table["x_min"] + table["x_max"]).mean()
    height = (heart["y_min"] + heart["y_max"]).mean() / 2 / 0.57
    table = table[table["rad_id"] == table.groupby("image_id")["rad_id"].transform("first")]
    columns = ["image_id", "class_name", "x_min", "y_min", "x_max", "y_max"]
    for image, name, left, top, right, bottom in table[columns].itertuples(index=False):
        box = (left, top, right - left, bottom - top)
        yield image, _VINBIGDATA[name], _relative(box, width, height)


def run_length_box(text: str) -> Box | None:
    """Bounding box of SIIM-ACR's relative, column-major run lengths; None for "-1".

    Alternating offsets (from the end of the last run) and lengths, pixels of a 1024 x 1024 image.
    """
    numbers = np.array(text.split(), dtype=np.int64)
    if numbers.size < 2:
        return None
    offsets, lengths = numbers[0::2], numbers[1::2]
    ends = np.cumsum(offsets + lengths)  # one past each run's last pixel
    starts = ends - lengths
    left, right = starts[0] // _PIXELS, (ends[-1] - 1) // _PIXELS
    one_column = starts // _PIXELS == (ends - 1) // _PIXELS
    top = np.where(one_column, starts % _PIXELS, 0).min()
    bottom = np.where(one_column, (ends - 1) % _PIXELS, _PIXELS - 1).max()
    x, y, width, height = left, top, right - left + 1, bottom - top + 1
    return tuple(float(value) / _PIXELS for value in (x, y, width, height))


def _jittered(box: Box, rng: Rng) -> Box:
    """The box shifted and scaled by up to a tenth of itself, since some pools are small."""
    x, y, width, height = box
    grow = rng.uniform(0.9, 1.1, 2)
    shift = rng.uniform(-0.1, 0.1, 2)
    moved = (x + shift[0] * width, y + shift[1] * height, width * grow[0], height * grow[1])
    return _relative(moved, 1.0, 1.0)


def _relative(box: Iterable[float], width: float, height: float) -> Box:
    """Divide by the frame and clip to it."""
    x, y, w, h = box
    left, top = min(max(x / width, 0.0), 0.97), min(max(y / height, 0.0), 0.97)
    right, bottom = min((x + w) / width, 1.0), min((y + h) / height, 1.0)
    return float(left), float(top), float(max(right - left, 0.01)), float(max(bottom - top, 0.01))


@cache
def openi_reports() -> tuple[OpenIReport, ...]:
    """The Open-I reports."""
    return tuple(read_openi(openi_archive()))


def why_left_out(report: OpenIReport) -> str | None:
    """Why a report is no study: what cannot be drawn as it says; None for one that can."""
    if not (report.findings or report.impression):
        return "no findings and no impression"
    if "No Indexing" in report.mesh:  # the coders' mark
        return "not coded"
    if any(f.concept == "Fracture" and f.zone not in (None, "rib") for f in mesh_findings(report)):
        return "a fracture elsewhere than at the ribs, which the simulation does not draw"
    return None


@cache
def _coded_sites() -> Mapping[str, list[Lesion]]:
    """concept -> side and zone of each of its human codes in the reports that can be drawn."""
    places = defaultdict(list)
    for report in openi_reports():
        for f in mesh_findings(report) if why_left_out(report) is None else ():
            places[f.concept].append(Lesion(f.concept, f.side, f.zone))
    return dict(places)


def draw_sites(concept: str, split: str, rng: Rng, *, coded: bool = True) -> list[Lesion]:
    """The sites of one real image with this concept; where nobody drew boxes, that of a code.

    Without either, or where `coded` is false, a site that is open.
    """
    pool = annotated_sites().get((concept, split), [])
    if pool:
        sites = pool[rng.integers(len(pool))][:MAX_SITES]
        return [in_box(concept, _jittered(site.box, rng)) for site in sites]
    codes = _coded_sites().get(concept) if coded else None
    return [codes[rng.integers(len(codes))] if codes else Lesion(concept)]


def draw_lesions(concepts: Iterable[str], split: str, rng: Rng) -> tuple[Lesion, ...]:
    """Lesions for the drawn concepts of one image, with boxes of that split's pool.

    COVID-19 is where most films show it: both lungs, the periphery (468 patients, PMC7243792); the
    renderer favors the lower zones.
    """
    drawn = []
    for name in sorted(concepts):
        severity = draw_severity(name, None, rng)
        covid = [Lesion(name, "bilateral", "peripheral")]
        sites = covid if name == "COVID-19" else draw_sites(name, split, rng)
        drawn += [replace(site, severity=severity) for site in sites]
    return tuple(drawn)


def reported_lesions(findings: Iterable[MeshFinding], split: str, rng: Rng) -> tuple[Lesion, ...]:
    """Lesions that show what a report says where it says it.

    In a real box of that side and zone if there is one; otherwise the renderer places it. No side
    matches both, "bilateral" no single box; no zone matches all.
    """
    lesions = []
    for f in findings:
        severity = draw_severity(f.concept, f.severity, rng)
        level = LEVELS.get(f.zone or "", f.zone)
        sites = (site for each in annotated_sites().get((f.concept, split), []) for site in each)
        boxes = [s.box for s in sites if f.side in (None, s.side) and level in (None, s.zone)]
        box = _jittered(boxes[rng.integers(len(boxes))], rng) if boxes else None
        lesions.append(Lesion(f.concept, f.side, f.zone, severity, box))
    return tuple(lesions)
