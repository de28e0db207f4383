"""Films of NIH ChestX-ray14, and two challenges on some of them, which come as DICOM.

ChestX-ray14 (Wang et al., CVPR 2017) has text-mined labels, boxes and an official test list; RSNA
Pneumonia Detection (Shih et al., Radiology: AI 2019) a box a row; SIIM-ACR Pneumothorax (2019) run
lengths, several rows of which are one mask. `docs/data/` has their layouts, and says why readers of
torchxrayvision are not used; tests hold its labels, boxes and a mask to ours. In the challenges an
image is a patient, 20 % of them (by a hash) are validation, and a bad row takes its film along.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from rctpl_utils.datasets.base import ChestXrayDataset, TableMasks
from rctpl_utils.datasets.masks import NO_RUNS, box_mask, decode_runs
from rctpl_utils.datasets.tables import (
    IMAGES,
    UNCHANGED,
    CheckedTable,
    Screen,
    bare_names,
    find_files,
    hash_split,
    locate,
    read_lines,
)
from rctpl_utils.given_files import child, folders_in
from rctpl_utils.vocabulary import CHESTXRAY14_CONCEPTS

FRAME = 1024  # pixels: the official size, which ChestX-ray14's boxes refer to
ENTRY_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOX_TABLES = ("BBox_List_2017.csv", "BBox_List_2017_Official_NIH.csv")
TEST_LIST = "test_list.txt"
BBOX_COLUMNS = ["Bbox [x", "y", "w", "h]"]  # one title of the header over four columns
# the data set's own spelling -> canonical name
CANONICAL = {
    **{name: name for name in CHESTXRAY14_CONCEPTS},
    "Effusion": "Pleural Effusion",
    "Pleural_Thickening": "Pleural Thickening",
    "Infiltrate": "Infiltration",  # in the box table only
}
BOX_CONCEPTS = CHESTXRAY14_CONCEPTS[:8]  # the only ones that boxes were drawn for
_PARTIAL = "Complete the table, or accept a part (--allow-partial)."
RSNA_BOX = ["x", "y", "width", "height"]  # in the DICOM's own pixels, not those of FRAME
RSNA_TABLE, RSNA_FOLDER = "stage_2_train_labels.csv", "stage_2_train_images"
SIIM_TABLES = ("train-rle.csv", "stage_2_train.csv")
SIIM_FOLDERS = ("dicom-images-train", "dicom-images-test", "stage_2_images")


def open_chestxray14(root: Path, split: str, **options: bool) -> ChestXrayDataset:
    """Open one split: "test" is `test_list.txt`, "validation" all other images."""
    screen = Screen(**options)
    file, columns = child(root, *ENTRY_TABLES), ["Image Index", "Finding Labels", "Patient ID"]
    table = screen.read(file, columns, dtype=dict.fromkeys(columns, "str"))
    known = None if screen.allow_partial else bare_names(table["Image Index"])
    records = _in_split(_entries(table), known, split, root, screen)
    folders = [each for each in folders_in(root) if each.name.lower().startswith("images")]
    records = screen.present(locate(records, find_files(folders, IMAGES, screen)), root)
    masks, concepts = _boxes(root, known, screen), CHESTXRAY14_CONCEPTS
    return ChestXrayDataset("chestxray14", split, concepts, records, masks=masks, screen=screen)


def _entries(table: CheckedTable) -> pd.DataFrame:
    """The entry table as records without paths, 0.0 or 1.0 a concept."""
    table.named("Image Index", "Patient ID")
    table.films("Image Index")
    odd = ~table["Patient ID"].str.fullmatch(r"\w+")
    table.refuse(odd, "a Patient ID with other signs")
    shown = {}  # text such as "Effusion|Mass" -> its concepts
    for text in table["Finding Labels"].fillna("").unique():
        names = [] if text == "No Finding" else text.split("|")
        unknown = [name for name in names if name not in CANONICAL]
        shown[text] = {CANONICAL.get(name) for name in names}
        if unknown:
            problem = f"the label {unknown[0]!r} is not one of ChestX-ray14's"
            table.refuse(table["Finding Labels"].fillna("") == text, problem, UNCHANGED)
    codes, texts = pd.factorize(table["Finding Labels"])
    labels = [[float(name in shown[text]) for name in CHESTXRAY14_CONCEPTS] for text in texts]
    labels = np.reshape(labels, (-1, len(CHESTXRAY14_CONCEPTS)))[codes]
    records = pd.DataFrame(labels, columns=list(CHESTXRAY14_CONCEPTS))
    records.insert(0, "image_id", table["Image Index"].to_numpy())
    records.insert(1, "patient_id", table["Patient ID"].to_numpy())
    return records


def _in_split(
    records: pd.DataFrame, known: pd.Series | None, split: str, root: Path, screen: Screen
) -> pd.DataFrame:
    """The records of a split; `known` are the images that the list may name, None for any.

    Names are compared without suffix and case: a test image that is missed would be validation.
    """
    file = child(root, TEST_LIST)
    rows = pd.DataFrame({"image": read_lines(file)}, dtype="str")
    rows["image"] = bare_names(rows["image"]).str.strip("\"'")
    listed = CheckedTable(rows, file, screen, cure="Use the official list.")
    odd = ~rows["image"].str.fullmatch(r"(?i)\d{8}_\d{3}\.(?:png|jpe?g)")
    listed.refuse(odd, "not the name of an image")
    listed.rows = listed.rows.assign(image=_stems(listed["image"]))
    listed.distinct("image")
    if known is not None:
        unknown = ~listed["image"].isin(_stems(known))
        listed.refuse(unknown, "an image that the data entry table does not hold", _PARTIAL)
    test = _stems(records["image_id"]).isin(listed["image"])
    own, others = (test, ~test) if split == "test" else (~test, test)
    patients = records.loc[others, "patient_id"]
    return screen.apart(records[own], patients, ("the test list", "the rest"), file, split)


def _stems(images: pd.Series) -> pd.Series:
    return images.str.casefold().str.replace(r"\.\w+$", "", regex=True)


def _boxes(root: Path, known: pd.Series | None, screen: Screen) -> dict[str, TableMasks]:
    """A reader a concept; `known` are the images that the table may name, None for any."""
    file = child(root, *BOX_TABLES)
    if not file.is_file():
        return {}
    names = ["Image Index", "Finding Label"]
    how = {"whole": "Image Index", "dtype": dict.fromkeys(names, "str")}
    table = screen.read(file, [*names, *BBOX_COLUMNS], **how)
    table.rows["Image Index"] = bare_names(table["Image Index"])
    table.distinct(*names, *BBOX_COLUMNS)
    table.refuse(~table["Finding Label"].isin(CANONICAL), "an unknown finding")
    if known is not None:
        unknown = ~table["Image Index"].isin(known)
        table.refuse(unknown, "a box of an image that the data entry table does not hold", _PARTIAL)
    table.numbers(*BBOX_COLUMNS)
    concepts, draw = table["Finding Label"].map(CANONICAL), partial(box_mask, frame=FRAME)
    drawn = {concept: table.rows[concepts == concept] for concept in BOX_CONCEPTS}
    return {
        concept: TableMasks(file, rows["Image Index"], rows[BBOX_COLUMNS], draw)
        for concept, rows in drawn.items()
    }


def open_rsna(root: Path, split: str, **options: bool) -> ChestXrayDataset:
    """Open "validation" (20 % of the patients) or "test" (80 %), ordered by identifier."""
    file, columns = child(root, RSNA_TABLE), ["patientId", *RSNA_BOX, "Target"]
    how = {"cure": UNCHANGED, "whole": "patientId", "dtype": {"patientId": "str"}}
    table = Screen(**options).read(file, columns, **how)
    table.named("patientId")
    table.films("patientId", *RSNA_BOX)
    table.refuse(~table["Target"].isin([0, 1]), "a Target that is not 0 or 1")
    boxed = table[RSNA_BOX].notna().all(axis=1)
    table.refuse(boxed != (table["Target"] == 1), "Target and box contradict each other")
    first = table.rows.groupby("patientId")["Target"].transform("first")
    table.refuse(first != table["Target"], "Target differs from an earlier row")
    table.numbers(*RSNA_BOX)
    table.rows = table.rows.sort_values("patientId", kind="stable")
    positive, folder = table["Target"] == 1, child(root, RSNA_FOLDER)
    drawn = table.rows[positive]
    masks = TableMasks(file, drawn["patientId"], drawn[RSNA_BOX], box_mask)
    return _films("rsna", split, "Pneumonia", table, positive, masks, [folder], folder)


def open_siim(root: Path, split: str, **options: bool) -> ChestXrayDataset:
    """Open "validation" (20 % of the patients) or "test" (80 %)."""
    file, columns = child(root, *SIIM_TABLES), ["ImageId", "EncodedPixels"]
    how = {"cure": UNCHANGED, "whole": "ImageId", "dtype": "str", "keep_default_na": False}
    table = Screen(**options).read(file, columns, **how)
    table.named("ImageId")
    table.films("ImageId", "EncodedPixels")
    odd = ~table["EncodedPixels"].str.fullmatch(rf"{NO_RUNS}|[-\d\s]*\d")
    table.refuse(odd, "no run lengths")
    positive = table["EncodedPixels"] != NO_RUNS
    clash = positive.groupby(table["ImageId"]).transform("first") != positive
    table.refuse(clash, "both with and without a pneumothorax")
    positive = positive[table.rows.index]
    drawn = table.rows[positive]
    masks = TableMasks(file, drawn["ImageId"], drawn["EncodedPixels"], decode_runs)
    folders = [child(root, folder) for folder in SIIM_FOLDERS]
    return _films("siim", split, "Pneumothorax", table, positive, masks, folders, root)


def _films(
    name: str,
    split: str,
    concept: str,
    table: CheckedTable,
    positive: pd.Series,
    masks: TableMasks,
    folders: list[Path],
    told: Path,
) -> ChestXrayDataset:
    """One film an image of the table; `told` is what an error about missing films names."""
    names = table[table.whole].drop_duplicates()
    records = pd.DataFrame({"image_id": names, "patient_id": names})
    records[concept] = positive[names.index].astype(float)
    records = records[hash_split(records["patient_id"]) == split]
    files = find_files(folders, (".dcm",), table.screen)
    records = table.screen.present(locate(records, files, ".dcm"), told)
    of = {concept: masks}
    return ChestXrayDataset(name, split, (concept,), records, masks=of, screen=table.screen)
