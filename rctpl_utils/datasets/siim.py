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

from pathlib import Path

import pandas as pd

from rctpl_utils.datasets.base import Radiographs, TableMasks
from rctpl_utils.datasets.masks import NO_RUNS, decode_runs
from rctpl_utils.datasets.screening import Screen
from rctpl_utils.datasets.tables import bare_names, find_files, hash_split, locate, read_table
from rctpl_utils.given_files import child

CONCEPTS = ("Pneumothorax",)
RUN_TABLES = ("train-rle.csv", "stage_2_train.csv")
IMAGE_FOLDERS = ("dicom-images-train", "dicom-images-test", "stage_2_images")


def open_siim(root: Path, split: str, **options: bool) -> Radiographs:
    """Open "validation" (20 % of the patients) or "test" (80 %)."""
    file, screen = child(root, *RUN_TABLES), Screen(**options)
    table = read_table(file, ["ImageId", "EncodedPixels"], dtype="str", keep_default_na=False)
    table = _check(table, file, screen)
    positive = table["EncodedPixels"] != NO_RUNS
    folders = [child(root, folder) for folder in IMAGE_FOLDERS]
    files = find_files(folders, (".dcm",), screen)
    records = pd.DataFrame({"image_id": table["ImageId"].drop_duplicates()})
    records["patient_id"] = records["image_id"]
    records["path"] = locate(records["image_id"] + ".dcm", files)
    records["Pneumothorax"] = positive[records.index].astype(float)
    records = records[hash_split(records["patient_id"]) == split]
    records = screen.present(records, root)
    rows = table[positive]
    reader = TableMasks(file, rows["ImageId"], rows["EncodedPixels"], decode_runs)
    masks = {"Pneumothorax": reader}
    return Radiographs("siim", split, CONCEPTS, records, masks=masks, screen=screen)


def _check(table: pd.DataFrame, file: Path, screen: Screen) -> pd.DataFrame:
    """The sound rows; an image with a bad row goes as a whole."""
    cure, whole = "Use the official table, unchanged.", "ImageId"
    table = screen.blank(table, ["ImageId"], file)
    table = screen.outside(table, "ImageId", file)
    table["ImageId"] = bare_names(table["ImageId"])
    table = screen.duplicates(table, ["ImageId", "EncodedPixels"], file)
    odd = ~table["EncodedPixels"].str.fullmatch(rf"{NO_RUNS}|[-\d\s]*\d")
    table = screen.rows(table, odd, "no run lengths", cure, file, whole=whole)
    positive = table["EncodedPixels"] != NO_RUNS
    clash = positive.groupby(table["ImageId"]).transform("first") != positive
    problem = "both with and without a pneumothorax"
    return screen.rows(table, clash, problem, cure, file, whole=whole)
