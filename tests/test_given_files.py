"""Tables and folders as people have them read as the official ones, or are refused by name."""

import gzip
import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_world import CASES, edit, refused, write, write_mimic

from rctpl_utils.datasets import open_dataset
from rctpl_utils.datasets.counts import count
from rctpl_utils.datasets.covid_rural import OutlineMasks
from rctpl_utils.datasets.tables import read_lines, read_table
from rctpl_utils.errors import InputError
from rctpl_utils.given_files import child, mistaken, opened

SETS = [*CASES, "mimic-cxr"]
BOM = b"\xef\xbb\xbf"


def write_any(name: str, data_root: Path) -> Path:
    return write_mimic(data_root) if name == "mimic-cxr" else write(name, data_root)


@pytest.fixture(scope="session")
def official(tmp_path_factory):
    """Every data set in its official layout, written once, and what its loader reads there."""
    data_root = tmp_path_factory.mktemp("official")
    written = {name: write_any(name, data_root) for name in SETS}
    return {name: (root, contents(name, data_root)) for name, root in written.items()}


def copied(official: dict, name: str, data_root: Path) -> tuple[Path, list]:
    root, read = official[name]
    return Path(shutil.copytree(root, data_root / root.name)), read


def contents(name: str, data_root: Path) -> list:
    """What both splits hold: records, masks, a film; not where the files lie."""
    found = []
    for split in ("validation", "test"):
        options = {"per_class": 1} if name == "chexpert" else {}
        dataset = open_dataset(name, data_root, split, **options)
        found.append(dataset.records.drop(columns="path").to_csv())
        found.append(dataset.pixels(0).tobytes())
        for concept in dataset.concepts:
            drawn = np.flatnonzero(dataset.annotated(concept))[:4]
            found += [dataset.mask(int(row), concept).tobytes() for row in drawn]
    return found


def tables(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.endswith((".csv", ".csv.gz", ".txt"))]


def plain(content: bytes) -> bytes:
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def zipped(content: bytes, *names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, content if not name.startswith(("__MACOSX", ".")) else b"\0")
    return stream.getvalue()


def with_separator(mark: str, decimal: str = ".", hint: bytes = b"") -> Callable[[bytes], bytes]:
    """As a spreadsheet saves a table again, quotes where a cell needs them."""

    def save(content: bytes) -> bytes:
        if b"," not in content:  # a list
            return content
        table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, header=None)
        if decimal != ".":
            table = table.replace(r"^(-?\d+)\.(\d+)$", rf"\1{decimal}\2", regex=True)
        return hint + table.to_csv(index=False, header=False, sep=mark).encode()

    return save


def spaced(content: bytes) -> bytes:
    return content.replace(b",", b" , ") if b"," in content else content


def with_empty_rows(content: bytes) -> bytes:
    rows = content.splitlines(keepends=True)
    commas = b"," * rows[0].count(b",") + b"\n"
    return content + (commas * 3 if b"," in content else b"\n\n")


SAVED = {
    "byte-order mark": lambda content: BOM + content,
    "UTF-16, as PowerShell writes": lambda content: content.decode().encode("utf-16"),
    "big-endian UTF-16": lambda c: b"\xfe\xff" + c.decode().encode("utf-16-be"),
    "ends of Windows": lambda content: content.replace(b"\n", b"\r\n"),
    "ends of the old Mac": lambda content: content.replace(b"\n", b"\r"),
    "no end after the last line": lambda content: content.rstrip(),
    "blank lines at the end": lambda content: content + b"\n\n \n",
    "gzip": gzip.compress,
    "zip": lambda content: zipped(content, "any name.csv"),
    "zip of a Mac": lambda content: zipped(content, "t.csv", "__MACOSX/._t.csv", ".DS_Store"),
    "semicolons": with_separator(";"),
    "semicolons, decimal commas": with_separator(";", ","),
    "semicolons and Excel's hint": with_separator(";", hint=b"sep=;\r\n"),
    "tabs": with_separator("\t"),
    "spaces around cells": spaced,
    "empty rows of a spreadsheet": with_empty_rows,
    "mark, semicolons, Windows": lambda c: BOM + with_separator(";")(c).replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("way", SAVED)
def test_tables_saved_in_another_way_read_the_same(official, tmp_path, way):
    for name in SETS:
        root, read = copied(official, name, tmp_path)
        for path in tables(root):
            path.write_bytes(SAVED[way](plain(path.read_bytes())))
        assert contents(name, tmp_path) == read, name


RENAMED = {
    "packed": lambda path: path.with_name(path.name.removesuffix(".gz") + ".gz"),
    "gunzipped": lambda path: path.with_name(path.name.removesuffix(".gz")),
    "still zipped": lambda path: path.with_name(path.name.removesuffix(".gz") + ".zip"),
    "capitals": lambda path: path.with_name(path.name.upper()),
    "in a folder of its name": lambda path: path / path.name,
}


@pytest.mark.parametrize("way", RENAMED)
def test_tables_under_another_name_read_the_same(official, tmp_path, way):
    pack = {"packed": gzip.compress, "still zipped": lambda c: zipped(c, "inner.csv")}
    for name in SETS:
        root, read = copied(official, name, tmp_path)
        counted = count(name, root)
        for path in tables(root):
            content = pack.get(way, bytes)(plain(path.read_bytes()))
            path.unlink()
            target = RENAMED[way](path)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
        assert contents(name, tmp_path) == read and count(name, root) == counted, name


def leftovers(root: Path) -> None:
    """What macOS and Windows leave in folders, and archives that stayed after they were unpacked."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for path in [each for each in folder.iterdir() if each.is_file()]:
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "images_001.tar.gz"):
            (folder / name).write_bytes(b"\0")
    (root / "__MACOSX").mkdir()
    for path in [*root.rglob("images*/*.png"), *root.rglob("test/*.png")]:
        shutil.copy(path, root / "__MACOSX")


def capitals(root: Path) -> None:
    films = [p for p in root.rglob("*") if p.suffix in (".png", ".jpg", ".dcm", ".json")]
    for path in films:
        path.rename(path.with_suffix(path.suffix.upper()))


def folder_in_folder(root: Path) -> None:
    """As "extract all" of Windows."""
    for folder in [path for path in root.iterdir() if path.is_dir()]:
        inner = folder.rename(root / "moved")
        folder.mkdir()
        inner.rename(folder / folder.name)


CHANGES = [(change, name) for change in (leftovers, capitals) for name in SETS]
CHANGES += [(folder_in_folder, name) for name in ("chestxray14", "covidx", "rsna", "siim")]


@pytest.mark.parametrize(("change", "name"), CHANGES)
def test_folders_as_people_have_them_read_the_same(official, tmp_path, change, name):
    root, read = copied(official, name, tmp_path)
    counted = count(name, root)
    change(root)
    assert contents(name, tmp_path) == read
    assert count(name, root) == counted


ENTRIES, TEST, BOXES = "Data_Entry_2017_v2020.csv", "test_list.txt", "BBox_List_2017.csv"
TRAIN = "CheXpert-v1.0-small/train.csv"
RSNA, SIIM = "stage_2_train_labels.csv", "train-rle.csv"
UID = "1.2.826.0.1.3680043.8.498.3"
# data set, table, what is replaced by what: nothing changes in what is read
SAME = [
    ("chestxray14", ENTRIES, "00090001_000.png", "images\\00090001_000.png"),
    ("chestxray14", ENTRIES, "00090001_000.png", "images_001/images/00090001_000.png"),
    ("chestxray14", ENTRIES, "90001,", "90001.0,"),
    ("chestxray14", TEST, "00090001_000.png", "images\\00090001_000.png"),
    ("chestxray14", TEST, "00090001_000.png", "  00090001_000.PNG "),
    ("chestxray14", TEST, "00090001_000.png", '"00090001_000.png"'),
    ("chestxray14", BOXES, "00090001_000.png", "images\\00090001_000.png"),
    ("chexpert", TRAIN, "CheXpert-v1.0-small/train/patient70010", "D\\train\\patient70010"),
    ("covidx", "test.txt", "sim-1.png", "test\\sim-1.png"),
    ("covidx", "test.txt", " sim-1.png", "  \t ./test/sim-1.png"),
    ("rsna", RSNA, "rsna-3,", "stage_2_train_images\\rsna-3,"),
    ("siim", SIIM, f"{UID},", f"dicom-images-train\\{UID},"),
    ("mimic-cxr", "mimic-cxr-2.0.0-split.csv.gz", "50000003,10000003", "50000003.0,10000003.0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "table", "old", "new"), SAME)
def test_cells_as_other_programs_write_them_read_the_same(
    official, tmp_path, name, table, old, new
):
    root, read = copied(official, name, tmp_path)
    edit(root / table, old, new)
    found = contents(name, tmp_path)
    if name == "chexpert":  # the identifier is the path as the table has it
        found[0] = found[0].replace("D/train/", "CheXpert-v1.0-small/train/")
    assert found == read
