"""SIIM-ACR Pneumothorax Segmentation (2019): DICOM with run-length masks, from NIH images.

torchxrayvision's `SIIM_Pneumothorax_Dataset` is not used: it keeps only the last of an image's run
lengths and counts the image once for each, tells negatives by the exact text "-1", takes 1024
pixels for granted, and remembers the first folder it saw for all later ones; a test holds one
mask to its decoder.

Layout: `dicom-images-train/<study>/<series>/<image>.dcm`, `train-rle.csv` (the second column's name
begins with a space; several rows an image are one mask in parts); or the second stage's
`stage_2_train.csv`, with the first one's test images in `dicom-images-test/`. 20 % of the patients
(by a hash) are validation, the rest test; an image is a patient, as it is a study of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rctpl_utils.datasets.base import MISSING, Radiographs
from rctpl_utils.datasets.masks import NO_RUNS, decode_runs
from rctpl_utils.datasets.screening import Screen
from rctpl_utils.datasets.tables import (
    bare_names,
    find_files,
    hash_split,
    keep_present,
    locate,
    read_table,
)
from rctpl_utils.given_files import child

CONCEPTS = ("Pneumothorax",)
RUN_TABLE, IMAGE_FOLDER = "train-rle.csv", "dicom-images-train"
RUN_TABLES = (RUN_TABLE, "stage_2_train.csv")
IMAGE_FOLDERS = (IMAGE_FOLDER, "dicom-images-test", "stage_2_images")


@dataclass(frozen=True)
class RunMasks:
    """Draws the union of an image's run lengths.

    Attributes:
        file: the table, named in errors.
        runs: image identifier -> (row from 1, run lengths) of each of its rows.
    """

    file: Path
    runs: Mapping[str, list[tuple[int, str]]]

    def __call__(self, record: pd.Series, size: tuple[int, int]) -> np.ndarray:
        """The mask of one record: bool, `size` = (H, W) of its image."""
        mask = np.zeros(size, dtype=bool)
        for row, runs in self.runs.get(record["image_id"], []):
            mask |= decode_runs(runs, size, file=self.file, row=row)
        return mask


def open_siim(
    root: Path, split: str, *, allow_partial: bool = False, skip_bad: bool = False
) -> Radiographs:
    """Open "validation" (20 % of the patients) or "test" (80 %).

    Args:
        root: the data set's folder.
        split: "validation" or "test".
        allow_partial: leave out, and count, images whose file is missing.
        skip_bad: leave out, count and list bad rows and images.

    Raises:
        InputError: a missing file or column, a duplicate, an image that is both positive and
            negative, two files of one image, a path outside the folder.
    """
    file, screen = child(root, *RUN_TABLES), Screen(skip_bad)
    table = read_table(file, ["ImageId", "EncodedPixels"], dtype="str", keep_default_na=False)
    table = table[["ImageId", "EncodedPixels"]]
    table = _check(table, file, screen)
    positive = table["EncodedPixels"] != NO_RUNS
    folders = [child(root, folder) for folder in IMAGE_FOLDERS]
    files = find_files(folders, (".dcm",), screen)
    records = pd.DataFrame({"image_id": table["ImageId"].drop_duplicates()})
    records["patient_id"] = records["image_id"]
    records["path"] = locate(records["image_id"] + ".dcm", files)
    records["Pneumothorax"] = positive[records.index].astype(float)
    records = records[hash_split(records["patient_id"]) == split]
    present = records["path"].notna()
    records, missing = keep_present(records, present, allow_partial=allow_partial, file=root)
    runs: dict[str, list[tuple[int, str]]] = {}
    for row, image, text in table[positive].itertuples():
        runs.setdefault(image, []).append((row + 1, text))
    return Radiographs(
        "siim",
        split,
        CONCEPTS,
        records,
        masks={"Pneumothorax": RunMasks(file, runs)},
        annotated={"Pneumothorax": records["image_id"].isin(runs).to_numpy()},
        left_out={MISSING: missing},
        screen=screen,
    )


def _check(table: pd.DataFrame, file: Path, screen: Screen) -> pd.DataFrame:
    """The sound rows; an image with a bad row goes as a whole."""
    cure, whole = "Use the official table, unchanged.", "ImageId"
    table = screen.blank(table, ["ImageId"], file)
    table = screen.outside(table, "ImageId", file)
    table["ImageId"] = bare_names(table["ImageId"])
    table = screen.duplicates(table, ["ImageId", "EncodedPixels"], file)
    empty = table["EncodedPixels"] == ""
    table = screen.rows(table, empty, "no run lengths", cure, file, whole=whole)
    positive = table["EncodedPixels"] != NO_RUNS
    clash = positive.groupby(table["ImageId"]).transform("first") != positive
    problem = "both with and without a pneumothorax"
    return screen.rows(table, clash, problem, cure, file, whole=whole)
