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

from rctpl_utils.datasets.base import Radiographs
from rctpl_utils.datasets.boxes import BoxMasks
from rctpl_utils.datasets.tables import (
    files_in,
    hash_split,
    keep_present,
    numbers,
    read_table,
    refuse_blank,
    refuse_duplicates,
    refuse_outside,
    refuse_rows,
)

CONCEPTS = ("Pneumonia",)
BOX_COLUMNS = ["x", "y", "width", "height"]
LABEL_TABLE = "stage_2_train_labels.csv"
IMAGE_FOLDER = "stage_2_train_images"


def open_rsna(root: Path, split: str, *, allow_partial: bool = False) -> Radiographs:
    """Open "validation" (20 % of the patients) or "test" (80 %).

    Args:
        root: the data set's folder.
        split: "validation" or "test".
        allow_partial: leave out, and count, images whose file is missing.

    Raises:
        InputError: a missing file or column, a duplicate, labels that contradict each other or the
            boxes, a path outside the folder.
    """
    file = root / LABEL_TABLE
    table = read_table(file, ["patientId", *BOX_COLUMNS, "Target"], dtype={"patientId": "str"})
    _check(table, file)
    corners = numbers(table, BOX_COLUMNS, file)
    labels = table.groupby("patientId", sort=True)["Target"].first()
    records = pd.DataFrame({"image_id": labels.index, "patient_id": labels.index})
    records["Pneumonia"] = labels.to_numpy(dtype=float)
    records = records[hash_split(records["patient_id"]) == split]
    folder = root / IMAGE_FOLDER
    files = files_in([folder], (".dcm",)) if folder.is_dir() else {}
    paths = (records["image_id"] + ".dcm").map(files)
    records.insert(2, "path", paths)
    records, missing = keep_present(
        records, paths.notna(), allow_partial=allow_partial, file=folder
    )
    rows = table[table["Target"] == 1]
    reader = BoxMasks.of(file, rows["patientId"], corners.loc[rows.index])
    return Radiographs(
        "rsna",
        split,
        CONCEPTS,
        records,
        masks={"Pneumonia": reader},
        annotated={"Pneumonia": reader.drawn(records["image_id"])},
        left_out={"image file missing": missing},
    )


def _check(table: pd.DataFrame, file: Path) -> None:
    cure = "Use the official table, unchanged."
    refuse_blank(table, ["patientId"], file)
    refuse_duplicates(table, ["patientId", *BOX_COLUMNS], file)
    refuse_outside(table["patientId"], file)
    refuse_rows(~table["Target"].isin([0, 1]), "a Target that is not 0 or 1", cure, file)
    boxed = table[BOX_COLUMNS].notna().all(axis=1)
    refuse_rows(boxed != (table["Target"] == 1), "Target and box contradict each other", cure, file)
    first = table.groupby("patientId")["Target"].transform("first")
    refuse_rows(first != table["Target"], "Target differs from an earlier row", cure, file)
