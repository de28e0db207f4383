"""The official on-disk layouts of the data sets, filled with simulated radiographs.

Each has a function that writes one image and returns its row, and one that writes the tables from
all rows; `root` is the data set's folder. The names are the data sets' own, not imported from the
readers in `datasets/`: so an edit of a reader redraws nothing.
"""

import gzip
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rctpl_utils.datasets.masks import encode_runs, mask_boxes, mask_polygons
from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path, write_json, write_text
from rctpl_utils.simulation.cases import Case
from rctpl_utils.simulation.image_files import (
    inverted_film,
    uid_of,
    write_dicom,
    write_jpeg,
    write_mask_png,
    write_png,
)
from rctpl_utils.simulation.radiograph import Radiograph
from rctpl_utils.simulation.training_cases import Study, study_id_of
from rctpl_utils.vocabulary import CHESTXRAY14_CONCEPTS, CHEXPERT_CONCEPTS, with_parents

Row = dict[str, Any]
SPECK = 0.04  # components below this share of a lesion's area get no box of their own
FRAME = 1024  # pixels: the size of ChestX-ray14's official images, which its boxes refer to
# ChestX-ray14's own spelling of labels and, of the eight findings that have them, of boxes
_LABEL_NAMES = {"Pleural Effusion": "Effusion", "Pleural Thickening": "Pleural_Thickening"}
_BOX_NAMES = {
    "Atelectasis": "Atelectasis", "Cardiomegaly": "Cardiomegaly", "Pleural Effusion": "Effusion",
    "Infiltration": "Infiltrate", "Mass": "Mass", "Nodule": "Nodule", "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
}  # fmt: skip
_MIMIC_SPLITS = {"train": "train", "validation": "validate", "test": "test"}
_MIMIC_LABELS = tuple(sorted((*CHEXPERT_CONCEPTS, "No Finding")))  # MIMIC-CXR's order


def chestxray14_image(root: Path, case: Case, radiograph: Radiograph) -> Row:
    """Write `images_001/images/<image_id>`; the row has labels and the boxes of eight findings."""
    write_png(root / "images_001" / "images" / case.image_id, radiograph.pixels)
    height, width = radiograph.pixels.shape
    scale = np.array([FRAME / width, FRAME / height] * 2)
    boxes = [
        (name, *np.multiply(box, scale).tolist())
        for concept, name in _BOX_NAMES.items()
        for box in lesion_boxes(radiograph.masks.get(concept))
    ]
    labels = sorted(_LABEL_NAMES.get(c, c) for c in case_labels(case) & set(CHESTXRAY14_CONCEPTS))
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
    rows = _ordered(rows, root)
    follow_up: dict[str, int] = {}
    entries, boxes = [], []
    for row in rows:
        visit = follow_up[row["patient"]] = follow_up.get(row["patient"], -1) + 1
        person = (row["patient"], "", "", "PA")  # age and sex are unknown
        entries.append((row["image"], row["labels"], visit, *person, *row["size"], "", ""))
        boxes += [(row["image"], *box, "", "", "") for box in row["boxes"]]
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    _write_lines(root / "Data_Entry_2017_v2020.csv", header, entries)
    _write_lines(root / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,", boxes)
    for name, wanted in (("test_list.txt", True), ("train_val_list.txt", False)):
        names = [row["image"] for row in rows if row["test"] == wanted]
        write_text(root / name, "".join(f"{name}\n" for name in names))


def chexpert_image(root: Path, case: Case, radiograph: Radiograph) -> Row:
    """Write the JPEG; `image_id` is its path, "CheXpert-v1.0-small/{train,valid}/patientN/..."."""
    write_jpeg(root / case.image_id, radiograph.pixels)
    home, part, *_ = case.image_id.split("/")
    return {"image": case.image_id, "list": (home, part), "labels": case_labels(case)}


def chexpert_tables(root: Path, rows: Iterable[Row]) -> None:
    """Write `train.csv` (not mentioned = blank) and `valid.csv` (absent = 0)."""
    rows = _ordered(rows, root)
    columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", *CHEXPERT_CONCEPTS]
    for home, part in sorted({row["list"] for row in rows}):
        absent, lines = "" if part == "train" else "0.0", []
        for row in (row for row in rows if row["list"] == (home, part)):
            clear = not row["labels"] - {"Support Devices"}  # as CheXpert's labeler has it
            values = [clear, *(concept in row["labels"] for concept in CHEXPERT_CONCEPTS)]
            labels = ["1.0" if value else absent for value in values]
            lines.append((row["image"], "", "", "Frontal", "PA", *labels))
        _write_lines(root / home / f"{part}.csv", ",".join(columns), lines)


def covidx_image(root: Path, case: Case, radiograph: Radiograph) -> Row:
    """Write `test/<image_id>` or, for every other split, `train/<image_id>`."""
    part, drawn = "test" if case.split == "test" else "train", case_labels(case)
    write_png(root / part / case.image_id, radiograph.pixels)
    label = "pneumonia" if "Pneumonia" in drawn else "normal"
    label = "COVID-19" if "COVID-19" in drawn else label
    return {"image": case.image_id, "patient": case.patient_id, "part": part, "label": label}


def covidx_tables(root: Path, rows: Iterable[Row]) -> None:
    """Write `train.txt` and `test.txt`, the three-class lists."""
    rows = _ordered(rows, root)
    for part in ("train", "test"):
        lines = [
            f"{row['patient']} {row['image']} {row['label']} simulated\n"
            for row in rows
            if row["part"] == part
        ]
        write_text(root / f"{part}.txt", "".join(lines))


def rsna_image(root: Path, case: Case, radiograph: Radiograph) -> Row:
    """Write `stage_2_train_images/<image_id>.dcm`, one film in ten as MONOCHROME1."""
    image = case.image_id
    path = root / "stage_2_train_images" / f"{image}.dcm"
    uids = (uid_of(image), uid_of(f"study {image}"), uid_of(f"series {image}"))
    write_dicom(path, radiograph.pixels, uids, case.patient_id, inverted=inverted_film(image))
    boxes = lesion_boxes(_lesion(case, radiograph, "Pneumonia"))
    return {"image": image, "boxes": boxes, "normal": not case.lesions}


def rsna_tables(root: Path, rows: Iterable[Row]) -> None:
    """Write the label table (one row a box) and the class table."""
    labels, classes = [], []
    for row in _ordered(rows, root):
        name = "Normal" if row["normal"] else "No Lung Opacity / Not Normal"
        name = "Lung Opacity" if row["boxes"] else name
        for box in row["boxes"] or [None]:
            corners = [f"{value}.0" for value in box] if box else [""] * 4
            labels.append((row["image"], *corners, int(box is not None)))
            classes.append((row["image"], name))
    header = "patientId,x,y,width,height,Target"
    _write_lines(root / "stage_2_train_labels.csv", header, labels)
    _write_lines(root / "stage_2_detailed_class_info.csv", "patientId,class", classes)


def siim_image(root: Path, case: Case, radiograph: Radiograph) -> Row:
    """Write `dicom-images-train/<study>/<series>/<image_id>.dcm`; `image_id` is a DICOM UID."""
    image = case.image_id
    study, series = f"{image}.1", f"{image}.2"
    path, uids = (
        root / "dicom-images-train" / study / series / f"{image}.dcm",
        (image, study, series),
    )
    write_dicom(path, radiograph.pixels, uids, case.patient_id, inverted=inverted_film(image))
    mask = _lesion(case, radiograph, "Pneumothorax")
    empty = np.zeros(radiograph.pixels.shape, dtype=bool)
    return {"image": image, "runs": encode_runs(empty if mask is None else mask)}


def siim_tables(root: Path, rows: Iterable[Row]) -> None:
    """Write `train-rle.csv`, a space before its second column's name and values as originally."""
    rows = [(row["image"], f" {row['runs']}") for row in _ordered(rows, root)]
    _write_lines(root / "train-rle.csv", "ImageId, EncodedPixels", rows)


def covid_rural_image(root: Path, case: Case, radiograph: Radiograph) -> Row:
    """Write `jpgs/<image_id>.jpg`, its outlines and, where an opacity is drawn, its mask."""
    write_jpeg(root / "jpgs" / f"{case.image_id}.jpg", radiograph.pixels)
    mask = _lesion(case, radiograph, "COVID-19")
    kind = {"group_id": None, "shape_type": "polygon", "flags": {}}
    polygons = [] if mask is None else mask_polygons(mask)
    height, width = radiograph.pixels.shape
    outline = {
        "version": "4.5.6",  # of labelme, as in the real annotations
        "flags": {},
        "shapes": [{"label": "opacity", "points": p.tolist(), **kind} for p in polygons],
        "imagePath": f"{case.image_id}.jpg",
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    write_json(root / "jpgs" / "jsons" / f"{case.image_id}.json", outline)
    if mask is not None:
        write_mask_png(root / "pngs_masks" / f"{case.image_id}.png", mask)
    return {"image": case.image_id}


class Layout(NamedTuple):
    """How one data set lies on disk: the writer of an image and the writer of the tables."""

    write_image: Callable[[Path, Case, Radiograph], Row]
    write_tables: Callable[[Path, Iterable[Row]], object]


def case_labels(case: Case) -> frozenset[str]:
    """The labels of an image: what is drawn, and what that implies."""
    return with_parents(case.concepts)


def lesion_boxes(mask: np.ndarray | None) -> list[tuple[int, int, int, int]]:
    """One box a component of a lesion's mask, specks left out; none without a mask."""
    if mask is None:
        return []
    return mask_boxes(mask, smallest=max(1, round(SPECK * int(mask.sum()))))


def mimic_image(root: Path, case: Case, radiograph: Radiograph) -> None:
    """Write `files/pNN/<patient>/<study>/<image_id>.jpg`; each patient has one study."""
    patient = case.patient_id
    folder = root / "files" / patient[:3] / patient / study_id_of(patient)
    write_jpeg(folder / f"{case.image_id}.jpg", radiograph.pixels)


def mimic_reports(root: Path, studies: Iterable[Study]) -> None:
    """Write `files/pNN/<patient>/<study>.txt` of each study."""
    for study in studies:
        folder = root / "files" / study.patient_id[:3] / study.patient_id
        write_text(folder / f"{study.study_id}.txt", _report_text(study))


def mimic_tables(root: Path, films: Sequence[tuple[Study, Case]], size: int) -> None:
    """Write `mimic-cxr-2.0.0-metadata`, `-split` and `-chexpert` (`.csv.gz`).

    Two columns of the metadata are ours: `source` (the Open-I report), `templated` (1: our text).
    """
    rows = [
        {
            "dicom_id": case.image_id,
            "subject_id": study.patient_id[1:],
            "study_id": study.study_id[1:],
            "ViewPosition": "PA",
            "Rows": size,
            "Columns": size,
            "split": _MIMIC_SPLITS[study.split],
            "source": study.source,
            "templated": int(study.templated),
        }
        for study, case in films
    ]
    table = pd.DataFrame(rows)
    _write_packed(root, "metadata", table.drop(columns="split"))
    _write_packed(root, "split", table[["dicom_id", "study_id", "subject_id", "split"]])
    studies = {study.study_id: study for study, _ in films}.values()
    _write_packed(root, "chexpert", pd.DataFrame([_label_row(study) for study in studies]))


def _report_text(study: Study) -> str:
    """The report under MIMIC's headings; the sections' words are unchanged, only wrapped."""
    sections = {
        "EXAMINATION": "Chest radiograph.",
        "INDICATION": study.indication,
        "COMPARISON": study.comparison,
        "FINDINGS": study.findings,
        "IMPRESSION": study.impression,
    }
    wrap = textwrap.TextWrapper(
        78, initial_indent=" ", subsequent_indent=" ", break_on_hyphens=False
    )
    blocks = [wrap.fill(f"{heading}:  {text}") for heading, text in sections.items() if text]
    return "\n".join(f"{block}\n" for block in (f"{'FINAL REPORT':>40}", *blocks))


def _label_row(study: Study) -> Row:
    """1 for what the codes say is present, with parents; blank for what they do not mention."""
    present = study.concepts
    labels = {label: 1.0 if label in present else None for label in _MIMIC_LABELS}
    labels["No Finding"] = None if present - {"Support Devices"} else 1.0
    return {"subject_id": study.patient_id[1:], "study_id": study.study_id[1:], **labels}


def _write_packed(root: Path, name: str, table: pd.DataFrame) -> None:
    """Gzip without a time stamp or a file's name, so that the same table gives the same bytes."""
    text = table.to_csv(index=False, lineterminator="\n")
    with (
        atomic_path(root / f"mimic-cxr-2.0.0-{name}.csv.gz") as temporary,
        temporary.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
    ):
        packed.write(text.encode())


def _lesion(case: Case, radiograph: Radiograph, concept: str) -> np.ndarray | None:
    """The mask of `concept`, None where the case does not show it."""
    if concept not in case_labels(case):
        return None
    mask = radiograph.masks.get(concept)
    if mask is None or not mask.any():
        problem = f"{concept} is labeled, but nothing is drawn"
        raise InputError(problem, "Draw it, or take it out of the case.", row=case.image_id)
    return mask


def _ordered(rows: Iterable[Row], root: Path) -> list[Row]:
    """The rows in the order of their images; two of one name would have replaced each other."""
    rows = sorted(rows, key=lambda row: row["image"])
    for row, following in pairwise(rows):
        if row["image"] == following["image"]:
            problem = "two images of the same name"
            raise InputError(problem, "Name them apart.", file=root, row=row["image"])
    return rows


def _write_lines(path: Path, header: str, rows: Iterable[Sequence[Any]]) -> None:
    lines = (header, *(",".join(map(str, row)) for row in rows))
    write_text(path, "".join(f"{line}\n" for line in lines))


LAYOUTS = {
    "chestxray14": Layout(chestxray14_image, chestxray14_tables),
    "chexpert": Layout(chexpert_image, chexpert_tables),
    "covidx": Layout(covidx_image, covidx_tables),
    "rsna": Layout(rsna_image, rsna_tables),
    "siim": Layout(siim_image, siim_tables),
    "covid-rural": Layout(covid_rural_image, lambda root, rows: _ordered(rows, root)),  # no table
}
