"""Tables and folders as people have them read as the official ones, or are refused by name."""

import csv
import gzip
import io
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import BOM, fuzz, mutated, survives
from tiny_world import CASES, edit, foreign_files, refused, table_of_cases, write

from rctpl_utils.datasets import open_dataset
from rctpl_utils.datasets.covid import is_outlined
from rctpl_utils.datasets.official import count
from rctpl_utils.datasets.tables import read_lines, read_table
from rctpl_utils.errors import InputError
from rctpl_utils.given_files import child, mistaken

SETS = [*CASES, "mimic-cxr"]
TABLES = (".csv", ".csv.gz", ".txt")


@pytest.fixture(scope="session")
def official(tmp_path_factory):
    """Every data set in its official layout, written once, and what its loader reads there."""
    data_root = tmp_path_factory.mktemp("official")
    written = {name: write(name, data_root) for name in SETS}
    return {name: (root, contents(name, data_root)) for name, root in written.items()}


def copied(official: dict, name: str, data_root: Path) -> tuple[Path, list]:
    """A copy of a data set with links to its films, and what is to be read there."""

    def copy(source: str, target: str) -> None:
        (shutil.copy if source.endswith(TABLES) else os.symlink)(source, target)

    root, read = official[name]
    return Path(shutil.copytree(root, data_root / root.name, copy_function=copy)), read


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
    return [path for path in root.rglob("*") if path.name.endswith(TABLES)]


def plain(content: bytes) -> bytes:
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def zipped(content: bytes, *names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, content if not name.startswith(("__MACOSX", ".")) else b"\0")
    return stream.getvalue()


def again(decimal: str = ".", hint: bytes = b"", **options) -> Callable[[bytes], bytes]:
    """As a spreadsheet saves a table again, quotes where a cell needs them."""

    def save(content: bytes) -> bytes:
        if b"," not in content:  # a list
            return content
        table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, header=None)
        if decimal != ".":
            table = table.replace(r"^(-?\d+)\.(\d+)$", rf"\1{decimal}\2", regex=True)
        return hint + table.to_csv(index=False, header=False, **options).encode()

    return save


SAVED = {
    "byte-order mark": lambda content: BOM + content,
    "a mark twice": lambda content: BOM + BOM + content,
    "all cells quoted": again(quoting=csv.QUOTE_ALL),
    "UTF-16, as PowerShell writes": lambda content: content.decode().encode("utf-16"),
    "big-endian UTF-16": lambda c: b"\xfe\xff" + c.decode().encode("utf-16-be"),
    "UTF-16 without a mark": lambda content: content.decode().encode("utf-16-le"),
    "big-endian, without a mark": lambda content: content.decode().encode("utf-16-be"),
    "ends of Windows": lambda content: content.replace(b"\n", b"\r\n"),
    "ends of the old Mac": lambda content: content.replace(b"\n", b"\r"),
    "no end after the last line": lambda content: content.rstrip(),
    "blank lines at the end": lambda content: content + b"\n\n \n",
    "gzip": gzip.compress,
    "zip": lambda content: zipped(content, "any name.csv"),
    "zip of a Mac": lambda content: zipped(content, "t.csv", "__MACOSX/._t.csv", ".DS_Store"),
    "semicolons": again(sep=";"),
    "semicolons, decimal commas": again(",", sep=";"),
    "semicolons and Excel's hint": again(hint=b"sep=;\r\n", sep=";"),
    "tabs": again(sep="\t"),
    "spaces around cells": lambda content: content.replace(b",", b" , "),
    "empty rows of a spreadsheet": lambda c: c + 3 * (b"," * c.split(b"\n")[0].count(b",") + b"\n"),
    "mark, semicolons, Windows": lambda c: BOM + again(sep=";")(c).replace(b"\n", b"\r\n"),
}


def rewritten(save: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for path in tables(root):
            path.write_bytes(save(plain(path.read_bytes())))

    return change


def renamed(name_of: str, pack: Callable[[bytes], bytes] = bytes) -> Callable[[Path], None]:
    """Tables under another name, in terms of their `name`, that without .gz, and in CAPITALS."""

    def change(root: Path) -> None:
        for path in tables(root):
            content, bare = pack(plain(path.read_bytes())), path.name.removesuffix(".gz")
            path.unlink()
            target = path.parent / name_of.format(path.name, bare, path.name.upper())
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)

    return change


def leftovers(root: Path) -> None:
    """What macOS and Windows leave in folders, and archives that stayed there."""
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


WAYS = {way: rewritten(save) for way, save in SAVED.items()} | {
    "packed": renamed("{1}.gz", gzip.compress),
    "gunzipped": renamed("{1}"),
    "still zipped": renamed("{1}.zip", lambda content: zipped(content, "inner.csv")),
    "capitals": renamed("{2}"),
    "in a folder of its name": renamed("{0}/{0}"),
    "leftovers": leftovers,
    "films in capitals": capitals,
    "folder in folder": folder_in_folder,
}


@pytest.mark.parametrize("way", WAYS)
def test_tables_and_folders_as_people_have_them_read_the_same(official, tmp_path, way):
    for name in SETS if way != "folder in folder" else ("chestxray14", "covidx", "rsna", "siim"):
        root, read = copied(official, name, tmp_path)
        counted = count(name, root)
        WAYS[way](root)
        assert contents(name, tmp_path) == read and count(name, root) == counted, name


ENTRIES, TEST, BOXES = "Data_Entry_2017_v2020.csv", "test_list.txt", "BBox_List_2017.csv"
RSNA, SIIM = "stage_2_train_labels.csv", "train-rle.csv"


@pytest.mark.parametrize(("name", "table", "old", "new"), table_of_cases("same_rows"))
def test_cells_as_other_programs_write_them_read_the_same(
    official, tmp_path, name, table, old, new
):
    root, read = copied(official, name, tmp_path)
    edit(root / table, old, new)
    found = contents(name, tmp_path)
    if name == "chexpert":  # the identifier is the path as the table has it
        found[0] = re.sub(r"\b(D|CheXpert-v1\.0)/train/", "CheXpert-v1.0-small/train/", found[0])
    assert found == read


def test_the_full_chexpert_as_its_archives_unpack(official, tmp_path):
    """Tables and `valid/` in batch 1; patients in the others, in `train/` or not, or one deeper."""
    root, read = copied(official, "chexpert", tmp_path)
    home, batch = root / "CheXpert-v1.0-small", "chexpertchestxrays-u20210408/CheXpert-v1.0 batch "
    one, two = root / f"{batch}1 (validate & csv)", root / f"{batch}2 (train 1)"
    three = root / f"{batch}3 (train 2)" / "CheXpert-v1.0 batch 3 (train 2)"
    for folder in (one, two, three):
        folder.mkdir(parents=True)
    for name in ("train.csv", "valid.csv", "valid"):
        (home / name).rename(one / name)
    patients = [folder.name for folder in sorted((home / "train").iterdir())]
    for number, patient in enumerate(patients):
        (home / "train" / patient).rename((two if number % 2 else three) / patient)
    shutil.rmtree(home)
    assert contents("chexpert", tmp_path) == read
    (two / "train").mkdir()
    (two / patients[1]).rename(two / "train" / patients[1])
    assert contents("chexpert", tmp_path) == read
    shutil.rmtree(two / "train")
    refused("chexpert", tmp_path, "validation", "images listed are missing", per_class=0)


def test_the_second_stage_of_siim(official, tmp_path):
    root, read = copied(official, "siim", tmp_path)
    table = (root / SIIM).read_text().replace(", ", ",")
    (root / SIIM).rename(root / "stage_2_train.csv").write_text(table)
    (root / "dicom-images-test").mkdir()
    for study in sorted((root / "dicom-images-train").iterdir())[::2]:
        study.rename(root / "dicom-images-test" / study.name)
    assert contents("siim", tmp_path) == read
    (root / "stage_2_images").mkdir()
    for film in (root / "dicom-images-train").rglob("*.dcm"):
        film.rename(root / "stage_2_images" / film.name)
    assert contents("siim", tmp_path) == read


def test_the_box_list_under_its_longer_name(official, tmp_path):
    root, read = copied(official, "chestxray14", tmp_path)
    (root / BOXES).rename(root / "BBox_List_2017_Official_NIH.csv")
    assert contents("chestxray14", tmp_path) == read
    (root / BOXES).write_text("no table")  # the shorter name comes first
    refused("chestxray14", tmp_path, "test", r"BBox_List_2017\.csv: no column")


@pytest.mark.parametrize("listed", ["\ufeff00090001_001.png", "images\\00090001_001.PNG"])
def test_no_test_film_lands_in_validation(official, tmp_path, listed):
    """Even of a part of the set, where the list may name what is not there."""
    root, _ = copied(official, "chestxray14", tmp_path)
    names = {"00090001_000.png", "00090001_001.png"}
    (root / TEST).write_text(f"{listed}\n00090001_000.png\n")
    found = open_dataset("chestxray14", tmp_path, "validation", allow_partial=True)
    assert names.isdisjoint(found.records["image_id"])
    (root / TEST).write_text("00000001_000.jpg\n00090001_000.png\n")  # one of the patient's two
    message = "1 patients are both in the test list and in the rest"
    refused("chestxray14", tmp_path, "validation", message, allow_partial=True)


@pytest.mark.parametrize(("line", "film", "patient"), table_of_cases("covidx_names"))
def test_a_space_in_a_covidx_name(official, tmp_path, line, film, patient):
    root, _ = copied(official, "covidx", tmp_path)
    edit(root / "test.txt", "sim-2 sim-2.png pneumonia simulated", line)
    (root / "test/sim-2.png").rename(root / "test" / film)
    records = open_dataset("covidx", tmp_path, "test").records.set_index("image_id")
    listed = film if film in records.index else film.lower()
    assert records.loc[listed, "patient_id"] == f"src:{patient}"
    assert Path(records.loc[listed, "path"]).name == film
    if " " in film:  # nobody can tell which of the two is meant
        shutil.copy(root / "test" / film, root / "test" / film.split(" ")[-1])
        refused("covidx", tmp_path, "test", "row 2: not `patient file label source`")


PACKED = gzip.compress(bytes(range(256)), mtime=0)
OTHERS = [(content, message) for content, message, _ in foreign_files()] + [
    (zipped(b"", "[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook.*Save it as CSV"),
    (zipped(b"a,b\n", "a.csv", "b.csv"), "an archive of 2 files.*Unpack"),
    (zipped(b""), "an archive of 0 files|not a "),
    (gzip.compress(b"a,b\n1,2\n" * 99)[:30], "not a "),
    (PACKED[:20] + b"\xff" * 20 + PACKED[40:], "not a "),
]


@pytest.mark.parametrize(("content", "message"), OTHERS, ids=[message for _, message in OTHERS])
def test_what_is_no_table_is_called_what_it_is(official, tmp_path, content, message):
    root, _ = copied(official, "chestxray14", tmp_path)
    for file in (ENTRIES, TEST):
        kept = (root / file).read_bytes()
        (root / file).write_bytes(content)
        refused("chestxray14", tmp_path, "test", f"{file}(, row 1)?: .*({message})")
        (root / file).write_bytes(kept)


def test_two_films_of_one_name_and_what_lies_beside_a_missing_table(official, tmp_path):
    root, _ = copied(official, "chestxray14", tmp_path)
    film = next(root.rglob("00090001_000.png"))
    second = root / "images-224" / film.name
    second.parent.mkdir()
    second.symlink_to(film)  # the same file: no harm
    assert len(open_dataset("chestxray14", tmp_path, "test")) == 2
    second.unlink()
    shutil.copy(film, second)
    refused("chestxray14", tmp_path, "test", "a second file of the same image as .*images-224")
    second.unlink()
    (root / TEST).rename(root / "tests")
    refused("chestxray14", tmp_path, "test", rf"{TEST}: the file is missing; there are .*, tests")
    (root / ENTRIES).rename(root / "Data Entry (1).csv")
    message = r"missing; there are BBox_List_2017\.csv, Data Entry \(1\)\.csv"
    refused("chestxray14", tmp_path, "test", message)


def test_a_mask_in_capitals_is_not_passed_over(official, tmp_path):
    """Or its film would be judged by its outline, another annotation."""
    root, _ = copied(official, "covid-rural", tmp_path)
    mask = next((root / "pngs_masks").iterdir())
    mask.rename(mask.with_suffix(".PNG"))
    shutil.rmtree(root / "jpgs/jsons")
    assert is_outlined(root, mask.stem)


# --- fuzz: mutated bytes give a result or an `InputError` that names the file, never another error

CSV = b"Image Index,Finding Labels,Patient ID\n00000001_000.png,Mass|Effusion,1\n"
LABELME = b'{"imageHeight": 4, "imageWidth": 5, "shapes": [{"label": "x", "points": [[0, 1]]}]}'


MUTATED = mutated(CSV, BOM + CSV, gzip.compress(CSV), zipped(CSV, "a.csv"), CSV.replace(b",", b";"))


@given(MUTATED | st.binary(max_size=300))
@settings(fuzz, max_examples=400)
def test_mutated_tables_and_any_bytes(tmp_path, content):
    columns = CSV.split(b"\n")[0].decode().split(",")
    mistaken(content)
    survives(lambda file: read_table(file, columns, dtype="str"), tmp_path / "t.csv", content)
    survives(lambda file: read_table(file, columns[:1]), tmp_path / "t.csv", content)
    survives(read_lines, tmp_path / "t.txt", content)
    assert child(tmp_path, "T.CSV.gz") == tmp_path / "t.csv"


@given(mutated(LABELME, BOM + LABELME, b"[1, 2]", b'{"shapes": {"label": 3}}'))
@fuzz
def test_mutated_outlines(tmp_path, content):
    (tmp_path / "jpgs/jsons").mkdir(parents=True, exist_ok=True)
    survives(lambda _: is_outlined(tmp_path, "a"), tmp_path / "jpgs/jsons/a.json", content)


LISTED = b"3 a.png positive src\nA 4 b c.png negative src\n"
RUNS = b"ImageId, EncodedPixels\na, -1\nb, 1 2 3 4\n"
BOXED = b"patientId,x,y,width,height,Target\na,,,,,0\nb,1.0,1.0,2.0,2.0,1\n"
PATHS = b"Path,Frontal/Lateral\nD/train/patient1/study1/view1_frontal.jpg,Frontal\n"


@pytest.mark.parametrize(
    ("name", "table", "content"),
    [("covidx", "test.txt", LISTED), ("siim", SIIM, RUNS), ("rsna", RSNA, BOXED),
     ("chexpert", "train.csv", PATHS), ("chestxray14", ENTRIES, CSV)],
)  # fmt: skip
def test_mutated_tables_of_a_data_set(tmp_path, name, table, content):
    root = tmp_path / name
    root.mkdir()
    (root / TEST).write_text("00000001_000.png\n")

    @given(mutated(content))
    @settings(fuzz, max_examples=100)
    def run(content):
        try:
            (root / table).write_bytes(content)
            open_dataset(name, tmp_path, "test", allow_partial=True, skip_bad=True)
        except InputError as error:
            assert str(root) in str(error) or "has no image" in str(error)

    run()
