"""What the readers of all data sets have in common, and what each reads of labels and masks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_world import CASES, FIVE, SIZE, chexpert_path, edit, film, refused, write

from rctpl_utils.datasets import DATASETS, ChestXrayDataset, open_dataset
from rctpl_utils.datasets.chexpert import read_chexpert, select_5x200
from rctpl_utils.datasets.openi import xrv_file
from rctpl_utils.datasets.tables import hash_split
from rctpl_utils.errors import InputError
from rctpl_utils.simulation.layouts import write_image
from rctpl_utils.vocabulary import CONCEPTS


@pytest.mark.parametrize("name", CASES)
def test_every_data_set_keeps_the_protocol(tmp_path, name):
    write(name, tmp_path)
    dataset = open_dataset(name, tmp_path, "test")
    assert isinstance(dataset, ChestXrayDataset)
    assert set(dataset.concepts) <= set(CONCEPTS)
    columns = ["image_id", "patient_id", "path", *dataset.concepts]
    assert dataset.records.columns.tolist() == columns
    assert dataset.records[list(dataset.concepts)].isin([0, 1, np.nan]).all(axis=None)
    assert dataset.annotated("Hernia").tolist() == [False] * len(dataset)
    with pytest.raises(InputError, match=f"data set '{name}' has no masks for 'Hernia'"):
        dataset.mask(0, "Hernia")


@pytest.mark.parametrize("name", [*CASES, "mimic-cxr"])
def test_missing_images_stop_or_are_counted(tmp_path, name):
    root = write(name, tmp_path)
    split = "train" if name == "mimic-cxr" else "test"
    dataset = open_dataset(name, tmp_path, split)
    gone = Path(dataset.records["path"][0])
    message = f"of {len(dataset)} images listed are missing: "
    if name == "mimic-cxr":
        edit(root / "mimic-cxr-2.0.0-metadata.csv.gz", "LATERAL", "AP")
        message = "1 of 2 images listed are missing: d0"
    gone.unlink()
    refused(name, tmp_path, split, message)
    assert sum(open_dataset(name, tmp_path, split, allow_partial=True).left_out.values()) == 1


def test_unknown_names_and_splits(tmp_path):
    refused("mnist", tmp_path, "test", "no data set 'mnist'. Choose one of: chestxray14, ")
    known = "'rsna' has no split 'train'. Choose one of: validation, test"
    refused("rsna", tmp_path, "train", known)
    refused("siim", tmp_path, "test", "siim: data set 'siim' is absent")
    for name, (folder, *_) in DATASETS.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        refused(name, tmp_path, "test", folder)


def test_hash_split_is_fixed():
    names = [f"patient{k}" for k in range(4000)]
    splits = hash_split(names)
    assert 0.17 < (splits == "validation").mean() < 0.23
    # their SHA-256 begin with ca, 3e, 2e, 18, 3f (hexadecimal); the limit is 0.2 of the range
    assert (hash_split("abcde") == "validation").tolist() == [False, False, True, True, False]
    assert (hash_split(names[::-1]) == splits[::-1]).all()


# --- labels ---


def test_chestxray14_without_boxes_and_in_several_folders(tmp_path):
    root = write("chestxray14", tmp_path)
    (root / "BBox_List_2017.csv").unlink()
    (root / "Data_Entry_2017_v2020.csv").rename(root / "Data_Entry_2017.csv")
    (root / "images_012" / "images").mkdir(parents=True)
    shutil.move(root / "images_001/images/00090001_001.png", root / "images_012/images")
    dataset = open_dataset("chestxray14", tmp_path, "test")
    assert len(dataset) == 2 and not dataset.has_masks
    assert Path(dataset.records["path"][1]).parts[-3] == "images_012"


def chexpert_records(folder: Path, rows: list[dict]) -> pd.DataFrame:
    columns = pd.read_csv(xrv_file("chexpert_train.csv.gz"), nrows=0).columns
    table = pd.DataFrame([{"Frontal/Lateral": "Frontal", **row} for row in rows])
    table.reindex(columns=columns).to_csv(folder / "train.csv", index=False)
    return read_chexpert(folder, "train")


def test_chexpert_labels_and_views(tmp_path):
    lateral = chexpert_path("train", 4).replace("frontal", "lateral")
    rows = [
        {"Path": chexpert_path("train", 3), "Edema": 1, "Fracture": 0, "Pneumonia": -1},
        {"Path": lateral, "Frontal/Lateral": "Lateral", "Edema": 1},
    ]
    records = chexpert_records(tmp_path, rows)
    assert records["patient_id"].tolist() == ["patient3"]
    row = records.iloc[0]
    assert (row["Edema"], row["Fracture"], row["Cardiomegaly"]) == (1, 0, 0)
    assert np.isnan(row["Pneumonia"])


def test_5x200_rule(tmp_path):
    rows = [
        {"Path": chexpert_path("train", 9), "Edema": 1, "Lung Opacity": 1},  # others may be there
        {"Path": chexpert_path("train", 10), "Edema": 1},
        {"Path": chexpert_path("train", 10, 2), "Edema": 1, "Cardiomegaly": 0},
        {"Path": chexpert_path("train", 2), "Edema": 1, "Cardiomegaly": 1},  # two of the five
        {"Path": chexpert_path("train", 1), "Edema": 1, "Cardiomegaly": -1},  # perhaps two
        {"Path": chexpert_path("train", 11), "Edema": 1},
        {"Path": chexpert_path("train", 5), "Pneumonia": 1},  # none
        *({"Path": chexpert_path("train", 20 + k), c: 1} for k, c in enumerate(FIVE)),
    ]
    records = chexpert_records(tmp_path, rows)
    chosen = select_5x200(records, 4, allow_partial=True)
    edema = chosen.query("Edema == 1")
    # lowest patients first, each once before any twice; 23 is the fourth patient
    studies = edema["image_id"].str.extract(r"patient(\d+)/study(\d)").astype(int)
    assert studies.to_numpy().tolist() == [[9, 1], [10, 1], [11, 1], [23, 1]]
    assert len(select_5x200(records, 9, allow_partial=True).query("Edema == 1")) == 5
    assert select_5x200(records, 1, allow_partial=False)[list(FIVE)].sum().tolist() == [1] * 5
    shuffled = select_5x200(records[::-1].reset_index(drop=True), 4, allow_partial=True)
    assert shuffled["image_id"].tolist() == chosen["image_id"].tolist()


def test_5x200_needs_its_images(tmp_path):
    write("chexpert", tmp_path)
    message = "only 1 images show Atelectasis alone; 200 are needed"
    refused("chexpert5x200", tmp_path, "test", message)
    for split, films in (("test", 5), ("validation", 1)):  # one a class; another patient's edema
        assert len(open_dataset("chexpert5x200", tmp_path, split, allow_partial=True)) == films


def test_covidx_lists_without_and_with_the_third_class(tmp_path):
    root = write("covidx", tmp_path)
    records = open_dataset("covidx", tmp_path, "test").records
    assert records[["COVID-19", "Pneumonia"]].to_numpy().tolist() == [[1, 0], [0, 1], [0, 0]]
    for old, new in (("COVID-19", "positive"), ("pneumonia", "negative"), ("normal", "negative")):
        edit(root / "test.txt", old, new)
    dataset = open_dataset("covidx", tmp_path, "test")
    assert dataset.concepts == ("COVID-19",) and dataset.records["COVID-19"].tolist() == [1, 0, 0]


def test_mimic_study_without_labels_is_counted(tmp_path):
    root = write("mimic-cxr", tmp_path)
    edit(root / "mimic-cxr-2.0.0-metadata.csv.gz", "LATERAL", "AP")
    edit(root / "mimic-cxr-2.0.0-split.csv.gz", "d1,50000001", "d1,50000009")
    dataset = open_dataset("mimic-cxr", tmp_path, "train")
    assert dataset.left_out == {"study without labels": 1} and len(dataset) == 1


# --- masks ---


@pytest.mark.parametrize(
    ("name", "file", "concept", "cells", "where"),
    [
        ("rsna", "stage_2_train_labels.csv", "Pneumonia", "44.0,36.0,4.0,4.0,1", np.s_[36:, 44:]),
        ("siim", "train-rle.csv", "Pneumothorax", " 0 3", np.s_[:3, 0]),
    ],
)
def test_several_rows_are_one_mask(tmp_path, name, file, concept, cells, where):
    case = next(c for c in CASES[name] if c.split == "test" and c.lesions)
    with (write(name, tmp_path) / file).open("a") as stream:
        stream.write(f"{case.image_id},{cells}\n")
    dataset = open_dataset(name, tmp_path, "test")
    expected = film(case).masks[concept]
    expected[where] = True
    (index,) = np.flatnonzero(dataset.records["image_id"] == case.image_id)
    assert (dataset.mask(index, concept) == expected).all()


@pytest.fixture
def rural(tmp_path):
    """The data set's folder, a test film with an opacity, and what opens both."""
    root = write("covid-rural", tmp_path)
    name = next(c.image_id for c in CASES["covid-rural"] if c.split == "test" and c.lesions)

    def opened():
        dataset = open_dataset("covid-rural", tmp_path, "test")
        return dataset, int(np.flatnonzero(dataset.records["image_id"] == name)[0])

    return root, name, opened


def test_outlines_are_scaled_lungs_left_out_and_films_without_annotation_counted(rural, tmp_path):
    root, name, opened = rural
    (root / f"pngs_masks/{name}.png").unlink()
    whole = [[0, 0], [96, 0], [96, 80], [0, 80]]
    part = [[20, 10], [60, 10], [60, 40], [20, 40]]
    shapes = {"left_lung": whole, "right_lung": whole, "ground glass": part}
    shapes = [{"label": label, "points": points} for label, points in shapes.items()]
    content = {"shapes": shapes, "imageHeight": 80, "imageWidth": 96}  # twice the film's size
    (root / f"jpgs/jsons/{name}.json").write_text(json.dumps(content))
    expected = np.zeros(SIZE, dtype=bool)
    expected[5:20, 10:30] = True
    dataset, index = opened()
    assert (dataset.mask(index, "COVID-19") == expected).all()
    (root / f"jpgs/jsons/{name}.json").write_text(json.dumps(content | {"shapes": shapes[:2]}))
    dataset, index = opened()
    assert np.isnan(dataset.records["COVID-19"][index])
    assert not dataset.annotated("COVID-19")[index]
    (root / f"jpgs/jsons/{name}.json").unlink()
    found = open_dataset("covid-rural", tmp_path, "test")
    assert found.left_out == {"film without annotation": 1} and len(found) == len(dataset) - 1


def test_larger_mask_files_in_a_clone_of_the_annotations_repository(rural):
    root, name, opened = rural
    mask = np.random.default_rng(0).random(SIZE) > 0.5
    write_image(root / f"pngs_masks/{name}.png", mask.repeat(2, 0).repeat(2, 1))
    (root / "covid_rural_annot").mkdir()
    for folder in ("jpgs", "pngs_masks"):
        shutil.move(root / folder, root / "covid_rural_annot")
    dataset, index = opened()
    assert (dataset.mask(index, "COVID-19") == mask).all()
