"""Readers of labeled data sets: what they read, and each kind of bad input."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torchxrayvision as xrv
from tiny_world import FIVE, SIZE, chexpert_path, edit, refused, write, write_mimic

from rctpl_utils.datasets import open_dataset
from rctpl_utils.datasets.chexpert import read_chexpert, select_5x200
from rctpl_utils.datasets.openi import xrv_file
from rctpl_utils.errors import InputError

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "data"


# --- ChestX-ray14 ---

ENTRIES, BOXES = "Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (ENTRIES, "Finding Labels", "Labels", rf"{ENTRIES}: no column 'Finding Labels'"),
        (ENTRIES, "00090001_001.png", "00090001_000.png", "row 2: the same Image Index"),
        (ENTRIES, "00090001_001.png", "../../x.png", "row 2: a path that leaves the data root"),
        (ENTRIES, "00090001_001.png", "/etc/x.png", "row 2: a path that leaves the data root"),
        (ENTRIES, "00090001_001.png", r"C:\x.png", "row 2: a path that leaves the data root"),
        (ENTRIES, "00090001_001.png,", ",", "row 2: a blank Image Index or Patient ID"),
        (ENTRIES, ",0,90002", ",0,", "row 3: a blank Image Index or Patient ID"),
        (ENTRIES, "Effusion|Mass", "Effusion|Cough", "row 1: the label 'Cough' is not one"),
        (ENTRIES, "00090003_000.png,Hernia|Pneumonia,0,90003", "00090003_000.png,,0,90001",
         "row 4: the label '' is not one"),
        (ENTRIES, "0,90003", "0,90001", r"row of patient 90001: 1 patients are both in the test"),
        ("test_list.txt", "00090001_001", "00090009_001", "row 2: an image that the data entry"),
        ("test_list.txt", "00090001_001", "00090001_000", "row 2: the same image"),
        (BOXES, "Bbox [x,y,w,h]", "x,y,w,h", "no column 'Bbox \\[x'"),
        (BOXES, ",Mass,", ",Mass,wide", f"{BOXES}, row 2: no number in Bbox"),
        (BOXES, ",Mass,", ",Cough,", f"{BOXES}, row 2: an unknown finding"),
        (BOXES, "00090001_000", "00090009_000", f"{BOXES}, row 1: a box of an image"),
    ],
)  # fmt: skip
def test_bad_chestxray14_tables(tmp_path, file, old, new, message):
    root = write("chestxray14", tmp_path)
    edit(root / file, old, new)
    refused("chestxray14", tmp_path, "test", message)


@pytest.mark.parametrize("file", [ENTRIES, "test_list.txt"])
def test_missing_chestxray14_tables(tmp_path, file):
    (write("chestxray14", tmp_path) / file).unlink()
    refused("chestxray14", tmp_path, "test", rf"{file}: the .* is missing")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it is empty"),
        (b"\x89PNG\xff\xfe", "not a readable CSV table"),
        (b'a,"b\n1', "not a readable CSV table"),
    ],
)
def test_damaged_tables(tmp_path, content, what):
    root = write("chestxray14", tmp_path)
    (root / ENTRIES).write_bytes(content)
    refused("chestxray14", tmp_path, "test", rf"{ENTRIES}: {what}")


def test_damaged_lists(tmp_path):
    (write("chestxray14", tmp_path) / "test_list.txt").write_bytes(b"\xff\xfe\x00")
    refused("chestxray14", tmp_path, "test", r"test_list\.txt: not a text file")
    (write("covidx", tmp_path) / "test.txt").write_bytes(b"\xff\xfe\x00")
    refused("covidx", tmp_path, "test", r"test\.txt: not a text file")


@pytest.mark.parametrize("box", ["1000,0,100,50", "-3,0,10,10", "5,5,0,9", "5,5,,9"])
def test_chestxray14_box_outside_the_image(tmp_path, box):
    file = write("chestxray14", tmp_path) / BOXES
    lines = file.read_text().splitlines()
    lines[2] = f"00090001_000.png,Mass,{box},,,"
    file.write_text("\n".join(lines) + "\n")
    dataset = open_dataset("chestxray14", tmp_path, "test")
    with pytest.raises(InputError, match=rf"{BOXES}, row 2: the box .* 1024 x 1024 image"):
        dataset.mask(0, "Mass")
    assert dataset.mask(0, "Pleural Effusion").any()  # another row, which is sound


def test_chestxray14_without_boxes_and_in_several_folders(tmp_path):
    root = write("chestxray14", tmp_path)
    (root / BOXES).unlink()
    (root / ENTRIES).rename(root / "Data_Entry_2017.csv")
    (root / "images_012" / "images").mkdir(parents=True)
    shutil.move(root / "images_001/images/00090001_001.png", root / "images_012/images")
    dataset = open_dataset("chestxray14", tmp_path, "test")
    assert len(dataset) == 2 and not dataset.has_masks
    assert Path(dataset.records["path"][1]).parts[-3] == "images_012"


# --- CheXpert ---


def chexpert_table(folder: Path, part: str, rows: list[dict]) -> None:
    columns = pd.read_csv(xrv_file("chexpert_train.csv.gz"), nrows=0).columns
    table = pd.DataFrame([{"Frontal/Lateral": "Frontal", **row} for row in rows])
    table = table.reindex(columns=columns)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{part}.csv", index=False)


def test_chexpert_labels_and_views(tmp_path):
    lateral = chexpert_path("train", 4).replace("frontal", "lateral")
    chexpert_table(
        tmp_path, "train",
        [
            {"Path": chexpert_path("train", 3), "Edema": 1, "Fracture": 0, "Pneumonia": -1},
            {"Path": lateral, "Frontal/Lateral": "Lateral", "Edema": 1},
        ],
    )  # fmt: skip
    records = read_chexpert(tmp_path, "train")
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
    chexpert_table(tmp_path, "train", rows)
    records = read_chexpert(tmp_path, "train")
    edema = select_5x200(records, 4, allow_partial=True).query("Edema == 1")
    # lowest patients first, each once before any twice; 23 is the fourth patient
    studies = edema["image_id"].str.extract(r"patient(\d+)/study(\d)").astype(int)
    assert studies.to_numpy().tolist() == [[9, 1], [10, 1], [11, 1], [23, 1]]
    assert len(select_5x200(records, 9, allow_partial=True).query("Edema == 1")) == 5
    assert select_5x200(records, 1, allow_partial=False)[list(FIVE)].sum().tolist() == [1] * 5
    shuffled = select_5x200(records[::-1].reset_index(drop=True), 4, allow_partial=True)
    assert (
        shuffled["image_id"].tolist()
        == select_5x200(records, 4, allow_partial=True)["image_id"].tolist()
    )


def test_5x200_shares_no_patient_with_validation(tmp_path):
    write("chexpert", tmp_path)
    options = {"per_class": 1, "allow_partial": True}
    chosen = open_dataset("chexpert5x200", tmp_path, "test", **options)
    assert chosen.records[list(FIVE)].sum().tolist() == [1] * 5
    for name in ("chexpert5x200", "chexpert"):
        validation = open_dataset(name, tmp_path, "validation", **options)
        assert len(validation)
        assert set(validation.records["patient_id"]).isdisjoint(chosen.records["patient_id"])


def test_5x200_needs_its_images(tmp_path):
    write("chexpert", tmp_path)
    message = "only 1 images show Atelectasis alone; 200 are needed"
    refused("chexpert5x200", tmp_path, "test", message)
    parts = [
        open_dataset("chexpert5x200", tmp_path, split, allow_partial=True)
        for split in ("test", "validation")
    ]
    assert [len(part) for part in parts] == [5, 1]  # one a class; the sixth is another's edema


@pytest.mark.parametrize(
    ("part", "old", "new", "message"),
    [
        ("train", ",Edema,", ",Oedema,", r"train\.csv: no column 'Edema'"),
        ("train", "patient70002", "patient70001", "row 2: the same Path"),
        ("train", "CheXpert-v1.0-small/train/patient70002", "../train/patient70002",
         "row 2: a path that leaves the data root"),
        ("train", "CheXpert-v1.0-small/train/patient70002", "/train/patient70002",
         "row 2: a path that leaves the data root"),
        ("train", "patient70002/study1", "patient70002/visit1", "row 2: a path that is not"),
        ("train", ",1.0", ",yes", "row 1: a label that is not 1, 0, -1 or blank"),
        ("train", ",1.0", ",2.0", "row 1: a label that is not 1, 0, -1 or blank"),
        ("valid", "valid/patient70020", "valid/patient70001",
         "row of patient patient70001: 1 patients are both in train.csv and in valid.csv"),
    ],
)  # fmt: skip
def test_bad_chexpert_tables(tmp_path, part, old, new, message):
    home = write("chexpert", tmp_path) / "CheXpert-v1.0-small"
    edit(home / f"{part}.csv", old, new)
    refused("chexpert", tmp_path, "validation", message)


def test_full_size_chexpert(tmp_path):
    root = write("chexpert", tmp_path)
    (root / "CheXpert-v1.0-small").rename(root / "CheXpert-v1.0")
    for part in ("train", "valid"):
        file = root / "CheXpert-v1.0" / f"{part}.csv"
        file.write_text(file.read_text().replace("CheXpert-v1.0-small/", "CheXpert-v1.0/"))
    assert open_dataset("chexpert", tmp_path, "test").pixels(0).shape == SIZE


def test_official_chexpert_table_is_read_as_torchxrayvision_reads_it(tmp_path):
    """The real train.csv: 191,027 frontal films; equal labels wherever theirs are not blank."""
    (tmp_path / "train.csv").write_bytes(
        gzip.decompress(xrv_file("chexpert_train.csv.gz").read_bytes())
    )
    ours = read_chexpert(tmp_path, "train")
    theirs = xrv.datasets.CheX_Dataset(
        str(tmp_path),
        str(tmp_path / "train.csv"),
        views=["AP", "PA", "LL", "RL"],
        unique_patients=False,
    )
    assert len(ours) == len(theirs) == 191_027
    assert (ours["image_id"] == theirs.csv["Path"].to_numpy()).all()
    raw = pd.read_csv(tmp_path / "train.csv").set_index("Path").loc[ours["image_id"]]
    for k, name in enumerate(theirs.pathologies):
        concept = "Pleural Effusion" if name == "Effusion" else name
        label = ours[concept].to_numpy()
        known = ~np.isnan(theirs.labels[:, k]) & ~np.isnan(label)
        assert (label[known] == theirs.labels[known, k]).all()
        uncertain = raw[concept].to_numpy() == -1
        assert (np.isnan(label) == uncertain).all()
    five = select_5x200(ours, 200, allow_partial=False)[list(FIVE)]
    assert (five == 1).sum().tolist() == [200] * 5  # 200 a class,
    assert ((five == 1).sum(axis=1) == 1).all()  # exactly one of the five,
    assert ((five == 0).sum(axis=1) == 4).all()  # the others certainly not


# --- COVIDx ---


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("test.txt", "sim-2 sim-2.png pneumonia simulated", "sim-2.png pneumonia simulated",
         r"test\.txt, row 2: not `patient file label source`"),
        ("test.txt", "sim-2.png pneumonia", "sim-2.png flu", "row 2: the label is none"),
        ("test.txt", "sim-2 sim-2.png", "sim-2 sim-1.png", "row 2: the same file"),
        ("test.txt", "sim-2 sim-2.png", "sim-2 ../sim-2.png", "row 2: a path that leaves"),
        ("train.txt", "sim-4 ", "sim-2 ", "of patient simulated:sim-2: 1 patients are both"),
    ],
)  # fmt: skip
def test_bad_covidx_lists(tmp_path, file, old, new, message):
    edit(write("covidx", tmp_path) / file, old, new)
    refused("covidx", tmp_path, "test", message)


def test_covidx_lists_without_and_with_the_third_class(tmp_path):
    root = write("covidx", tmp_path)
    records = open_dataset("covidx", tmp_path, "test").records
    assert records[["COVID-19", "Pneumonia"]].to_numpy().tolist() == [[1, 0], [0, 1], [0, 0]]
    text = (root / "test.txt").read_text().replace("COVID-19", "positive")
    (root / "test.txt").write_text(
        text.replace("pneumonia", "negative").replace("normal", "negative")
    )
    dataset = open_dataset("covidx", tmp_path, "test")
    assert dataset.concepts == ("COVID-19",) and dataset.records["COVID-19"].tolist() == [1, 0, 0]


def test_covidx_patients(tmp_path):
    """Names with spaces; the same number in two sources is not the same patient."""
    root = write("covidx", tmp_path)
    edit(root / "test.txt", "sim-2 sim-2.png pneumonia simulated", "case 7 sim-2.png negative a")
    edit(root / "train.txt", "sim-4 sim-4.png normal simulated", "case 7 sim-4.png negative b")
    dataset = open_dataset("covidx", tmp_path, "test")
    assert dataset.records["patient_id"].tolist()[1] == "a:case 7"


# --- MIMIC-CXR ---


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("split", "split\n", "part\n", r"split\.csv\.gz: no column 'split'"),
        ("split", "d1,", "d0,", "row 2: the same dicom_id"),
        ("split", "10000001,train\nd2", "10000001,test\nd2", "row 2: a patient who is in another"),
        ("split", "d1,50000001", "d1,", "row 2: a blank subject_id or study_id or dicom_id"),
        ("split", ",validate", ",dev", "row 3: a split that is not"),
        ("split", "d1,", "../d1,", "row 2: a path that leaves"),
        ("metadata", "ViewPosition", "View", "no column 'ViewPosition'"),
        ("metadata", "d1,", "d0,", r"metadata\.csv\.gz, row 2: the same dicom_id"),
        ("chexpert", "Edema", "Oedema", "no column 'Edema'"),
        ("chexpert", "50000002", "50000001", "row 2: the same study_id"),
        ("chexpert", "1.0,0.0,-1.0", "1.0,0.0,-2.0", "row 1: a label that is not"),
    ],
)  # fmt: skip
def test_bad_mimic_tables(tmp_path, table, old, new, message):
    edit(write_mimic(tmp_path) / f"mimic-cxr-2.0.0-{table}.csv.gz", old, new)
    refused("mimic-cxr", tmp_path, "train", message)


def test_mimic_study_without_labels_is_counted(tmp_path):
    root = write_mimic(tmp_path)
    edit(root / "mimic-cxr-2.0.0-metadata.csv.gz", "LATERAL", "AP")
    edit(root / "mimic-cxr-2.0.0-split.csv.gz", "d1,50000001", "d1,50000009")
    dataset = open_dataset("mimic-cxr", tmp_path, "train")
    assert dataset.left_out == {"study without labels": 1} and len(dataset) == 1


def test_damaged_gzip(tmp_path):
    file = write_mimic(tmp_path) / "mimic-cxr-2.0.0-split.csv.gz"
    whole = file.read_bytes()
    for damaged in (whole[:-20], whole[:20] + b"\xff" * 20 + whole[40:]):
        file.write_bytes(damaged)
        refused("mimic-cxr", tmp_path, "train", "not a readable CSV table")
