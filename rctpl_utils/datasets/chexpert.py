"""Frontal images with CheXpert's labels: CheXpert, CheXpert-5x200 made from it, MIMIC-CXR-JPG.

CheXpert (Irvin et al., AAAI 2019) and MIMIC-CXR (Johnson et al. 2019) say 1, 0, -1 (uncertain) or
blank (not mentioned). Uncertain becomes NaN, which leaves the image out of that concept's scores
(the paper's U-Ignore); blank becomes 0.0, as in the field's evaluations. torchxrayvision makes both
NaN. `docs/data/` has the layouts.

CheXpert-5x200 (Huang et al., GLoRIA, ICCV 2021) was never released as a list: 200 frontal images
for each of five findings, positive for that one and not positive for the four others. Uncertain
disqualifies, as in GLoRIA's own script (marshuang80/gloria, `preprocess_datasets.py`). That script
also wants the eight other labels to be 0, and draws at random without a seed; we follow the
description, and take the lowest patient numbers, each patient once before any twice, so that
everybody gets the same images.
"""

from pathlib import Path

import pandas as pd

from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.datasets.tables import UNCHANGED, CheckedTable, Screen
from rctpl_utils.errors import InputError
from rctpl_utils.given_files import child, existing, folders_in
from rctpl_utils.vocabulary import CHEXPERT_CONCEPTS

FOLDERS = ("CheXpert-v1.0-small", "CheXpert-v1.0", ".")
PARTS = ("train", "valid")
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
PER_CLASS = 200
_PATH = r"((?:train|valid)/patient(\d+))/(study\d+/view\w+\.(?i:jpg|jpeg|png))$"
MIMIC_PARTS = {"train": "train", "validation": "validate", "test": "test"}
FRONTAL = ("AP", "PA")
_TABLE = "mimic-cxr-2.0.0-{}.csv.gz"
SPLIT_TABLE = _TABLE.format("split")
_IDENTIFIERS = ("subject_id", "study_id", "dicom_id")


def open_chexpert(
    root: Path, split: str, *, per_class: int = PER_CLASS, **options: bool
) -> ChestXrayDataset:
    """Open "test" (`valid.csv`, radiologists' labels) or "validation" (`train.csv` without 5x200).

    No patient of CheXpert-5x200 (`per_class` images a class) is in the validation split.
    """
    home, screen = find_home(root), Screen(**options)
    records = read_chexpert(home, "valid" if split == "test" else "train", screen)
    if split != "test":
        if child(home, "valid.csv").is_file():
            patients = read_chexpert(home, "valid", Screen(screen.skip_bad))["patient_id"]
            records = screen.apart(records, patients, ("train.csv", "valid.csv"), home, split)
        per_class = _affordable(records, per_class) if screen.allow_partial else per_class
        kept_apart = select_5x200(records, per_class, allow_partial=True)["patient_id"]
        records = records[~records["patient_id"].isin(kept_apart)]
    records = screen.present(records.assign(path=records["path"].map(existing)), home)
    return ChestXrayDataset("chexpert", split, CHEXPERT_CONCEPTS, records, screen=screen)


def open_chexpert5x200(
    root: Path, split: str, *, per_class: int = PER_CLASS, **options: bool
) -> ChestXrayDataset:
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
    records = screen.present(records.assign(path=records["path"].map(existing)), home)
    return ChestXrayDataset("chexpert5x200", split, COMPETITION, records, screen=screen)


def read_chexpert(home: Path, part: str, screen: Screen | None = None) -> pd.DataFrame:
    """The frontal images of `train.csv` or `valid.csv` as records, in the table's order."""
    file, columns = child(home, f"{part}.csv"), ["Path", "Frontal/Lateral", *CHEXPERT_CONCEPTS]
    table = (screen or Screen()).read(file, columns, cure=UNCHANGED, dtype={"Path": "str"})
    table.named("Path")
    table.inside("Path")
    table.distinct("Path")
    found = table["Path"].str.extract(_PATH)
    problem = "a path that is not {train,valid}/patientNNNNN/studyN/view*.jpg"
    table.refuse(found[0].isna(), problem)
    unknown = ~table["Frontal/Lateral"].isin(["Frontal", "Lateral"])
    table.refuse(unknown, "neither Frontal nor Lateral")
    records = chexpert_labels(table)
    found = found.loc[table.rows.index]
    records.insert(0, "image_id", table["Path"])
    records.insert(1, "patient_id", "patient" + found[1])
    batched = _batched_patients(home)
    folders = [batched.get(place, f"{home.as_posix()}/{place}") for place in found[0]]
    records.insert(2, "path", [f"{f}/{rest}" for f, rest in zip(folders, found[2], strict=True)])
    return records[(table["Frontal/Lateral"] == "Frontal").to_numpy()].reset_index(drop=True)


def chexpert_labels(table: CheckedTable) -> pd.DataFrame:
    """The 13 findings: 1 -> 1.0, 0 and blank -> 0.0, -1 (uncertain) -> NaN; others are bad rows."""
    cells = table[list(CHEXPERT_CONCEPTS)]
    known = cells.isna() | cells.apply(pd.to_numeric, errors="coerce").isin([1, 0, -1])
    problem = "a label that is not 1, 0, -1 or blank"
    table.refuse(~known.all(axis=1), problem, "Correct it.")
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
        if any(child(folder, f"{part}.csv").is_file() for part in PARTS):
            return folder
    cure = f"Put {FOLDERS[0]}/ or {FOLDERS[1]}/ with its train.csv and valid.csv there."
    raise InputError("no CheXpert tables", cure, file=root)


def _batched_patients(home: Path) -> dict[str, str]:
    """Part and patient ("train/patient00001") -> folder, of the full set's "batch" folders."""
    near = [*folders_in(home), *folders_in(home.parent)]
    found: dict[str, str] = {}
    for batch in (folder for folder in near if "batch" in folder.name.casefold()):
        bases = [child(batch, part) for part in (*PARTS, batch.name)]
        for part, base in zip((*PARTS, "train", "train"), [*bases, batch], strict=True):
            patients = [each for each in folders_in(base) if each.name.startswith("patient")]
            found |= {f"{part}/{each.name}": each.as_posix() for each in patients}
    return found


def open_mimic_cxr(
    root: Path, split: str, *, by_tables: bool = False, **options: bool
) -> ChestXrayDataset:
    """Open "train", "validation" or "test" of the official split table, frontal views only.

    `records` also has `study` ("sNNNNNNNN", the report's identifier). `by_tables` looks for no
    image file: for those who choose among films before there are any, or of which only the chosen
    are there.
    """
    screen = Screen(**options)
    table = _split_table(root, screen)
    table = table[table["split"] == MIMIC_PARTS[split]]
    frontal = _views(root, table["dicom_id"], screen).isin(FRONTAL)
    table = table[frontal].reset_index(drop=True)
    patient, study = "p" + table["subject_id"], "s" + table["study_id"]
    folders = f"{root.as_posix()}/files/" + patient.str[:3] + "/" + patient + "/" + study + "/"
    paths = folders + table["dicom_id"] + ".jpg"
    records = {"image_id": table["dicom_id"], "patient_id": patient, "path": paths, "study": study}
    columns = ("subject_id", "study_id", *CHEXPERT_CONCEPTS)
    of_studies = _mimic_table(root, "chexpert", columns, screen)
    of_studies.distinct("study_id")
    labels = chexpert_labels(of_studies).set_axis(of_studies["study_id"])
    labeled = table["study_id"].isin(labels.index)
    labels = labels.reindex(table["study_id"]).reset_index(drop=True)
    records = pd.concat([pd.DataFrame(records), labels], axis=1)[labeled].reset_index(drop=True)
    if not by_tables:
        records["path"] = records["path"].map(existing)
        records = screen.present(records, root)
    left_out = {
        "not a frontal view": int((~frontal).sum()),
        "study without labels": int((~labeled).sum()),
    }
    concepts = CHEXPERT_CONCEPTS
    return ChestXrayDataset("mimic-cxr", split, concepts, records, left_out=left_out, screen=screen)


def _mimic_table(root: Path, name: str, columns: tuple[str, ...], screen: Screen) -> CheckedTable:
    """One of the official tables, its identifiers as text."""
    file = child(root, _TABLE.format(name))
    dtype = dict.fromkeys(_IDENTIFIERS, "str")
    return screen.read(file, columns, cure="Use the official split.", dtype=dtype)


def _split_table(root: Path, screen: Screen) -> pd.DataFrame:
    table = _mimic_table(root, "split", (*_IDENTIFIERS, "split"), screen)
    table.named(*_IDENTIFIERS)
    table.distinct("dicom_id")
    for column in _IDENTIFIERS:
        table.inside(column)
    unknown = ~table["split"].isin(MIMIC_PARTS.values())
    table.refuse(unknown, "a split that is not train, validate or test")
    elsewhere = table.rows.groupby("subject_id")["split"].transform("first") != table["split"]
    problem = "a patient who is in another part of the split too"
    table.refuse(elsewhere, problem, whole="subject_id")
    return table.rows


def _views(root: Path, images: pd.Series, screen: Screen) -> pd.Series:
    table = _mimic_table(root, "metadata", ("dicom_id", "ViewPosition"), screen)
    table.distinct("dicom_id")
    gone = images[~images.isin(table["dicom_id"])]
    if len(gone) and not (screen.skip_bad or screen.allow_partial):
        problem = f"{len(gone)} films of the split are not in it, {gone.iloc[0]} among them"
        raise InputError(problem, "Use the official table, in full.", file=table.file)
    return images.map(table.rows.set_index("dicom_id")["ViewPosition"])
