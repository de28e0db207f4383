"""The official on-disk layouts of the data sets, filled with simulated radiographs.

Each has a function that writes one image and returns its row, and one that writes the tables from
all rows; `root` is the data set's folder, and the readers in `datasets/` describe the layouts. The
bytes depend on the cases and pixels alone.
"""

import gzip
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rctpl_utils.datasets import covid_rural, rsna, siim
from rctpl_utils.datasets.chestxray14 import BOX_CONCEPTS, CANONICAL, FRAME
from rctpl_utils.datasets.masks import encode_runs, mask_boxes, mask_polygons
from rctpl_utils.datasets.mimic_cxr import mimic_image_path
from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path, write_json, write_text
from rctpl_utils.simulation.cases import Case
from rctpl_utils.simulation.image_files import (
    DicomHeader,
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


LABELME_VERSION = "4.5.6"  # the real annotations' format


def rsna_image(root: Path, case: Case, radiograph: "Radiograph") -> Row:
    """Write `stage_2_train_images/<image_id>.dcm`, one film in ten as MONOCHROME1."""
    _refuse_shared_patient(case)
    header = DicomHeader(
        uid_of(case.image_id),
        uid_of(f"study {case.image_id}"),
        uid_of(f"series {case.image_id}"),
        case.patient_id,
        inverted_film(case.image_id),
    )
    write_dicom(root / rsna.IMAGE_FOLDER / f"{case.image_id}.dcm", radiograph.pixels, header)
    boxes = lesion_boxes(_lesion(case, radiograph, "Pneumonia"))
    return {"image": case.image_id, "boxes": boxes, "normal": not case.lesions}


def rsna_tables(root: Path, rows: Iterable[Row]) -> None:
    """Write the label table (one row a box) and the class table."""
    rows = sorted(rows, key=lambda row: row["image"])
    refuse_repeats([row["image"] for row in rows], root)
    labels, classes = ["patientId,x,y,width,height,Target"], ["patientId,class"]
    for row in rows:
        name = "Normal" if row["normal"] else "No Lung Opacity / Not Normal"
        name = "Lung Opacity" if row["boxes"] else name
        for box in row["boxes"] or [None]:
            corners = ",".join(f"{value}.0" for value in box) if box else ",,,"
            labels.append(f"{row['image']},{corners},{int(box is not None)}")
            classes.append(f"{row['image']},{name}")
    write_text(root / rsna.LABEL_TABLE, "\n".join([*labels, ""]))
    write_text(root / "stage_2_detailed_class_info.csv", "\n".join([*classes, ""]))


def siim_image(root: Path, case: Case, radiograph: "Radiograph") -> Row:
    """Write `dicom-images-train/<study>/<series>/<image_id>.dcm`; `image_id` is a DICOM UID."""
    _refuse_shared_patient(case)
    study, series = f"{case.image_id}.1", f"{case.image_id}.2"
    header = DicomHeader(
        case.image_id, study, series, case.patient_id, inverted_film(case.image_id)
    )
    path = root / siim.IMAGE_FOLDER / study / series / f"{case.image_id}.dcm"
    write_dicom(path, radiograph.pixels, header)
    mask = _lesion(case, radiograph, "Pneumothorax")
    empty = np.zeros(radiograph.pixels.shape, dtype=bool)
    return {"image": case.image_id, "runs": encode_runs(empty if mask is None else mask)}


def siim_tables(root: Path, rows: Iterable[Row]) -> None:
    """Write `train-rle.csv`, its second column's name with a space before it as in the original."""
    rows = sorted(rows, key=lambda row: row["image"])
    refuse_repeats([row["image"] for row in rows], root)
    lines = ["ImageId, EncodedPixels", *(f"{row['image']}, {row['runs']}" for row in rows), ""]
    write_text(root / siim.RUN_TABLE, "\n".join(lines))


def covid_rural_image(root: Path, case: Case, radiograph: "Radiograph") -> Row:
    """Write `jpgs/<image_id>.jpg`, its outlines and, where an opacity is drawn, its mask."""
    write_jpeg(root / covid_rural.IMAGE_FOLDER / f"{case.image_id}.jpg", radiograph.pixels)
    mask = _lesion(case, radiograph, "COVID-19")
    shapes = [] if mask is None else [_shape(points) for points in mask_polygons(mask)]
    height, width = radiograph.pixels.shape
    outline = {
        "version": LABELME_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": f"{case.image_id}.jpg",
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    write_json(root / covid_rural.OUTLINE_FOLDER / f"{case.image_id}.json", outline)
    if mask is not None:
        write_mask_png(root / covid_rural.MASK_FOLDER / f"{case.image_id}.png", mask)
    return {"image": case.image_id}


def covid_rural_tables(root: Path, rows: Iterable[Row]) -> None:
    """COVID Rural has no table; only refuse two images of one name."""
    refuse_repeats([row["image"] for row in rows], root)


def _lesion(case: Case, radiograph: "Radiograph", concept: str) -> np.ndarray | None:
    """The mask of `concept`, None where the case does not show it."""
    if concept not in case_labels(case):
        return None
    mask = radiograph.masks.get(concept)
    if mask is None or not mask.any():
        problem = f"{concept} is labeled, but nothing is drawn"
        raise InputError(problem, "Draw it, or take it out of the case.", row=case.image_id)
    return mask


def _refuse_shared_patient(case: Case) -> None:
    if case.patient_id != case.image_id:
        problem = f"in this data set each film is a patient; this one is {case.patient_id}'s"
        raise InputError(problem, "Give them the same name.", row=case.image_id)


def _shape(points: np.ndarray) -> dict:
    return {
        "label": "opacity",
        "points": points.tolist(),
        "group_id": None,
        "shape_type": "polygon",
        "flags": {},
    }


@dataclass(frozen=True)
class Layout:
    """How one data set lies on disk.

    Attributes:
        folder: its folder below the data root.
        write_image: (root, case, radiograph) -> row; writes one image, and its mask where the
            data set keeps that beside the image.
        write_tables: (root, rows) -> None; writes the lists and tables.
    """

    folder: str
    write_image: Callable[[Path, Case, "Radiograph"], Row]
    write_tables: Callable[[Path, Iterable[Row]], None]


LAYOUTS = {
    "chestxray14": Layout("chestxray14", chestxray14_image, chestxray14_tables),
    "chexpert": Layout("chexpert", chexpert_image, chexpert_tables),
    "covidx": Layout("covidx", covidx_image, covidx_tables),
    "rsna": Layout("rsna", rsna_image, rsna_tables),
    "siim": Layout("siim", siim_image, siim_tables),
    "covid-rural": Layout("covid-rural", covid_rural_image, covid_rural_tables),
}


@dataclass(frozen=True)
class MimicImages:
    """Writes MIMIC-CXR's films; a `write_image` that knows each film's study.

    The reports and tables of that tree are written by `mimic_tree`.

    Attributes:
        studies: dicom_id -> "sNNNNNNNN", the report that the film belongs to.
    """

    studies: Mapping[str, str]

    def __call__(self, root: Path, case: Case, radiograph: "Radiograph") -> Row:
        """Write `files/pNN/<patient_id>/<study>/<image_id>.jpg`."""
        study = self.studies[case.image_id]
        subject = case.patient_id.removeprefix("p")
        path = mimic_image_path(subject, study.removeprefix("s"), case.image_id)
        write_jpeg(root / path, radiograph.pixels)
        return {"image": case.image_id, "patient": case.patient_id, "study": study, "path": path}


SPLIT_NAMES = {"train": "train", "validation": "validate", "test": "test"}
LABELS = tuple(sorted((*CHEXPERT_CONCEPTS, "No Finding")))  # MIMIC-CXR's order
_TABLE = "mimic-cxr-2.0.0-{}.csv.gz"


def write_film(root: Path, case: Case, radiograph: Radiograph) -> Row:
    """Write one film; the patient's number gives the study, since each has one."""
    return MimicImages({case.image_id: study_id_of(case.patient_id)})(root, case, radiograph)


def write_reports(root: Path, studies: Iterable[Study]) -> None:
    """Write `files/pNN/<patient>/<study>.txt` of each study."""
    for study in studies:
        folder = root / "files" / study.patient_id[:3] / study.patient_id
        write_text(folder / f"{study.study_id}.txt", report_text(study))


def report_text(study: Study) -> str:
    """The report under MIMIC's headings; the sections' words are unchanged, only wrapped."""
    sections = {
        "EXAMINATION": "Chest radiograph.",
        "INDICATION": study.indication,
        "COMPARISON": study.comparison,
        "FINDINGS": study.findings,
        "IMPRESSION": study.impression,
    }
    blocks = [f"{'FINAL REPORT':>40}"]
    for heading, text in sections.items():
        if text:
            blocks.append(_wrapped(f"{heading}:  {text}"))
    return "\n".join(f"{block}\n" for block in blocks)


def write_tables(root: Path, films: Sequence[tuple[Study, Case]], size: int) -> None:
    """Write `mimic-cxr-2.0.0-metadata`, `-split` and `-chexpert` (`.csv.gz`).

    Args:
        root: the data set's folder.
        films: the films with their studies.
        size: side of a film in pixels.
    """
    rows = [
        {
            "dicom_id": case.image_id,
            "subject_id": study.patient_id[1:],
            "study_id": study.study_id[1:],
            "ViewPosition": "PA",
            "Rows": size,
            "Columns": size,
            "split": SPLIT_NAMES[study.split],
            "source": study.source,
            "templated": int(study.templated),
        }
        for study, case in films
    ]
    table = pd.DataFrame(rows)
    _write(root, "metadata", table.drop(columns="split"))
    _write(root, "split", table[["dicom_id", "study_id", "subject_id", "split"]])
    studies = {study.study_id: study for study, _ in films}.values()
    _write(root, "chexpert", pd.DataFrame([_label_row(study) for study in studies]))


def _label_row(study: Study) -> Mapping[str, float | str | None]:
    """1 for what the codes say is present, with parents; blank for what they do not mention."""
    present = study.concepts
    labels = {label: 1.0 if label in present else None for label in LABELS}
    labels["No Finding"] = None if present - {"Support Devices"} else 1.0
    return {"subject_id": study.patient_id[1:], "study_id": study.study_id[1:], **labels}


def _wrapped(text: str) -> str:
    return textwrap.fill(
        text, 78, initial_indent=" ", subsequent_indent=" ", break_on_hyphens=False
    )


def _write(root: Path, name: str, table: pd.DataFrame) -> None:
    """Gzip without a time stamp or a file's name, so that the same table gives the same bytes."""
    text = table.to_csv(index=False, lineterminator="\n")
    with (
        atomic_path(root / _TABLE.format(name)) as temporary,
        temporary.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
    ):
        packed.write(text.encode())
