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
`{train,valid}/patientNNNNN/studyN/viewN_frontal.jpg`. The full set comes in four archives:
"CheXpert-v1.0 batch 1 (validate & csv)" has the tables and `valid/`, "... batch 2 (train 1)" and so
on have the training patients, without `train/` above them.
"""

from pathlib import Path

import pandas as pd

from rctpl_utils.datasets.base import Radiographs
from rctpl_utils.datasets.screening import Screen
from rctpl_utils.datasets.tables import read_table
from rctpl_utils.errors import InputError
from rctpl_utils.given_files import child, existing, folders_in
from rctpl_utils.vocabulary import CHEXPERT_CONCEPTS

FOLDERS = ("CheXpert-v1.0-small", "CheXpert-v1.0", ".")
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
PER_CLASS = 200
_PATH = r"((?:train|valid)/patient(\d+))/(study\d+/view\w+\.(?i:jpg|jpeg|png))$"


def open_chexpert(
    root: Path, split: str, *, per_class: int = PER_CLASS, **options: bool
) -> Radiographs:
    """Open "test" (`valid.csv`, radiologists' labels) or "validation" (`train.csv` without 5x200).

    No patient of CheXpert-5x200 (`per_class` images a class) is in the validation split.
    """
    home, screen = find_home(root), Screen(**options)
    if split == "test":
        records = read_chexpert(home, "valid", screen)
    else:
        train = read_chexpert(home, "train", screen)
        if child(home, "valid.csv").is_file():
            patients = read_chexpert(home, "valid", Screen(screen.skip_bad))["patient_id"]
            names = ("train.csv", "valid.csv")
            train = screen.patients(train, patients, names, home, is_test=False)
        per_class = _affordable(train, per_class) if screen.allow_partial else per_class
        kept_apart = select_5x200(train, per_class, allow_partial=True)["patient_id"]
        records = train[~train["patient_id"].isin(kept_apart)]
    records["path"] = records["path"].map(existing)
    records = screen.present(records, home)
    return Radiographs("chexpert", split, CHEXPERT_CONCEPTS, records, screen=screen)


def open_chexpert5x200(
    root: Path, split: str, *, per_class: int = PER_CLASS, **options: bool
) -> Radiographs:
    """Open CheXpert-5x200, a test set of five exclusive findings made from `train.csv`.

    "validation" is ours: the images that the same rule takes next, of other patients, as many
    where there are as many. With `allow_partial` there may be fewer than `per_class` images a
    class: then half of what the rarest class has, so that validation gets as many.
    """
    home, screen = find_home(root), Screen(**options)
    train = read_chexpert(home, "train", screen)
    per_class = _affordable(train, per_class) if screen.allow_partial else per_class
    records = select_5x200(train, per_class, allow_partial=screen.allow_partial)
    if split == "validation":
        others = train[~train["patient_id"].isin(records["patient_id"])]
        records = select_5x200(others, per_class, allow_partial=True)
    records = records[["image_id", "patient_id", "path", *COMPETITION]]
    records["path"] = records["path"].map(existing)
    records = screen.present(records, home)
    return Radiographs("chexpert5x200", split, COMPETITION, records, screen=screen)


def read_chexpert(home: Path, part: str, screen: Screen | None = None) -> pd.DataFrame:
    """The frontal images of `train.csv` or `valid.csv` as records, in the table's order."""
    screen = screen or Screen()
    file = child(home, f"{part}.csv")
    columns = ["Path", "Frontal/Lateral", *CHEXPERT_CONCEPTS]
    table = read_table(file, columns, dtype={"Path": "str"})
    table = screen.blank(table, ["Path"], file)
    table = screen.outside(table, "Path", file)
    table = screen.duplicates(table, ["Path"], file)
    found = table["Path"].str.extract(_PATH)
    problem = "a path that is not {train,valid}/patientNNNNN/studyN/view*.jpg"
    cure = "Use the official table, unchanged."
    table = screen.rows(table, found[0].isna(), problem, cure, file)
    unknown = ~table["Frontal/Lateral"].isin(["Frontal", "Lateral"])
    table = screen.rows(table, unknown, "neither Frontal nor Lateral", cure, file)
    table = refuse_odd_labels(table, file, screen)
    found = found.loc[table.index]
    records = chexpert_labels(table)
    records.insert(0, "image_id", table["Path"])
    records.insert(1, "patient_id", "patient" + found[1])
    batched = _batched_patients(home)
    folders = [batched.get(place, f"{home.as_posix()}/{place}") for place in found[0]]
    records.insert(2, "path", [f"{f}/{rest}" for f, rest in zip(folders, found[2], strict=True)])
    return records[(table["Frontal/Lateral"] == "Frontal").to_numpy()].reset_index(drop=True)


def refuse_odd_labels(table: pd.DataFrame, file: Path, screen: Screen) -> pd.DataFrame:
    """Rows whose 13 labels are all 1, 0, -1 or blank."""
    labels = table[list(CHEXPERT_CONCEPTS)].apply(pd.to_numeric, errors="coerce")
    wrong = ~(table[list(CHEXPERT_CONCEPTS)].isna() | labels.isin([1, 0, -1]))
    problem = "a label that is not 1, 0, -1 or blank"
    return screen.rows(table, wrong.any(axis=1), problem, "Correct it.", file)


def chexpert_labels(table: pd.DataFrame) -> pd.DataFrame:
    """CheXpert's 13 findings: 1 -> 1.0, 0 and blank -> 0.0, -1 (uncertain) -> NaN."""
    labels = table[list(CHEXPERT_CONCEPTS)].apply(pd.to_numeric).astype(float)
    return labels.fillna(0.0).mask(labels == -1)


def _affordable(records: pd.DataFrame, per_class: int) -> int:
    """`per_class`, or half of the rarest class's images (rounded up) where it has fewer."""
    chosen = select_5x200(records, per_class, allow_partial=True)
    rarest = int((chosen[list(COMPETITION)] == 1).sum().min())
    return per_class if rarest >= per_class else max(1, -(-rarest // 2))


def select_5x200(records: pd.DataFrame, per_class: int, *, allow_partial: bool) -> pd.DataFrame:
    """The 5x200 rule (see the module): `per_class` rows a class, the lowest patients first."""
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
            cure = "Complete the download, or accept a smaller set (--allow-partial)."
            raise InputError(problem, cure)
        chosen.append(rows)
    return pd.concat(chosen).drop(columns=["_number", "_turn"]).reset_index(drop=True)


def find_home(root: Path) -> Path:
    """The folder with `train.csv` or `valid.csv`: one of `FOLDERS`, or at most two levels down."""
    tops = folders_in(root)
    inner = [folder for top in tops for folder in folders_in(top)]
    for folder in [*(child(root, name) for name in FOLDERS), *tops, *inner]:
        if any(child(folder, f"{part}.csv").is_file() for part in ("train", "valid")):
            return folder
    cure = f"Put {FOLDERS[0]}/ or {FOLDERS[1]}/ with its train.csv and valid.csv there."
    raise InputError("no CheXpert tables", cure, file=root)


def _batched_patients(home: Path) -> dict[str, str]:
    """Part and patient ("train/patient00001") -> folder, of the full set's "batch" folders."""
    near = [*folders_in(home), *folders_in(home.parent)]
    found: dict[str, str] = {}
    for batch in (folder for folder in near if "batch" in folder.name.casefold()):
        bases = [child(batch, part) for part in ("train", "valid", batch.name)]
        for part, base in zip(("train", "valid", "train", "train"), [*bases, batch], strict=True):
            patients = [each for each in folders_in(base) if each.name.startswith("patient")]
            found |= {f"{part}/{each.name}": each.as_posix() for each in patients}
    return found
