"""From concepts to lesions: places and sizes from real annotations and codes, severities drawn.

Boxes of ChestX-ray14 (Wang et al. 2017), the RSNA challenge (Shih et al. 2019), VinBigData (Nguyen
et al. 2022) and SIIM-ACR's run lengths, from torchxrayvision. Each annotated image belongs to one
split, so that no training lesion has a test lesion's box.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rctpl_utils.datasets.openi import xrv_file
from rctpl_utils.simulation.cases import Lesion, Rng, split_of

Box = tuple[float, float, float, float]  # x, y, width, height relative to the image frame
Place = tuple[str | None, str | None]  # side, zone

# How gross a lesion is: Beta draws, so that subtle and gross ones both occur. Our assumption: no
# label table grades severity; words of reports shift the draw.
_UNSTATED = (2.2, 1.3)
_WORDS = {  # word of a report or code -> Beta parameters
    **dict.fromkeys(("borderline", "minimal", "tiny", "subtle"), (2.0, 4.0)),
    **dict.fromkeys(("mild", "small", "slight"), (2.6, 3.0)),
    **dict.fromkeys(("severe", "large", "extensive"), (8.0, 1.6)),
    "moderate": (5.0, 3.0), "prominent": (5.0, 2.5), "massive": (8.0, 1.5),
}  # fmt: skip
# Findings that change the whole outline are seen at any grade: their draws are bent towards mild,
# so that none of them is recognized without exception.
_BENT = {"Cardiomegaly": 2.6, "Edema": 2.0, "Enlarged Cardiomediastinum": 1.4}


def draw_severity(concept: str, word: str | None, rng: Rng) -> float:
    """A severity in [0.06, 1]; `word` is a report's grade, an unknown one counts as none."""
    drawn = rng.beta(*_WORDS.get(word or "", _UNSTATED)) ** _BENT.get(concept, 1.0)
    return float(0.06 + 0.94 * drawn)


POOL_SHARES = {"train": 0.5, "validation": 0.15, "test": 0.35}
MIDLINE = ("Cardiomegaly", "Enlarged Cardiomediastinum", "Hernia")  # have no side, no zone
_CHESTXRAY14 = {"Effusion": "Pleural Effusion", "Infiltrate": "Infiltration"}
LEVELS = {"apex": "upper", "base": "lower", "costophrenic": "lower", "lingula": "middle"}
_VINBIGDATA = {
    "Pleural thickening": "Pleural Thickening", "Pulmonary fibrosis": "Fibrosis",
    "Nodule/Mass": "Lung Lesion", "Lung Opacity": "Lung Opacity", "Infiltration": "Infiltration",
    "Consolidation": "Consolidation",
}  # fmt: skip
MAX_SITES = 4  # lesions of one concept in one image
_PIXELS = 1024  # the frame of ChestX-ray14's, RSNA's and SIIM-ACR's annotations


@dataclass(frozen=True)
class Site:
    """One lesion's place: side and zone as a radiologist would say, and the real box."""

    side: str | None
    zone: str | None
    box: Box


def site_of(concept: str, box: Box) -> Site:
    """Name the place of a box: the patient's right is on the image's left.

    Zones are thirds of 0.12 to 0.80 of the frame's height, the range of ChestX-ray14's boxes.
    """
    if concept in MIDLINE:
        return Site(None, None, box)
    x, y, width, height = box
    side = "right" if x + width / 2 < 0.5 else "left"
    level = y + height / 2
    zone = "upper" if level < 0.35 else "middle" if level < 0.57 else "lower"
    return Site(side, zone, box)


Pools = Mapping[tuple[str, str], Sequence[tuple[Site, ...]]]  # (concept, split) -> sites an image


def annotated_pools() -> Pools:
    """The sites of all real annotations, one tuple an annotated image (about a second)."""
    pools = defaultdict(list)
    for read in (_chestxray14_boxes, _rsna_boxes, _siim_boxes, _vinbigdata_boxes):
        grouped: dict[tuple[str, str], list[Box]] = defaultdict(list)
        for image, concept, box in read():
            grouped[image, concept].append(box)
        for (image, concept), boxes in grouped.items():
            sites = tuple(site_of(concept, box) for box in boxes)
            patient = image.split("_")[0]  # ChestX-ray14 names files <patient>_<number>
            pools[concept, split_of(patient, POOL_SHARES)].append(sites)
    return dict(pools)


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


def _chestxray14_boxes() -> Iterator[tuple[str, str, Box]]:
    table = pd.read_csv(xrv_file("BBox_List_2017.csv.gz")).iloc[:, :6]
    for image, name, *box in table.itertuples(index=False):
        yield image, _CHESTXRAY14.get(name, name), _relative(box, _PIXELS, _PIXELS)


def _rsna_boxes() -> Iterator[tuple[str, str, Box]]:
    table = pd.read_csv(xrv_file("kaggle_stage_2_train_labels.csv.zip")).dropna()
    columns = ["patientId", "x", "y", "width", "height"]
    for image, *box in table[columns].itertuples(index=False):
        yield image, "Pneumonia", _relative(box, _PIXELS, _PIXELS)


def _siim_boxes() -> Iterator[tuple[str, str, Box]]:
    table = pd.read_csv(xrv_file("siim-pneumothorax-train-rle.csv.gz"))
    for image, text in table.itertuples(index=False):
        box = run_length_box(text)
        if box is not None:
            yield image, "Pneumothorax", box


def _vinbigdata_boxes() -> Iterator[tuple[str, str, Box]]:
    """The first reader's boxes of each image.

    The table lacks the images' sizes. The thorax is symmetric, so the frame's width is taken as
    twice the mean center of all lung findings, its height from the hearts' mean center, which
    ChestX-ray14's boxes put at 0.57: an approximation, good for sizes.
    """
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


def _jittered(box: Box, rng: Rng) -> Box:
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


# What most films of COVID-19 pneumonia show: both lungs, the periphery (468 patients, PMC7243792);
# the renderer favors the lower zones.
_COVID_PLACE: Place = ("bilateral", "peripheral")


@dataclass(frozen=True)
class ReportedFinding:
    """What a report says is present: concept, side, zone, severity word (each None if unsaid)."""

    concept: str
    side: str | None = None
    zone: str | None = None
    severity: str | None = None


@dataclass(frozen=True)
class LesionSampler:
    """Draws lesions for label sets and for reported findings.

    `places` are the human codes of real reports, for concepts whose boxes nobody drew.
    """

    pools: Pools
    places: Mapping[str, Sequence[Place]]

    def sites(self, concept: str, split: str, rng: Rng) -> tuple[Site, ...]:
        """The sites of one real image with this concept; none where nobody drew its boxes.

        Each box is shifted and scaled by up to a tenth of itself, since some pools are small.
        """
        pool = self.pools.get((concept, split), [])
        sites = pool[rng.integers(len(pool))] if pool else ()
        return tuple(site_of(concept, _jittered(site.box, rng)) for site in sites[:MAX_SITES])

    def place(self, concept: str, rng: Rng) -> Place:
        """Where one real report has this concept; (None, None) where none says it."""
        known = self.places.get(concept, ())
        return known[rng.integers(len(known))] if known else (None, None)

    def lesions(self, concepts: Iterable[str], split: str, rng: Rng) -> tuple[Lesion, ...]:
        """Lesions for the drawn concepts of one image, with boxes of that split's pool."""
        return tuple(
            lesion for name in sorted(concepts) for lesion in self._of_concept(name, split, rng)
        )

    def reported(
        self, findings: Iterable[ReportedFinding], split: str, rng: Rng
    ) -> tuple[Lesion, ...]:
        """Lesions that show what a report says where it says it.

        In a real box of that side and zone if there is one; otherwise the renderer places it.
        """
        lesions = []
        for f in findings:
            severity = draw_severity(f.concept, f.severity, rng)
            lesions.append(Lesion(f.concept, f.side, f.zone, severity, self._box_of(f, split, rng)))
        return tuple(lesions)

    def _box_of(self, finding: ReportedFinding, split: str, rng: Rng) -> Box | None:
        """No side matches both, "bilateral" no single box; no zone matches all."""
        side, level = finding.side, LEVELS.get(finding.zone or "", finding.zone)
        sites = (site for each in self.pools.get((finding.concept, split), []) for site in each)
        boxes = [s.box for s in sites if side in (None, s.side) and level in (None, s.zone)]
        return _jittered(boxes[rng.integers(len(boxes))], rng) if boxes else None

    def _of_concept(self, concept: str, split: str, rng: Rng) -> list[Lesion]:
        severity = draw_severity(concept, None, rng)
        if concept == "COVID-19":
            return [Lesion(concept, *_COVID_PLACE, severity)]
        sites = self.sites(concept, split, rng)
        if sites:
            return [Lesion(concept, s.side, s.zone, severity, s.box) for s in sites]
        return [Lesion(concept, *self.place(concept, rng), severity)]
