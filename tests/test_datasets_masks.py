"""Readers of outlined lesions: what they read, and each kind of bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_world import CASES, SIZE, edit, film, refused, write

from rctpl_utils.datasets import open_dataset, rsna
from rctpl_utils.datasets.masks import check_box
from rctpl_utils.datasets.openi import xrv_file
from rctpl_utils.errors import InputError
from rctpl_utils.simulation.image_files import write_mask_png

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "data"


# --- RSNA ---


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Target", "target", r"stage_2_train_labels\.csv: no column 'Target'"),
        ("rsna-0,,,,,0", "rsna-0,,,,,2", "row 1: a Target that is not 0 or 1"),
        ("rsna-0,,,,,0", "rsna-0,,,,,1", "row 1: Target and box contradict"),
        ("rsna-0,,,,,0", "rsna-0,1,1,two,2,1", "row 1: no number in x, y, width, height"),
        ("rsna-0,,,,,0", ",,,,,0", "row 1: a blank patientId"),
        ("rsna-0,,,,,0", "rsna-0,1,1,2,2,0", "row 1: Target and box contradict"),
        ("rsna-0,,,,,0", "../rsna-0,,,,,0", "row 1: a path that leaves"),
        ("rsna-0,,,,,0", "rsna-0,,,,,0\nrsna-0,,,,,0", "row 2: the same patientId"),
        ("rsna-0,,,,,0", "rsna-0,,,,,0\nrsna-0,1,1,2,2,1", "row 2: Target differs"),
    ],
)
def test_bad_rsna_table(tmp_path, old, new, message):
    edit(write("rsna", tmp_path) / "stage_2_train_labels.csv", old, new)
    refused("rsna", tmp_path, "test", message)


def test_rsna_box_outside_the_film(tmp_path):
    file = write("rsna", tmp_path) / "stage_2_train_labels.csv"
    dataset = open_dataset("rsna", tmp_path, "test")
    index = int(np.flatnonzero(dataset.annotated("Pneumonia"))[0])
    image = dataset.records["image_id"][index]
    lines = file.read_text().splitlines()
    row = next(k for k, line in enumerate(lines) if line.startswith(f"{image},"))
    lines[row] = f"{image},40,0,9.0,12.0,1"
    file.write_text("\n".join(lines) + "\n")
    dataset = open_dataset("rsna", tmp_path, "test")
    message = rf"labels\.csv, row {row}: the box \(40, 0, 9, 12\).*48 x 40 image"
    with pytest.raises(InputError, match=message):
        dataset.mask(index, "Pneumonia")


def test_rsna_several_boxes_are_one_mask(tmp_path):
    file = write("rsna", tmp_path) / "stage_2_train_labels.csv"
    image = next(c.image_id for c in CASES["rsna"] if c.split == "test" and c.lesions)
    with file.open("a") as stream:
        stream.write(f"{image},44.0,36.0,4.0,4.0,1\n")
    dataset = open_dataset("rsna", tmp_path, "test")
    index = dataset.records["image_id"].tolist().index(image)
    expected = film(next(c for c in CASES["rsna"] if c.image_id == image)).masks["Pneumonia"]
    expected[36:, 44:] = True
    assert (dataset.mask(index, "Pneumonia") == expected).all()


# --- the official tables pass ---


def test_official_boxes_and_runs_lie_inside():
    """Every box of ChestX-ray14 and RSNA, every run of SIIM-ACR, in 1024-pixel images."""
    table = pd.read_csv(xrv_file("BBox_List_2017.csv.gz"))
    boxes = [tuple(row) for row in table[["Bbox [x", "y", "w", "h]"]].itertuples(index=False)]
    table = pd.read_csv(xrv_file("kaggle_stage_2_train_labels.csv.zip")).dropna()
    boxes += [tuple(row) for row in table[rsna.BOX_COLUMNS].itertuples(index=False)]
    assert len(boxes) == 984 + 9_555
    for box in boxes:
        check_box(box, (1024, 1024))
    runs = pd.read_csv(xrv_file("siim-pneumothorax-train-rle.csv.gz"), dtype=str)
    positive = runs[runs[" EncodedPixels"].str.strip() != "-1"][" EncodedPixels"]
    assert max(sum(map(int, text.split())) for text in positive) <= 1024 * 1024


@pytest.mark.parametrize(
    ("name", "packaged", "official"),
    [
        ("rsna", "kaggle_stage_2_train_labels.csv.zip", "stage_2_train_labels.csv"),
        ("siim", "siim-pneumothorax-train-rle.csv.gz", "train-rle.csv"),
    ],
)
def test_official_tables_are_accepted(tmp_path, name, packaged, official):
    """Only the films are missing."""
    (tmp_path / name).mkdir()
    table = pd.read_csv(xrv_file(packaged), dtype=str, keep_default_na=False)
    table.to_csv(tmp_path / name / official, index=False)
    refused(name, tmp_path, "test", r"(\d+) of \1 images listed are missing", allow_partial=True)


# --- SIIM-ACR ---

ROOT_UID = "1.2.826.0.1.3680043.8.498."


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (" EncodedPixels", " Pixels", r"train-rle\.csv: no column 'EncodedPixels'"),
        (f"{ROOT_UID}0, -1", f"{ROOT_UID}0, -1\n{ROOT_UID}0, -1", "row 2: the same ImageId"),
        (f"{ROOT_UID}0, -1", f"{ROOT_UID}0, -1\n{ROOT_UID}0, 1 5", "row 2: both with and without"),
        (f"{ROOT_UID}0, -1", f"{ROOT_UID}0,", "row 1: no run lengths"),
        (f"{ROOT_UID}0, -1", ", -1", "row 1: a blank ImageId"),
        (f"{ROOT_UID}0, -1", "../x, -1", "row 1: a path that leaves"),
    ],
)
def test_bad_siim_table(tmp_path, old, new, message):
    edit(write("siim", tmp_path) / "train-rle.csv", old, new)
    refused("siim", tmp_path, "test", message)


def siim_positive(tmp_path):
    positive = next(c for c in CASES["siim"] if c.split == "test" and c.lesions)
    dataset = open_dataset("siim", tmp_path, "test")
    return positive, dataset, dataset.records["image_id"].tolist().index(positive.image_id)


def test_siim_several_rows_are_one_mask(tmp_path):
    file = write("siim", tmp_path) / "train-rle.csv"
    positive, _, _ = siim_positive(tmp_path)
    with file.open("a") as stream:
        stream.write(f"{positive.image_id}, 0 3\n")
    _, dataset, index = siim_positive(tmp_path)
    expected = film(positive).masks["Pneumothorax"]
    expected[:3, 0] = True
    assert (dataset.mask(index, "Pneumothorax") == expected).all()
    assert len(dataset) == len(set(dataset.records["image_id"]))


def test_siim_run_past_the_end(tmp_path):
    file = write("siim", tmp_path) / "train-rle.csv"
    positive, _, _ = siim_positive(tmp_path)
    with file.open("a") as stream:
        stream.write(f"{positive.image_id}, 1900 21\n")
    _, dataset, index = siim_positive(tmp_path)
    message = rf"train-rle\.csv, row {len(CASES['siim']) + 1}: a run ends at pixel 1921 .*of 1920"
    with pytest.raises(InputError, match=message):
        dataset.mask(index, "Pneumothorax")


def test_siim_second_file_of_an_image(tmp_path):
    root = write("siim", tmp_path)
    file = next((root / "dicom-images-train").rglob("*.dcm"))
    (root / "dicom-images-train" / "again").mkdir()
    shutil.copy(file, root / "dicom-images-train" / "again")
    refused("siim", tmp_path, "test", "a second file of the same image")


# --- COVID Rural ---


@pytest.fixture
def rural(tmp_path):
    """The data set's folder, and the name of a test film with an opacity."""
    root = write("covid-rural", tmp_path)
    name = next(c.image_id for c in CASES["covid-rural"] if c.split == "test" and c.lesions)
    return root, name


def rural_mask(data_root, name):
    dataset = open_dataset("covid-rural", data_root, "test")
    return dataset.mask(dataset.records["image_id"].tolist().index(name), "COVID-19")


def outline(root, name, shapes, frame=SIZE):
    content = {"shapes": shapes, "imageHeight": frame[0], "imageWidth": frame[1]}
    (root / f"jpgs/jsons/{name}.json").write_text(json.dumps(content))


def test_outlines_are_scaled_and_lungs_left_out(rural, tmp_path):
    root, name = rural
    (root / f"pngs_masks/{name}.png").unlink()
    whole = [[0, 0], [96, 0], [96, 80], [0, 80]]
    part = [[20, 10], [60, 10], [60, 40], [20, 40]]
    shapes = [
        {"label": "left_lung", "points": whole},
        {"label": "right_lung", "points": whole},
        {"label": "ground glass", "points": part},
    ]
    outline(root, name, shapes, frame=(80, 96))  # twice the film's size
    expected = np.zeros(SIZE, dtype=bool)
    expected[5:20, 10:30] = True
    assert (rural_mask(tmp_path, name) == expected).all()
    outline(root, name, shapes[:2])
    dataset = open_dataset("covid-rural", tmp_path, "test")
    index = dataset.records["image_id"].tolist().index(name)
    assert np.isnan(dataset.records["COVID-19"][index])
    assert not dataset.annotated("COVID-19")[index]


def test_film_without_annotation_is_counted(rural, tmp_path):
    root, name = rural
    before = len(open_dataset("covid-rural", tmp_path, "test"))
    (root / f"pngs_masks/{name}.png").unlink()
    (root / f"jpgs/jsons/{name}.json").unlink()
    dataset = open_dataset("covid-rural", tmp_path, "test")
    assert dataset.left_out == {"film without annotation": 1} and len(dataset) == before - 1


def test_rural_clone_of_the_annotations_repository(rural, tmp_path):
    root, name = rural
    (root / "covid_rural_annot").mkdir()
    for folder in ("jpgs", "pngs_masks"):
        shutil.move(root / folder, root / "covid_rural_annot")
    assert rural_mask(tmp_path, name).any()


def test_larger_mask_files(rural, tmp_path):
    root, name = rural
    mask = np.random.default_rng(0).random(SIZE) > 0.5
    write_mask_png(root / f"pngs_masks/{name}.png", mask.repeat(2, 0).repeat(2, 1))
    assert (rural_mask(tmp_path, name) == mask).all()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[0, 0], [9, 9]], "fewer than three points"),
        ([[0, 0], [60, 0], [9, 9]], "an outline that leaves the image"),
        ([[-5, 0], [6, 0], [9, 9]], "an outline that leaves the image"),
        ([[0, 0], [6, None], [9, 9]], "an outline that leaves the image"),
        ([["a", 0], [6, 0], [9, 9]], "not a labelme file"),
    ],
)
def test_bad_outlines(rural, tmp_path, points, message):
    root, name = rural
    (root / f"pngs_masks/{name}.png").unlink()
    outline(root, name, [{"label": "opacity", "points": points}])
    refused("covid-rural", tmp_path, "test", rf"{name}\.json: .*{message}")


def test_truncated_outline(rural, tmp_path):
    root, name = rural
    (root / f"pngs_masks/{name}.png").unlink()
    file = root / f"jpgs/jsons/{name}.json"
    file.write_bytes(file.read_bytes()[:-9])
    refused("covid-rural", tmp_path, "test", rf"{name}\.json: not a labelme file")
