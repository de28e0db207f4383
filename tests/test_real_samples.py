"""The loaders on the official tables and on real films, where samples lie beside the project."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torchxrayvision as xrv
from scipy.ndimage import binary_dilation
from tiny_world import FIVE

from rctpl_utils.datasets import open_dataset
from rctpl_utils.datasets.chexpert import read_chexpert, select_5x200
from rctpl_utils.datasets.masks import box_mask
from rctpl_utils.datasets.nih import RSNA_BOX
from rctpl_utils.datasets.official import require_complete
from rctpl_utils.datasets.openi import xrv_file
from rctpl_utils.errors import InputError
from rctpl_utils.run.doctor import check_dataset

FILMS = {"chestxray14": 495, "rsna": 170, "siim": 1, "covidx": 232}


# --- the official tables, which torchxrayvision packages ---


def test_official_chexpert_table_is_read_as_torchxrayvision_reads_it(tmp_path):
    """The real train.csv: 191,027 frontal films; equal labels wherever theirs are not blank."""
    packed = xrv_file("chexpert_train.csv.gz").read_bytes()
    (tmp_path / "train.csv").write_bytes(gzip.decompress(packed))
    ours = read_chexpert(tmp_path, "train")
    options = {"views": ["AP", "PA", "LL", "RL"], "unique_patients": False}
    theirs = xrv.datasets.CheX_Dataset(str(tmp_path), str(tmp_path / "train.csv"), **options)
    assert len(ours) == len(theirs) == 191_027
    assert (ours["image_id"] == theirs.csv["Path"].to_numpy()).all()
    raw = pd.read_csv(tmp_path / "train.csv").set_index("Path").loc[ours["image_id"]]
    for k, name in enumerate(theirs.pathologies):
        concept = "Pleural Effusion" if name == "Effusion" else name
        label, other = ours[concept].to_numpy(), theirs.labels[:, k]
        assert ((label == other) | np.isnan(label) | np.isnan(other)).all()
        assert (np.isnan(label) == (raw[concept].to_numpy() == -1)).all()
    five = select_5x200(ours, 200, allow_partial=False)[list(FIVE)]
    assert (five == 1).sum().tolist() == [200] * 5 and five.isin([0, 1]).all(axis=None)
    assert (five.sum(axis=1) == 1).all()  # the others certainly not


def test_official_boxes_and_runs_lie_inside():
    """Every box of ChestX-ray14 and RSNA, every run of SIIM-ACR, in 1024-pixel images."""
    for name, columns, count in (
        ("BBox_List_2017.csv.gz", ["Bbox [x", "y", "w", "h]"], 984),
        ("kaggle_stage_2_train_labels.csv.zip", RSNA_BOX, 9_555),
    ):
        boxes = pd.read_csv(xrv_file(name))[columns].dropna()
        assert len(boxes) == count
        for box in boxes.itertuples(index=False, name=None):
            box_mask(box, (1024, 1024))
    runs = pd.read_csv(xrv_file("siim-pneumothorax-train-rle.csv.gz"), dtype=str)
    positive = runs[runs[" EncodedPixels"].str.strip() != "-1"][" EncodedPixels"]
    assert max(sum(map(int, text.split())) for text in positive) <= 1024 * 1024


# --- real samples ---


@pytest.fixture
def real(tmp_path):
    """A data root that points at the real samples."""
    parents = Path(__file__).resolve().parents
    samples = next((p / "shared" / "data" for p in parents if (p / "shared/data").is_dir()), None)
    if samples is None:
        pytest.skip("no shared/data beside the project")
    for folder in samples.glob("*-mini"):
        (tmp_path / folder.name.removesuffix("-mini")).symlink_to(folder)
    return tmp_path


def splits(name, data_root):
    """The splits that hold films."""
    found = []
    for split in ("validation", "test"):
        try:
            found.append(open_dataset(name, data_root, split, allow_partial=True, skip_bad=True))
        except InputError as error:
            assert "no image in its validation split" in str(error) or "train.txt" in str(error)
    return found


@pytest.mark.parametrize("name", FILMS)
def test_every_film_decodes_and_every_mask_lies_inside(real, name):
    sets = splits(name, real)
    assert sum(map(len, sets)) == FILMS[name]
    for dataset, concept in ((each, concept) for each in sets for concept in each.concepts):
        assert not dataset.skipped
        for index in np.flatnonzero(dataset.annotated(concept)):
            assert 0 < dataset.mask(index, concept).mean() < 0.8
            assert dataset.records[concept][index] == 1 or name == "chestxray14"


def test_real_chestxray14(real):
    dataset = open_dataset("chestxray14", real, "test")
    assert dataset.records["Pneumonia"].sum() == 253
    assert dataset.records["patient_id"].nunique() == 341
    assert dataset.pixels(7).shape == (320, 320)
    theirs = xrv.datasets.NIH_Dataset(
        str(real / "chestxray14/images_001/images"),
        csvpath=str(real / "chestxray14" / "Data_Entry_2017_v2020.csv"),
        bbox_list_path=str(real / "chestxray14" / "BBox_List_2017.csv"),
        views=["*"],
        unique_patients=False,
    )
    assert theirs.csv["Image Index"].tolist() == dataset.records["image_id"].tolist()
    names = {"Effusion": "Pleural Effusion", "Pleural_Thickening": "Pleural Thickening"}
    columns = [names.get(name, name) for name in theirs.pathologies]
    assert (dataset.records[columns].to_numpy() == theirs.labels).all()
    np.testing.assert_allclose(theirs[7]["img"][0] / 2048 + 0.5, dataset.pixels(7), atol=1e-6)
    drawn = 0
    for k, concept in enumerate(columns):
        for index in np.flatnonzero(dataset.annotated(concept)):
            mask = dataset.mask(index, concept)
            other = theirs.get_mask_dict(dataset.records["image_id"][index], 320)[k][0] > 0
            # theirs is cut to whole pixels, first the corner, then the extent
            assert (mask <= binary_dilation(other, np.ones((5, 5)))).all()
            assert (other <= binary_dilation(mask, np.ones((3, 3)))).all()
            drawn += 1
    boxes = pd.read_csv(real / "chestxray14" / "BBox_List_2017.csv")
    assert len(boxes) == 33
    assert drawn == len(boxes.drop_duplicates(["Image Index", "Finding Label"]))


def test_real_rsna(real):
    parts = [open_dataset("rsna", real, split) for split in ("validation", "test")]
    assert sum(part.annotated("Pneumonia").sum() for part in parts) == 67
    theirs = xrv.datasets.RSNA_Pneumonia_Dataset(
        str(real / "rsna/stage_2_train_images"),
        csvpath=str(real / "rsna/stage_2_train_labels.csv"),
        views=["*"],
        extension=".dcm",
    )
    rows = {image: k for k, image in enumerate(theirs.csv["patientId"])}
    detailed = pd.read_csv(real / "rsna" / "stage_2_detailed_class_info.csv")
    opaque = set(detailed["patientId"][detailed["class"] == "Lung Opacity"])
    for part in parts:
        assert ((part.records["Pneumonia"] == 1) == part.records["image_id"].isin(opaque)).all()
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


def test_siim_agrees_with_torchxrayvision(real):
    """Theirs over the official table; of one row, all "-1", it would make a positive."""
    (dataset,) = splits("siim", real)
    theirs = xrv.datasets.SIIM_Pneumothorax_Dataset(str(real / "siim" / "dicom-images-train"))
    rows = theirs.csv.index[theirs.csv["ImageId"] == dataset.records["image_id"][0]]
    assert dataset.records["Pneumothorax"].tolist() == theirs.labels[rows, 0].tolist() == [0.0]
    pixels = theirs[int(rows[0])]["img"][0] / 2048 + 0.5
    np.testing.assert_allclose(dataset.pixels(0), pixels, atol=1e-6)


@pytest.mark.parametrize("name", FILMS)
def test_a_sample_is_not_taken_for_the_official_release(real, name):
    message = r"not the official release: .* of .* \(--allow-partial\)\.$"
    if name == "covidx":  # the sample has no training list at all
        message = r"train\.txt: the file is missing; there are test\.txt"
    else:
        require_complete(name, real / name, allow_partial=True)
    with pytest.raises(InputError, match=message):
        require_complete(name, real / name)
    assert check_dataset(name, real).state in ("partial", "unusable")
