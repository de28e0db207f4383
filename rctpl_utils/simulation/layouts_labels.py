"""Writers of the data sets that carry labels: ChestX-ray14, CheXpert, COVIDx CXR-3.

Each has a function that writes one image and returns its row, and one that writes the tables from
all rows. `root` is the data set's folder. The readers in `datasets/` describe the layouts.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rctpl_utils.datasets.chestxray14 import BOX_CONCEPTS, CANONICAL, FRAME
from rctpl_utils.datasets.masks import mask_boxes
from rctpl_utils.errors import InputError
from rctpl_utils.files import write_text
from rctpl_utils.simulation.cases import Case
from rctpl_utils.simulation.image_files import write_jpeg, write_png
from rctpl_utils.vocabulary import CHESTXRAY14_CONCEPTS, CHEXPERT_CONCEPTS, with_parents

if TYPE_CHECKING:
    from rctpl_utils.simulation.radiograph import Radiograph

Row = dict[str, Any]
SPECK = 0.04  # components below this share of a lesion's area get no box of their own
# canonical name -> the data set's own spelling, of labels and of boxes
_LABEL_NAMES = {CANONICAL[name]: name for name in CANONICAL if name != "Infiltrate"}
_BOX_NAMES = {
    **{concept: concept for concept in BOX_CONCEPTS},
    "Pleural Effusion": "Effusion",
    "Infiltration": "Infiltrate",
}


def chestxray14_image(root: Path, case: Case, radiograph: "Radiograph") -> Row:
    """Write `images_001/images/<image_id>`; the row has labels and the boxes of eight findings."""
    write_png(root / "images_001" / "images" / case.image_id, radiograph.pixels)
    height, width = radiograph.pixels.shape
    scale = np.array([FRAME / width, FRAME / height] * 2)
    boxes = [
        (_BOX_NAMES[concept], *np.multiply(box, scale).tolist())
        for concept in BOX_CONCEPTS
        for box in lesion_boxes(radiograph.masks.get(concept))
    ]
    labels = sorted(_LABEL_NAMES[c] for c in case_labels(case) & set(CHESTXRAY14_CONCEPTS))
    return {
        "image": case.image_id,
        "patient": case.patient_id,
        "labels": "|".join(labels) or "No Finding",
        "test": case.split == "test",
        "size": (width, height),
        "boxes": boxes,
    }


def chestxray14_tables(root: Path, rows: Iterable[Row]) -> None:
    """Write the entry table, the box table and the two image lists."""
    rows = sorted(rows, key=lambda row: row["image"])
    refuse_repeats([row["image"] for row in rows], root)
    follow_up: dict[str, int] = {}
    entries, boxes = [], []
    for row in rows:
        visit = follow_up[row["patient"]] = follow_up.get(row["patient"], -1) + 1
        unknown_age, unknown_sex = "", ""
        person = (row["patient"], unknown_age, unknown_sex, "PA")
        entries.append((row["image"], row["labels"], visit, *person, *row["size"], "", ""))
        boxes += [(row["image"], *box, "", "", "") for box in row["boxes"]]
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    write_text(root / "Data_Entry_2017_v2020.csv", _lines(header, entries))
    header = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    write_text(root / "BBox_List_2017.csv", _lines(header, boxes))
    for name, wanted in (("test_list.txt", True), ("train_val_list.txt", False)):
        names = [row["image"] for row in rows if row["test"] == wanted]
        write_text(root / name, "".join(f"{name}\n" for name in names))


def chexpert_image(root: Path, case: Case, radiograph: "Radiograph") -> Row:
    """Write the JPEG; `image_id` is its path, "CheXpert-v1.0-small/{train,valid}/patientN/...".

    Raises:
        InputError: another path.
    """
    found = re.fullmatch(r"([\w.-]+)/(train|valid)/patient\d+/study\d+/\w+\.jpg", case.image_id)
    if not found or found[1] == "..":
        raise InputError("not a CheXpert path", "Name it as CheXpert does.", row=case.image_id)
    write_jpeg(root / case.image_id, radiograph.pixels)
    home, part = found.groups()
    return {"path": case.image_id, "home": home, "part": part, "labels": sorted(case_labels(case))}


def chexpert_tables(root: Path, rows: Iterable[Row]) -> None:
    """Write `train.csv` (not mentioned = blank) and `valid.csv` (absent = 0)."""
    rows = sorted(rows, key=lambda row: row["path"])
    refuse_repeats([row["path"] for row in rows], root)
    columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", *CHEXPERT_CONCEPTS]
    for home, part in sorted({(row["home"], row["part"]) for row in rows}):
        absent = "" if part == "train" else "0.0"
        lines = []
        for row in rows:
            if (row["home"], row["part"]) == (home, part):
                present = set(row["labels"])
                clear = not present - {"Support Devices"}  # as CheXpert's labeler has it
                values = [clear, *(concept in present for concept in CHEXPERT_CONCEPTS)]
                labels = ["1.0" if value else absent for value in values]
                lines.append((row["path"], "", "", "Frontal", "PA", *labels))
        write_text(root / home / f"{part}.csv", _lines(",".join(columns), lines))


def covidx_image(root: Path, case: Case, radiograph: "Radiograph") -> Row:
    """Write `test/<image_id>` or, for every other split, `train/<image_id>`."""
    part = "test" if case.split == "test" else "train"
    write_png(root / part / case.image_id, radiograph.pixels)
    drawn = case_labels(case)
    finding = next((c for c in ("COVID-19", "Pneumonia") if c in drawn), "normal")
    finding = "pneumonia" if finding == "Pneumonia" else finding
    return {"image": case.image_id, "patient": case.patient_id, "part": part, "finding": finding}


def covidx_tables(root: Path, rows: Iterable[Row]) -> None:
    """Write `train.txt` and `test.txt` (positive, negative), and `findings.csv` (three classes)."""
    rows = sorted(rows, key=lambda row: row["image"])
    refuse_repeats([row["image"] for row in rows], root)
    for part in ("train", "test"):
        lines = [
            f"{row['patient']} {row['image']} "
            f"{'positive' if row['finding'] == 'COVID-19' else 'negative'} simulated\n"
            for row in rows
            if row["part"] == part
        ]
        write_text(root / f"{part}.txt", "".join(lines))
    findings = [(row["image"], row["finding"]) for row in rows]
    write_text(root / "findings.csv", _lines("image,finding", findings))


def case_labels(case: Case) -> frozenset[str]:
    """The labels of an image: what is drawn, and what that implies."""
    return with_parents(lesion.concept for lesion in case.lesions)


def lesion_boxes(mask: np.ndarray | None) -> list[tuple[int, int, int, int]]:
    """One box a component of a lesion's mask, specks left out; none without a mask."""
    if mask is None:
        return []
    return mask_boxes(mask, smallest=max(1, round(SPECK * int(mask.sum()))))


def refuse_repeats(names: Sequence[str], root: Path) -> None:
    """Refuse two images of one name, of which the second would have replaced the first."""
    repeated = pd.Series(names, dtype="str").duplicated()
    if repeated.any():
        problem = "two images of the same name"
        raise InputError(problem, "Name them apart.", file=root, row=names[int(repeated.argmax())])


def _lines(header: str, rows: Iterable[Sequence[Any]]) -> str:
    return "".join(f"{line}\n" for line in (header, *(",".join(map(str, row)) for row in rows)))
