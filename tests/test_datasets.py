"""What all data-set readers have in common, and the real samples."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torchxrayvision as xrv
from PIL import Image
from scipy.ndimage import binary_dilation
from tiny_world import CASES, SIZE, edit, refused, write, write_mimic

from rctpl_utils.datasets import DATASETS, ChestXrayDataset, open_dataset
from rctpl_utils.datasets.tables import hash_split
from rctpl_utils.errors import InputError
from rctpl_utils.vocabulary import CONCEPTS

ENTRIES, BOXES = "Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"
SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "data"


# --- what all have in common ---


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
    root = write_mimic(tmp_path) if name == "mimic-cxr" else write(name, tmp_path)
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


@pytest.mark.parametrize("name", CASES)
def test_images_are_decoded_late_and_bad_ones_named(tmp_path, name):
    write(name, tmp_path)
    dataset = open_dataset(name, tmp_path, "test")
    file = Path(dataset.records["path"][0])
    file.write_bytes(b"")
    dataset = open_dataset(name, tmp_path, "test")
    with pytest.raises(InputError, match=rf"{file.name}: the image is empty"):
        dataset.pixels(0)
    assert dataset.pixels(1).shape == SIZE


def test_unknown_names_and_splits(tmp_path):
    refused("mnist", tmp_path, "test", "no data set 'mnist'. Choose one of: chestxray14, ")
    refused(
        "rsna", tmp_path, "train", "'rsna' has no split 'train'. Choose one of: validation, test"
    )
    refused("siim", tmp_path, "test", "siim: data set 'siim' is absent")
    for name, (folder, *_) in DATASETS.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        refused(name, tmp_path, "test", folder)


def test_hash_split_is_fixed():
    names = [f"patient{k}" for k in range(4000)]
    splits = hash_split(names)
    assert 0.17 < (splits == "validation").mean() < 0.23
    assert hash_split(["a", "b", "c", "d", "e"]).tolist() == [
        "test",
        "test",
        "validation",
        "validation",
        "test",
    ]  # their SHA-256 begin with ca, 3e, 2e, 18, 3f (hexadecimal); the limit is 0.2 of the range
    assert (hash_split(names[::-1]) == splits[::-1]).all()


def test_a_jpeg_named_png_is_still_read(tmp_path):
    """COVIDx holds such files; the content decides."""
    write("covidx", tmp_path)
    dataset = open_dataset("covidx", tmp_path, "test")
    Image.new("L", (5, 4), 51).save(dataset.records["path"][0], format="JPEG")
    assert dataset.pixels(0).shape == (4, 5) and abs(dataset.pixels(0).mean() - 0.2) < 0.01


# --- real samples ---


@pytest.fixture
def real(tmp_path):
    """A data root that points at the real samples."""
    if not SAMPLES.is_dir():
        pytest.skip("../shared/data is absent")
    for folder in SAMPLES.glob("*-mini"):
        (tmp_path / folder.name.removesuffix("-mini")).symlink_to(folder)
    return tmp_path


def test_real_chestxray14(real):
    dataset = open_dataset("chestxray14", real, "test")
    assert len(dataset) == 495 and dataset.records["Pneumonia"].sum() == 253
    assert dataset.records["patient_id"].nunique() == 341
    assert dataset.pixels(7).shape == (320, 320)
    theirs = xrv.datasets.NIH_Dataset(
        str(real / "chestxray14/images_001/images"),
        csvpath=str(real / "chestxray14" / ENTRIES),
        bbox_list_path=str(real / "chestxray14" / BOXES),
        views=["*"],
        unique_patients=False,
    )
    assert theirs.csv["Image Index"].tolist() == dataset.records["image_id"].tolist()
    names = {"Effusion": "Pleural Effusion", "Pleural_Thickening": "Pleural Thickening"}
    columns = [names.get(name, name) for name in theirs.pathologies]
    assert (dataset.records[columns].to_numpy() == theirs.labels).all()
    np.testing.assert_allclose(theirs[7]["img"][0] / 2048 + 0.5, dataset.pixels(7), atol=1e-6)
    drawn = 0
    for k in range(len(columns)):
        for index in np.flatnonzero(dataset.annotated(columns[k])):
            mask = dataset.mask(index, columns[k])
            other = theirs.get_mask_dict(dataset.records["image_id"][index], 320)[k][0] > 0
            # theirs is cut to whole pixels, first the corner, then the extent
            assert (mask <= binary_dilation(other, np.ones((5, 5)))).all()
            assert (other <= binary_dilation(mask, np.ones((3, 3)))).all()
            drawn += 1
    boxes = pd.read_csv(real / "chestxray14" / BOXES)
    assert len(boxes) == 33 and drawn == len(
        boxes.drop_duplicates(["Image Index", "Finding Label"])
    )


def test_real_rsna(real):
    parts = [open_dataset("rsna", real, split) for split in ("validation", "test")]
    assert sum(map(len, parts)) == 170
    assert sum(part.annotated("Pneumonia").sum() for part in parts) == 67
    theirs = xrv.datasets.RSNA_Pneumonia_Dataset(
        str(real / "rsna/stage_2_train_images"),
        csvpath=str(real / "rsna/stage_2_train_labels.csv"),
        views=["*"],
        extension=".dcm",
    )
    rows = {image: k for k, image in enumerate(theirs.csv["patientId"])}
    for part in parts:
        order = [rows[image] for image in part.records["image_id"]]
        assert (part.records["Pneumonia"].to_numpy() == theirs.labels[order, 0]).all()
        for index in np.flatnonzero(part.annotated("Pneumonia"))[:3]:
            masks = theirs.get_mask_dict(part.records["image_id"][index], 1024)
            assert (part.mask(index, "Pneumonia") == masks[0][0].astype(bool)).all()
        pixels = theirs[order[0]]["img"][0] / 2048 + 0.5
        np.testing.assert_allclose(part.pixels(0), pixels, atol=1e-6)


def test_real_covidx(real):
    dataset = open_dataset("covidx", real, "test")
    assert dataset.records["COVID-19"].value_counts().to_dict() == {0.0: 120, 1.0: 112}
    assert dataset.records[dataset.records["COVID-19"] == 1]["patient_id"].nunique() == 35
    assert max(dataset.pixels(0).shape) == 320


def test_real_siim(real):
    dataset = open_dataset("siim", real, "test")
    assert len(dataset) == 1 and dataset.records["Pneumothorax"].tolist() == [0.0]
    assert dataset.pixels(0).shape == dataset.mask(0, "Pneumothorax").shape == (1024, 1024)
    assert not dataset.mask(0, "Pneumothorax").any()
