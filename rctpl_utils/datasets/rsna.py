"""RSNA Pneumonia Detection Challenge (Shih et al., Radiology: AI 2019): opacity boxes on DICOM.

torchxrayvision's `RSNA_Pneumonia_Dataset` is not used: it keeps PA views only by default, leaves
MONOCHROME1 inverted, takes boxes to refer to 1024 pixels, and reports each label twice (Pneumonia
and Lung Opacity); a test holds its labels and boxes to ours.

Layout: `stage_2_train_images/<patientId>.dcm`, `stage_2_train_labels.csv` (one row a box, in the
DICOM's own pixels; a patientId names one image). Labels of the challenge's test images were not
published, so 20 % of the patients (by a hash) are validation, the rest test.
"""

from pathlib import Path

import pandas as pd

from rctpl_utils.datasets.base import Radiographs, TableMasks
from rctpl_utils.datasets.masks import box_mask
from rctpl_utils.datasets.screening import Screen
from rctpl_utils.datasets.tables import bare_names, find_files, hash_split, locate, read_table
from rctpl_utils.given_files import child

CONCEPTS = ("Pneumonia",)
BOX_COLUMNS = ["x", "y", "width", "height"]
LABEL_TABLE = "stage_2_train_labels.csv"
IMAGE_FOLDER = "stage_2_train_images"


def open_rsna(root: Path, split: str, **options: bool) -> Radiographs:
    """Open "validation" (20 % of the patients) or "test" (80 %)."""
    file, screen = child(root, LABEL_TABLE), Screen(**options)
    table = read_table(file, ["patientId", *BOX_COLUMNS, "Target"], dtype={"patientId": "str"})
    table = _check(table, file, screen)
    labels = table.groupby("patientId", sort=True)["Target"].first()
    records = pd.DataFrame({"image_id": labels.index, "patient_id": labels.index})
    records["Pneumonia"] = labels.to_numpy(dtype=float)
    records = records[hash_split(records["patient_id"]) == split]
    folder = child(root, IMAGE_FOLDER)
    paths = locate(records["image_id"] + ".dcm", find_files([folder], (".dcm",), screen))
    records.insert(2, "path", paths)
    records = screen.present(records, folder)
    rows = table[table["Target"] == 1]
    boxes = rows[BOX_COLUMNS].to_numpy(dtype=float).tolist()
    masks = {"Pneumonia": TableMasks(file, rows["patientId"], boxes, box_mask)}
    return Radiographs("rsna", split, CONCEPTS, records, masks=masks, screen=screen)


def _check(table: pd.DataFrame, file: Path, screen: Screen) -> pd.DataFrame:
    """The sound rows, boxes as float; a film with a bad row goes as a whole."""
    cure, whole = "Use the official table, unchanged.", "patientId"
    table = screen.blank(table, ["patientId"], file)
    table = screen.outside(table, "patientId", file)
    table["patientId"] = bare_names(table["patientId"])
    table = screen.duplicates(table, ["patientId", *BOX_COLUMNS], file)
    unknown, problem = ~table["Target"].isin([0, 1]), "a Target that is not 0 or 1"
    table = screen.rows(table, unknown, problem, cure, file, whole=whole)
    boxed = table[BOX_COLUMNS].notna().all(axis=1)
    clash, problem = boxed != (table["Target"] == 1), "Target and box contradict each other"
    table = screen.rows(table, clash, problem, cure, file, whole=whole)
    first = table.groupby("patientId")["Target"].transform("first")
    problem = "Target differs from an earlier row"
    table = screen.rows(table, first != table["Target"], problem, cure, file, whole=whole)
    return screen.numbers(table, BOX_COLUMNS, file, whole=whole)
