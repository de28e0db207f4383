"""CheXpert (Irvin et al., AAAI 2019), frontal images, and CheXpert-5x200 made from it.

Labels are 1, 0, -1 (uncertain) and blank (not mentioned). Uncertain becomes NaN, which leaves the
image out of that concept's scores (the paper's U-Ignore); blank becomes 0.0, as in the field's
evaluations. torchxrayvision's `CheX_Dataset` turns both into NaN, so it cannot be used here.

CheXpert-5x200 (Huang et al., GLoRIA, ICCV 2021) was never released as a list: 200 frontal images
for each of five findings, positive for that one and not positive for the four others. Uncertain
disqualifies, as in GLoRIA's own script (marshuang80/gloria, `preprocess_datasets.py`). That script
also wants the eight other labels to be 0, and draws at random without a seed; we follow the
description, and take the lowest patient numbers, each patient once before any twice, so that
everybody gets the same images.

Layout: `CheXpert-v1.0[-small]/{train,valid}.csv`, images in
`{train,valid}/patientNNNNN/studyN/viewN_frontal.jpg`.
"""

import os
from pathlib import Path

import pandas as pd

from rctpl_utils.datasets.base import Radiographs
from rctpl_utils.datasets.tables import (
    keep_present,
    read_table,
    refuse_blank,
    refuse_duplicates,
    refuse_outside,
    refuse_rows,
    refuse_shared_patients,
)
from rctpl_utils.errors import InputError
from rctpl_utils.vocabulary import CHEXPERT_CONCEPTS

FOLDERS = ("CheXpert-v1.0-small", "CheXpert-v1.0", ".")
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
PER_CLASS = 200
_PATH = r"((?:train|valid)/patient(\d+)/study\d+/view\w+\.(?:jpg|jpeg|png))$"


def open_chexpert(
    root: Path, split: str, *, allow_partial: bool = False, per_class: int = PER_CLASS
) -> Radiographs:
    """Open "test" (`valid.csv`, radiologists' labels) or "validation" (`train.csv` without 5x200).

    No patient of CheXpert-5x200 is in the validation split.

    Args:
        root: the folder that holds `CheXpert-v1.0-small/` or `CheXpert-v1.0/`.
        split: "validation" or "test".
        allow_partial: leave out, and count, images whose file is missing.
        per_class: size of the 5x200 set that is kept apart, images a class.

    Raises:
        InputError: a missing file or column, a value that is no label, a duplicate, a patient on
            both sides, a path outside the folder.
    """
    home = _home(root)
    valid = read_chexpert(home, "valid") if (home / "valid.csv").is_file() else None
    if split == "test":
        records = read_chexpert(home, "valid") if valid is None else valid
    else:
        train = read_chexpert(home, "train")
        if valid is not None:
            names = ("train.csv", "valid.csv")
            refuse_shared_patients(train["patient_id"], valid["patient_id"], names, home)
        kept_apart = select_5x200(train, per_class, allow_partial=True)["patient_id"]
        records = train[~train["patient_id"].isin(kept_apart)]
    return _radiographs("chexpert", split, CHEXPERT_CONCEPTS, records, home, allow_partial)


def open_chexpert5x200(
    root: Path, split: str, *, allow_partial: bool = False, per_class: int = PER_CLASS
) -> Radiographs:
    """Open CheXpert-5x200, a test set of five exclusive findings made from `train.csv`.

    "validation" is ours: the images that the same rule takes next, of other patients, as many
    where there are as many.

    Args:
        root: the folder that holds `CheXpert-v1.0-small/` or `CheXpert-v1.0/`.
        split: "validation" or "test".
        allow_partial: accept fewer than `per_class` images a class, and missing files (counted).
        per_class: images a class.

    Raises:
        InputError: too few images of a class; else as `open_chexpert`.
    """
    home = _home(root)
    train = read_chexpert(home, "train")
    records = select_5x200(train, per_class, allow_partial=allow_partial)
    if split == "validation":
        others = train[~train["patient_id"].isin(records["patient_id"])]
        records = select_5x200(others, per_class, allow_partial=True)
    columns = ["image_id", "patient_id", "path", *COMPETITION]
    return _radiographs("chexpert5x200", split, COMPETITION, records[columns], home, allow_partial)


def read_chexpert(home: Path, part: str) -> pd.DataFrame:
    """The frontal images of `train.csv` or `valid.csv` as records, in the table's order."""
    file = home / f"{part}.csv"
    columns = ["Path", "Frontal/Lateral", *CHEXPERT_CONCEPTS]
    table = read_table(file, columns, dtype={"Path": "str"})
    refuse_blank(table, ["Path"], file)
    refuse_duplicates(table, ["Path"], file)
    refuse_outside(table["Path"], file)
    found = table["Path"].str.extract(_PATH)
    problem = "a path that is not {train,valid}/patientNNNNN/studyN/view*.jpg"
    refuse_rows(found[0].isna(), problem, "Use the official table, unchanged.", file)
    records = chexpert_labels(table, file)
    records.insert(0, "image_id", table["Path"])
    records.insert(1, "patient_id", "patient" + found[1])
    records.insert(2, "path", [f"{home.as_posix()}/{path}" for path in found[0]])
    return records[(table["Frontal/Lateral"] == "Frontal").to_numpy()].reset_index(drop=True)


def chexpert_labels(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """CheXpert's 13 findings: 1 -> 1.0, 0 and blank -> 0.0, -1 (uncertain) -> NaN.

    Raises:
        InputError: another value.
    """
    labels = table[list(CHEXPERT_CONCEPTS)].apply(pd.to_numeric, errors="coerce")
    blank = table[list(CHEXPERT_CONCEPTS)].isna()
    wrong = ~(blank | labels.isin([1, 0, -1]))
    refuse_rows(wrong.any(axis=1), "a label that is not 1, 0, -1 or blank", "Correct it.", file)
    return labels.astype(float).mask(blank, 0.0).mask(labels == -1)


def select_5x200(records: pd.DataFrame, per_class: int, *, allow_partial: bool) -> pd.DataFrame:
    """The 5x200 rule (see the module): `per_class` rows a class, the lowest patients first.

    Raises:
        InputError: a class has fewer images and `allow_partial` is false.
    """
    five = records[list(COMPETITION)]
    exclusive = (five == 1).sum(axis=1).eq(1) & five.notna().all(axis=1)
    candidates = records[exclusive].copy()
    number = candidates["patient_id"].str.extract(r"(\d+)$")[0].astype(int)
    candidates = candidates.assign(_number=number).sort_values(["_number", "image_id"])
    turn = candidates.groupby(["patient_id", *COMPETITION]).cumcount()
    candidates = candidates.assign(_turn=turn).sort_values(["_turn", "_number"], kind="stable")
    chosen = []
    for concept in COMPETITION:
        rows = candidates[candidates[concept] == 1].head(per_class)
        if len(rows) < per_class and not allow_partial:
            problem = f"only {len(rows)} images show {concept} alone; {per_class} are needed"
            cure = "Complete the download, or allow a smaller set (allow_partial=True)."
            raise InputError(problem, cure)
        chosen.append(rows)
    return pd.concat(chosen).drop(columns=["_number", "_turn"]).reset_index(drop=True)


def _home(root: Path) -> Path:
    for name in FOLDERS:
        if any((root / name / f"{part}.csv").is_file() for part in ("train", "valid")):
            return root / name
    cure = f"Put {FOLDERS[0]}/ or {FOLDERS[1]}/ with its train.csv and valid.csv there."
    raise InputError("no CheXpert tables", cure, file=root)


def _radiographs(
    name: str,
    split: str,
    concepts: tuple[str, ...],
    records: pd.DataFrame,
    home: Path,
    allow_partial: bool,
) -> Radiographs:
    present = [os.path.isfile(path) for path in records["path"]]
    records, missing = keep_present(records, present, allow_partial=allow_partial, file=home)
    left_out = {"image file missing": missing}
    return Radiographs(name, split, concepts, records, left_out=left_out)
