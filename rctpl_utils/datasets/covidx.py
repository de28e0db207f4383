"""COVIDx CXR-3 (Pavlova et al. 2022): is it COVID-19, and if not, is it another pneumonia?

The lists have no header: patient, file, label, source. In the two-class lists (CXR-3 as on Kaggle,
"3B") the label is positive or negative; in the three-class lists ("3A") it is normal, pneumonia or
COVID-19, as in the simulated set. "Pneumonia" means pneumonia of another cause: 0.0 for COVID-19.
torchxrayvision has no class for this data set.

Layout: `train.txt`, `test.txt`, `train/`, `test/`.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from rctpl_utils.datasets.base import Radiographs
from rctpl_utils.datasets.screening import Screen
from rctpl_utils.datasets.tables import IMAGES, bare_names, find_files, locate, read_lines
from rctpl_utils.given_files import child

PARTS = {"validation": "train", "test": "test"}  # our name -> the official list
POSITIVE = {"positive", "COVID-19"}
FINDINGS = ("normal", "pneumonia", "COVID-19")
LABELS = {*POSITIVE, "negative", *FINDINGS}


def open_covidx(root: Path, split: str, **options: bool) -> Radiographs:
    """Open "test" (`test.txt`) or "validation" (`train.txt`)."""
    part, screen = PARTS[split], Screen(**options)
    file, files = child(root, f"{part}.txt"), find_files([child(root, part)], IMAGES, screen)
    records = _read_list(file, files, screen)
    opposite = "train" if part == "test" else "test"
    other = child(root, f"{opposite}.txt")
    if other.is_file():
        there = find_files([child(root, opposite)], IMAGES, Screen(screen.skip_bad))
        patients = _read_list(other, there, Screen(screen.skip_bad))["patient_id"]
        names = (file.name, other.name)
        records = screen.patients(records, patients, names, file, is_test=split == "test")
    label, concepts = records.pop("label"), ("COVID-19",)
    records["COVID-19"] = label.isin(POSITIVE).astype(float)
    if label.isin(FINDINGS).all():
        records["Pneumonia"] = label.eq("pneumonia").astype(float)
        concepts = ("COVID-19", "Pneumonia")
    records.insert(2, "path", locate(records["image_id"], files))
    records = screen.present(records, root)
    return Radiographs("covidx", split, concepts, records, screen=screen)


def _fields(line: str, files: Mapping[str, str]) -> tuple[str, str, str, str]:
    """Patient, file, label and source of a line; an empty patient where these are not there.

    Label and source hold no space. A file's name does where one file of that name is there, and one
    only; where none is, the spaces are the patient's.
    """
    head, label, source = ["", "", "", *line.rsplit(maxsplit=2)][-3:]
    places = [match.span() for match in re.finditer(r"\s+", head)]
    cuts = [(head[:start], head[end:]) for start, end in places]
    named = {name: cut for cut in cuts if (name := re.sub(r"^.*[/\\]", "", cut[1])) in files}
    found = list(named.values()) or cuts[-1:]  # the last cut of a name has the shortest folder
    patient, file = found[0] if len(found) == 1 else ("", head)
    return patient, file, label, source


def _read_list(file: Path, files: Mapping[str, str], screen: Screen) -> pd.DataFrame:
    """The list as image_id, patient_id and label; the index counts its lines from 0."""
    fields = [_fields(line.strip(' \t\r"'), files) for line in read_lines(file)]
    table = pd.DataFrame(fields, columns=["patient", "file", "label", "source"], dtype="str")
    short, cure = table["patient"] == "", "Use the official list."
    table = screen.rows(table, short, "not `patient file label source`", cure, file)
    problem = f"the label is none of {', '.join(sorted(LABELS))}"
    table = screen.rows(table, ~table["label"].isin(LABELS), problem, cure, file)
    table = screen.outside(table, "file", file)
    table["file"] = bare_names(table["file"])
    table = screen.duplicates(table, ["file"], file)
    # sources number their patients independently: "3" of one is not "3" of another
    patients = table["source"] + ":" + table["patient"]
    return pd.DataFrame(
        {"image_id": table["file"], "patient_id": patients, "label": table["label"]}
    )
