"""COVIDx CXR-3 (Pavlova et al. 2022): is it COVID-19, and if not, is it another pneumonia?

The lists have no header: patient, file, label, source. In the two-class lists (CXR-3 as on Kaggle,
"3B") the label is positive or negative; in the three-class lists ("3A") it is normal, pneumonia or
COVID-19. Where a `findings.csv` (image, finding in those three) lies beside the lists, as in the
simulated set, it supplies the third class. "Pneumonia" means pneumonia of another cause: 0.0 for
COVID-19. torchxrayvision has no class for this data set.

Layout: `train.txt`, `test.txt`, `train/`, `test/`.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from rctpl_utils.datasets.base import Radiographs
from rctpl_utils.datasets.tables import (
    files_in,
    keep_present,
    read_lines,
    read_table,
    refuse_duplicates,
    refuse_outside,
    refuse_rows,
    refuse_shared_patients,
)
from rctpl_utils.errors import InputError

PARTS = {"validation": "train", "test": "test"}  # our name -> the official list
POSITIVE = {"positive", "COVID-19"}
FINDINGS = ("normal", "pneumonia", "COVID-19")
LABELS = {*POSITIVE, "negative", *FINDINGS}


def open_covidx(root: Path, split: str, *, allow_partial: bool = False) -> Radiographs:
    """Open "test" (`test.txt`) or "validation" (`train.txt`).

    Args:
        root: the data set's folder.
        split: "validation" or "test".
        allow_partial: leave out, and count, images whose file is missing.

    Raises:
        InputError: a missing list, a malformed line, an unknown label, a duplicate, a patient on
            both sides, a path outside the folder.
    """
    part = PARTS[split]
    records = _read_list(root / f"{part}.txt")
    other = root / f"{'train' if part == 'test' else 'test'}.txt"
    if other.is_file():
        names = (f"{part}.txt", other.name)
        patients = _read_list(other)["patient_id"]
        refuse_shared_patients(records["patient_id"], patients, names, root / names[0])
    finding = _findings(root, records)
    records["COVID-19"] = records.pop("label").isin(POSITIVE).astype(float)
    concepts: tuple[str, ...] = ("COVID-19",)
    if finding is not None:
        records["Pneumonia"] = finding.eq("pneumonia").astype(float)
        concepts = ("COVID-19", "Pneumonia")
    files = files_in([root / part], (".png", ".jpg", ".jpeg")) if (root / part).is_dir() else {}
    paths = records["image_id"].map(files)
    records.insert(2, "path", paths)
    records, missing = keep_present(records, paths.notna(), allow_partial=allow_partial, file=root)
    left_out = {"image file missing": missing}
    return Radiographs("covidx", split, concepts, records, left_out=left_out)


def _read_list(file: Path) -> pd.DataFrame:
    lines = [line.split() for line in read_lines(file)]
    short = [len(line) < 4 for line in lines]
    refuse_rows(short, "not `patient file label source`", "Use the official list.", file)
    # a patient's name may hold spaces, the three other fields may not
    fields = [(" ".join(line[:-3]), *line[-3:]) for line in lines]
    table = pd.DataFrame(fields, columns=["patient", "file", "label", "source"], dtype="str")
    problem = f"the label is none of {', '.join(sorted(LABELS))}"
    refuse_rows(~table["label"].isin(LABELS), problem, "Use the official list.", file)
    refuse_duplicates(table, ["file"], file)
    refuse_outside(table["file"], file)
    # sources number their patients independently: "3" of one is not "3" of another
    patients = table["source"] + ":" + table["patient"]
    return pd.DataFrame(
        {"image_id": table["file"], "patient_id": patients, "label": table["label"]}
    )


def _findings(root: Path, records: pd.DataFrame) -> pd.Series | None:
    """Each record's finding, or None where the lists tell only positive from negative."""
    file = root / "findings.csv"
    if not file.is_file():
        return records["label"] if records["label"].isin(FINDINGS).all() else None
    table = read_table(file, ["image", "finding"], dtype="str")
    refuse_duplicates(table, ["image"], file)
    problem = f"the finding is none of {', '.join(FINDINGS)}"
    refuse_rows(~table["finding"].isin(FINDINGS), problem, "Correct it.", file)
    finding = records["image_id"].map(table.set_index("image")["finding"])
    covid = records["label"].isin(POSITIVE)
    clash = finding.isna() | (finding.eq("COVID-19") != covid)
    if clash.any():
        image = records["image_id"][np.argmax(clash)]
        problem = f"the finding of image {image} is missing or contradicts the list"
        raise InputError(problem, "Correct it, or remove findings.csv.", file=file)
    return finding
