"""NIH ChestX-ray14 (Wang et al., CVPR 2017): 14 text-mined labels, 984 boxes, official test list.

Read with pandas rather than torchxrayvision's `NIH_Dataset`, which wants all images in one folder,
by default drops AP views and repeated patients, takes any text that contains a label's name, does
not notice missing files, and re-seeds NumPy's global generator; a test holds its labels to ours.

Layout: `images_001..012/images/*.png` (or one `images/`), `Data_Entry_2017[_v2020].csv`,
`test_list.txt`, `BBox_List_2017[_Official_NIH].csv` (boxes in pixels of the 1024 x 1024 originals).
"""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from rctpl_utils.datasets.base import Radiographs, TableMasks
from rctpl_utils.datasets.masks import box_mask
from rctpl_utils.datasets.screening import Screen
from rctpl_utils.datasets.tables import (
    IMAGES,
    bare_names,
    find_files,
    locate,
    read_lines,
    read_table,
)
from rctpl_utils.given_files import child, folders_in
from rctpl_utils.vocabulary import CHESTXRAY14_CONCEPTS

FRAME = 1024  # pixels: the size of the official images, which the boxes refer to
ENTRY_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOX_TABLES = ("BBox_List_2017.csv", "BBox_List_2017_Official_NIH.csv")
TEST_LIST = "test_list.txt"
BOX_COLUMNS = ["Bbox [x", "y", "w", "h]"]  # the header spreads one title over four columns
_NAME = r"(?i)\d{8}_\d{3}\.(?:png|jpe?g)"
# the data set's own spelling -> canonical name
CANONICAL = {
    **{name: name for name in CHESTXRAY14_CONCEPTS},
    "Effusion": "Pleural Effusion",
    "Pleural_Thickening": "Pleural Thickening",
    "Infiltrate": "Infiltration",  # in the box table only
}
BOX_CONCEPTS = CHESTXRAY14_CONCEPTS[:8]  # the only ones that boxes were drawn for


def open_chestxray14(root: Path, split: str, **options: bool) -> Radiographs:
    """Open one split: "test" is `test_list.txt`, "validation" all other images."""
    screen = Screen(**options)
    everything, named = _records(root, screen)
    known = None if screen.allow_partial else named
    records = _in_split(everything, known, split, root, screen)
    folders = [each for each in folders_in(root) if each.name.lower().startswith("images")]
    files = find_files(folders, IMAGES, screen)
    records.insert(2, "path", locate(records["image_id"], files))
    records = screen.present(records, root)
    masks, concepts = _boxes(root, known, screen), CHESTXRAY14_CONCEPTS
    return Radiographs("chestxray14", split, concepts, records, masks=masks, screen=screen)


def _records(root: Path, screen: Screen) -> tuple[pd.DataFrame, pd.Series]:
    """The entry table as records without paths, and all images that it names."""
    file = child(root, *ENTRY_TABLES)
    columns = ["Image Index", "Finding Labels", "Patient ID"]
    entries = read_table(file, columns, dtype=dict.fromkeys(columns, "str"))
    known = bare_names(entries["Image Index"])
    entries = screen.blank(entries, ["Image Index", "Patient ID"], file)
    entries = screen.outside(entries, "Image Index", file)
    entries["Image Index"] = bare_names(entries["Image Index"])
    entries = screen.duplicates(entries, ["Image Index"], file)
    odd, cure = ~entries["Patient ID"].str.fullmatch(r"\w+"), "Use the official table."
    entries = screen.rows(entries, odd, "a Patient ID with other signs", cure, file)
    entries = _refuse_unknown_labels(entries, file, screen)
    records = _labels(entries["Finding Labels"])
    records.insert(0, "image_id", entries["Image Index"].to_numpy())
    records.insert(1, "patient_id", entries["Patient ID"].to_numpy())
    return records, known


def _names(combination: str) -> list[str]:
    """The labels of a text such as "Effusion|Mass"."""
    return [] if combination == "No Finding" else combination.split("|")


def _refuse_unknown_labels(entries: pd.DataFrame, file: Path, screen: Screen) -> pd.DataFrame:
    texts = entries["Finding Labels"].fillna("")
    for combination in texts.unique():
        unknown = [name for name in _names(combination) if name not in CANONICAL]
        if unknown:
            problem = f"the label {unknown[0]!r} is not one of ChestX-ray14's"
            cure = "Use the official table, unchanged."
            odd = texts.loc[entries.index] == combination
            entries = screen.rows(entries, odd, problem, cure, file)
    return entries


def _labels(texts: pd.Series) -> pd.DataFrame:
    """0.0 or 1.0 a concept; each combination of labels is read once."""
    codes, combinations = pd.factorize(texts)
    labels = np.zeros((len(combinations), len(CHESTXRAY14_CONCEPTS)))
    for row, combination in enumerate(combinations):
        for name in _names(combination):
            labels[row, CHESTXRAY14_CONCEPTS.index(CANONICAL[name])] = 1
    return pd.DataFrame(labels[codes], columns=list(CHESTXRAY14_CONCEPTS))


def _in_split(
    records: pd.DataFrame, known: pd.Series | None, split: str, root: Path, screen: Screen
) -> pd.DataFrame:
    """The records of a split; `known` are the images that the list may name, None for any.

    Names are compared without suffix and case: a test image that is missed would be validation.
    """
    file = child(root, TEST_LIST)
    listed = pd.DataFrame({"image": read_lines(file)}, dtype="str")
    listed["image"] = bare_names(listed["image"]).str.strip("\"'")
    problem, cure = "not the name of an image", "Use the official list."
    listed = screen.rows(listed, ~listed["image"].str.fullmatch(_NAME), problem, cure, file)
    listed["image"] = _stems(listed["image"])
    listed = screen.duplicates(listed, ["image"], file)
    if known is not None:
        unknown = ~listed["image"].isin(_stems(known))
        problem = "an image that the data entry table does not hold"
        cure = "Complete the table, or accept a part (--allow-partial)."
        listed = screen.rows(listed, unknown, problem, cure, file)
    test = _stems(records["image_id"]).isin(listed["image"])
    own, others = (test, ~test) if split == "test" else (~test, test)
    patients = records.loc[others, "patient_id"]
    names = ("the test list", "the rest")
    return screen.patients(records[own], patients, names, file, is_test=split == "test")


def _stems(images: pd.Series) -> pd.Series:
    return images.str.casefold().str.replace(r"\.\w+$", "", regex=True)


def _boxes(root: Path, known: pd.Series | None, screen: Screen) -> dict[str, TableMasks]:
    """A reader a concept; `known` are the images that the table may name, None for any."""
    file = child(root, *BOX_TABLES)
    if not file.is_file():
        return {}
    names = ["Image Index", "Finding Label"]
    table = read_table(file, [*names, *BOX_COLUMNS], dtype=dict.fromkeys(names, "str"))
    table["Image Index"] = bare_names(table["Image Index"])
    table = screen.duplicates(table, [*names, *BOX_COLUMNS], file)
    unknown, cure = ~table["Finding Label"].isin(CANONICAL), "Use the official table."
    table = screen.rows(table, unknown, "an unknown finding", cure, file, whole="Image Index")
    if known is not None:
        unknown = ~table["Image Index"].isin(known)
        problem = "a box of an image that the data entry table does not hold"
        cure = "Complete the table, or accept a part (--allow-partial)."
        table = screen.rows(table, unknown, problem, cure, file)
    table = screen.numbers(table, BOX_COLUMNS, file, whole="Image Index")
    concepts, readers = table["Finding Label"].map(CANONICAL), {}
    draw = partial(box_mask, frame=FRAME)
    for concept in BOX_CONCEPTS:
        rows = table[concepts == concept]
        boxes = rows[BOX_COLUMNS].to_numpy(dtype=float).tolist()
        readers[concept] = TableMasks(file, rows["Image Index"], boxes, draw)
    return readers
