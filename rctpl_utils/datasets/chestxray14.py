"""NIH ChestX-ray14 (Wang et al., CVPR 2017): 14 text-mined labels, 984 boxes, official test list.

Read with pandas rather than torchxrayvision's `NIH_Dataset`, which wants all images in one folder,
by default drops AP views and repeated patients, takes any text that contains a label's name, does
not notice missing files, and re-seeds NumPy's global generator; a test holds its labels to ours.

Layout: `images_001..012/images/*.png` (or one `images/`), `Data_Entry_2017[_v2020].csv`,
`test_list.txt`, `BBox_List_2017.csv` (boxes in pixels of the 1024 x 1024 originals).
"""

from pathlib import Path

import numpy as np
import pandas as pd

from rctpl_utils.datasets.base import Radiographs
from rctpl_utils.datasets.boxes import BoxMasks
from rctpl_utils.datasets.tables import (
    files_in,
    keep_present,
    numbers,
    read_lines,
    read_table,
    refuse_blank,
    refuse_duplicates,
    refuse_outside,
    refuse_rows,
    refuse_shared_patients,
)
from rctpl_utils.vocabulary import CHESTXRAY14_CONCEPTS

FRAME = 1024  # pixels: the size of the official images, which the boxes refer to
ENTRY_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOX_TABLE = "BBox_List_2017.csv"
BOX_COLUMNS = ["Bbox [x", "y", "w", "h]"]  # the header spreads one title over four columns
# the data set's own spelling -> canonical name
CANONICAL = {
    **{name: name for name in CHESTXRAY14_CONCEPTS},
    "Effusion": "Pleural Effusion",
    "Pleural_Thickening": "Pleural Thickening",
    "Infiltrate": "Infiltration",  # in the box table only
}
BOX_CONCEPTS = (
    "Atelectasis",
    "Cardiomegaly",
    "Pleural Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
)


def open_chestxray14(root: Path, split: str, *, allow_partial: bool = False) -> Radiographs:
    """Open one split: "test" is `test_list.txt`, "validation" all other images.

    Args:
        root: the data set's folder.
        split: "validation" or "test".
        allow_partial: leave out, and count, images whose file is missing.

    Raises:
        InputError: a missing file or column, an unknown label, a duplicate, a patient on both
            sides, a path outside the folder.
    """
    everything = _records(root)
    records = everything[_in_split(everything, split, root, allow_partial)]
    paths = records["image_id"].map(_images(root))
    records.insert(2, "path", paths)
    records, missing = keep_present(records, paths.notna(), allow_partial=allow_partial, file=root)
    masks = _boxes(root, everything["image_id"], allow_partial)
    annotated = {concept: reader.drawn(records["image_id"]) for concept, reader in masks.items()}
    left_out = {"image file missing": missing}
    return Radiographs(
        "chestxray14",
        split,
        CHESTXRAY14_CONCEPTS,
        records,
        masks=masks,
        annotated=annotated,
        left_out=left_out,
    )


def _images(root: Path) -> dict[str, str]:
    """File name -> path, in `images*/` and `images*/images/`."""
    tops = sorted(root.glob("images*"))
    folders = [folder for top in tops for folder in (top, top / "images") if folder.is_dir()]
    return files_in(folders, (".png", ".jpg", ".jpeg"))


def _records(root: Path) -> pd.DataFrame:
    """The entry table as records without paths."""
    tables = [root / name for name in ENTRY_TABLES]
    file = next((table for table in tables if table.is_file()), tables[0])
    columns = ["Image Index", "Finding Labels", "Patient ID"]
    entries = read_table(file, columns, dtype=dict.fromkeys(columns, "str"))
    refuse_blank(entries, ["Image Index", "Patient ID"], file)
    refuse_duplicates(entries, ["Image Index"], file)
    refuse_outside(entries["Image Index"], file)
    records = _labels(entries["Finding Labels"], file)
    records.insert(0, "image_id", entries["Image Index"].to_numpy())
    records.insert(1, "patient_id", entries["Patient ID"].to_numpy())
    return records


def _labels(texts: pd.Series, file: Path) -> pd.DataFrame:
    """0.0 or 1.0 a concept, from texts such as "Effusion|Mass"; each combination is read once."""
    codes, combinations = pd.factorize(texts.fillna(""))
    labels = np.zeros((len(combinations), len(CHESTXRAY14_CONCEPTS)))
    for row, combination in enumerate(combinations):
        names = [] if combination == "No Finding" else combination.split("|")
        unknown = [name for name in names if name not in CANONICAL]
        if unknown:
            problem = f"the label {unknown[0]!r} is not one of ChestX-ray14's"
            cure = "Use the official table, unchanged."
            refuse_rows(codes == row, problem, cure, file)
        for name in names:
            labels[row, CHESTXRAY14_CONCEPTS.index(CANONICAL[name])] = 1
    return pd.DataFrame(labels[codes], columns=list(CHESTXRAY14_CONCEPTS))


def _in_split(records: pd.DataFrame, split: str, root: Path, allow_partial: bool) -> pd.Series:
    file = root / "test_list.txt"
    listed = pd.Series([line.strip() for line in read_lines(file)], dtype="str")
    refuse_duplicates(listed.to_frame("image"), ["image"], file)
    if not allow_partial:
        unknown = ~listed.isin(records["image_id"])
        problem = "an image that the data entry table does not hold"
        refuse_rows(unknown, problem, "Complete the table, or pass allow_partial=True.", file)
    test = records["image_id"].isin(listed)
    patients = records["patient_id"]
    names = ("the test list", "the rest")
    refuse_shared_patients(patients[test], patients[~test], names, file)
    return test if split == "test" else ~test


def _boxes(root: Path, images: pd.Series, allow_partial: bool) -> dict[str, BoxMasks]:
    file = root / BOX_TABLE
    if not file.is_file():
        return {}
    names = ["Image Index", "Finding Label"]
    table = read_table(file, [*names, *BOX_COLUMNS], dtype=dict.fromkeys(names, "str"))
    refuse_duplicates(table, ["Image Index", "Finding Label", *BOX_COLUMNS], file)
    concepts = table["Finding Label"].map(CANONICAL)
    refuse_rows(concepts.isna(), "an unknown finding", "Use the official table.", file)
    if not allow_partial:
        unknown = ~table["Image Index"].isin(images)
        problem = "a box of an image that the data entry table does not hold"
        refuse_rows(unknown, problem, "Complete the table, or pass allow_partial=True.", file)
    corners, readers = numbers(table, BOX_COLUMNS, file), {}
    for concept in BOX_CONCEPTS:
        rows = concepts == concept
        images = table.loc[rows, "Image Index"]
        readers[concept] = BoxMasks.of(file, images, corners[rows], frame=FRAME)
    return readers
