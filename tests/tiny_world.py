"""A few random films in every layout, and ways to spoil them, for the tests of the data sets."""

import csv
import gzip
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from rctpl_utils.datasets import open_dataset
from rctpl_utils.datasets.tables import hash_split
from rctpl_utils.errors import InputError
from rctpl_utils.simulation.cases import Case, Lesion
from rctpl_utils.simulation.layouts import write_film, write_image, write_tables
from rctpl_utils.vocabulary import CHEXPERT_CONCEPTS

SIZE = (40, 48)  # height, width


def case(image: str, patient: str, concepts: tuple[str, ...], split: str, seed: int = 0) -> Case:
    lesions = tuple(Lesion(concept) for concept in concepts)
    return Case(image, patient, lesions, split, "any", seed)


def film(of: Case) -> SimpleNamespace:
    """Random pixels, and one rectangle a drawn concept; stands in for `radiograph.Radiograph`."""
    rng = np.random.default_rng([of.seed, *of.image_id.encode()])
    masks = {}
    for lesion in of.lesions:
        top, left = rng.integers(0, 25, size=2)
        masks[lesion.concept] = np.zeros(SIZE, dtype=bool)
        masks[lesion.concept][top : top + 12, left : left + 9] = True
    pixels = rng.integers(0, 256, SIZE).astype(np.float32) / np.float32(255)
    return SimpleNamespace(pixels=pixels, masks=masks)


def hashed(prefix: str, concepts: tuple[str, ...], count: int) -> list[Case]:
    names = [f"{prefix}{number}" for number in range(count)]
    splits = hash_split(names)
    return [case(n, n, concepts if k % 2 else (), str(splits[k]), k) for k, n in enumerate(names)]


def chexpert_path(part: str, patient: int, study: int = 1) -> str:
    return f"CheXpert-v1.0-small/{part}/patient{patient}/study{study}/view1_frontal.jpg"


FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")

FILMS = pd.read_csv(Path(__file__).parent / "cases" / "tiny_world.csv", keep_default_na=False)
CASES: dict[str, list[Case]] = {
    name: [
        case(row.image, row.patient, tuple(filter(None, row.drawn.split("|"))), row.split)
        for row in rows.itertuples()
    ]
    for name, rows in FILMS.groupby("set", sort=False)
}
MIMIC_CASES = CASES.pop("mimic-cxr")
CASES["rsna"] = hashed("rsna-", ("Pneumonia",), 40)
CASES["siim"] = hashed("1.2.826.0.1.3680043.8.498.", ("Pneumothorax",), 30)
CASES["covid-rural"] = hashed("SIM-COVID-", ("COVID-19",), 20)


def write(name: str, data_root: Path, cases: dict[str, list[Case]] = CASES) -> Path:
    """Write one data set's cases; return its folder."""
    if name == "mimic-cxr":
        return write_mimic(data_root)
    root = data_root / name
    films = [write_film(name, root, each, film(each)) for each in cases[name]]
    write_tables(name, root, films[::-1])  # their order must not matter
    return root


def write_mimic(data_root: Path) -> Path:
    """Write the MIMIC-CXR films with minimal tables."""
    root = data_root / "mimic-cxr"
    for each, study in zip(MIMIC_CASES, FILMS[FILMS["study"] != ""]["study"], strict=True):
        path = root / "files/p10" / each.patient_id / study / f"{each.image_id}.jpg"
        write_image(path, film(each).pixels)
    columns = {"image": "dicom_id", "study": "study_id", "patient": "subject_id", "split": "split"}
    films = FILMS[FILMS["set"] == "mimic-cxr"].rename(columns=columns)[[*columns.values()]]
    films = films.replace(r"^[ps](?=\d)", "", regex=True).replace("validation", "validate")
    labels = films.groupby("study_id", as_index=False)[["subject_id"]].first()
    labels = labels.reindex(columns=["subject_id", "study_id", *CHEXPERT_CONCEPTS])
    labels[["Edema", "Fracture", "Pneumonia"]] = [[1, 0, -1], [None] * 3, [None, 1, None]]
    views = films[["dicom_id"]].assign(ViewPosition=["PA", "LATERAL", "AP", "PA"])
    write_mimic_tables(root, films, views, labels)
    return root


def write_mimic_tables(
    root: Path, split: pd.DataFrame, metadata: pd.DataFrame, labels: pd.DataFrame
) -> None:
    """The official tables: the films' splits, their views, the studies' labels."""
    for name, table in {"split": split, "metadata": metadata, "chexpert": labels}.items():
        table.to_csv(root / f"mimic-cxr-2.0.0-{name}.csv.gz", index=False)


def table_of_cases(name: str) -> list[tuple[str, ...]]:
    """The rows of `cases/<name>.csv`; a line end is written as \\n there."""
    with (Path(__file__).parent / "cases" / f"{name}.csv").open(newline="") as stream:
        return [tuple(cell.replace("\\n", "\n") for cell in row) for row in csv.reader(stream)][1:]


def foreign_files() -> list[tuple[bytes, str, str]]:
    """What people have in place of a file; what is said of it as a table or list, as an image."""
    files = []
    for text, zeros, as_table, as_image in table_of_cases("foreign_files"):
        start = text.encode().decode("unicode_escape").encode("latin-1")
        files.append((start + bytes(int(zeros or 0)), as_table, as_image))
    return files


def edit(file: Path, old: str, new: str) -> None:
    """Replace the first occurrence of `old` in a text file, gzipped or not."""
    packed = file.suffix == ".gz"
    raw = file.read_bytes()
    text = (gzip.decompress(raw) if packed else raw).decode()
    assert old in text
    raw = text.replace(old, new, 1).encode()
    file.write_bytes(gzip.compress(raw) if packed else raw)


def refused(name: str, data_root: Path, split: str, message: str, **options: object) -> None:
    """Opening fails with an `InputError` that matches `message` and ends with a cure."""
    with pytest.raises(InputError, match=message) as error:
        open_dataset(name, data_root, split, **options)
    assert str(error.value).endswith(".") and error.value.cure
