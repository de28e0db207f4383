"""Writers of the data sets whose lesions are drawn in: RSNA, SIIM-ACR, COVID Rural.

As in `layouts_labels`: one function an image, one for the tables; boxes, run lengths and outlines
are in the image's own pixels. A film that is labeled positive always has its lesion drawn.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rctpl_utils.datasets import covid_rural, rsna, siim
from rctpl_utils.datasets.masks import encode_runs, mask_polygons
from rctpl_utils.errors import InputError
from rctpl_utils.files import write_json, write_text
from rctpl_utils.simulation.cases import Case
from rctpl_utils.simulation.image_files import (
    DicomHeader,
    inverted_film,
    uid_of,
    write_dicom,
    write_jpeg,
    write_mask_png,
)
from rctpl_utils.simulation.layouts_labels import Row, case_labels, lesion_boxes, refuse_repeats

if TYPE_CHECKING:
    from rctpl_utils.simulation.radiograph import Radiograph

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
