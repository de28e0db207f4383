"""Films in the official layouts, read back by our readers and by torchxrayvision's."""

import numpy as np
import pandas as pd
import pydicom
import pytest
import torchxrayvision as xrv
from tiny_world import CASES, FIVE, MIMIC_CASES, SIZE, case, chexpert_path, film, write

from rctpl_utils.datasets import open_dataset
from rctpl_utils.datasets.masks import polygon_mask
from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json, sha256_file
from rctpl_utils.simulation.layouts import inverted_film, lesion_boxes, write_film, write_tables
from rctpl_utils.vocabulary import with_parents

LOSSLESS = {"chestxray14", "covidx", "rsna", "siim"}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """Every data set, written once."""
    folder = tmp_path_factory.mktemp("data")
    for name in (*CASES, "mimic-cxr"):
        write(name, folder)
    return folder


def read_back(name, data_root):
    """{image_id: (dataset, index)} of both splits."""
    found = {}
    for split in ("validation", "test"):
        options = {} if name != "chexpert" else {"per_class": 1}
        dataset = open_dataset(name, data_root, split, **options)
        assert dataset.records.index.tolist() == list(range(len(dataset)))
        assert dataset.split == split and not dataset.left_out
        found |= {image: (dataset, k) for k, image in enumerate(dataset.records["image_id"])}
    if name == "chexpert":
        dataset = open_dataset("chexpert5x200", data_root, "test", per_class=1)
        found |= {image: (dataset, k) for k, image in enumerate(dataset.records["image_id"])}
    return found


@pytest.mark.parametrize("name", CASES)
def test_films_labels_and_splits_come_back(data_root, name):
    found = read_back(name, data_root)
    assert found.keys() == {each.image_id for each in CASES[name]}
    for each in CASES[name]:
        dataset, index = found[each.image_id]
        assert dataset.split == each.split
        record = dataset.records.iloc[index]
        present = {c for c in dataset.concepts if record[c] == 1}
        assert present == with_parents(each.concepts) & set(dataset.concepts)
        pixels = dataset.pixels(index)
        assert pixels.dtype == np.float32 and pixels.shape == SIZE
        error = np.abs(pixels - film(each).pixels).max()
        assert error < 1e-6 if name in LOSSLESS else error < 0.2  # noise under JPEG


@pytest.mark.parametrize(
    ("name", "concepts"),
    [
        ("chestxray14", ("Mass", "Pleural Effusion", "Infiltration", "Pneumonia")),
        ("rsna", ("Pneumonia",)),
        ("siim", ("Pneumothorax",)),
        ("covid-rural", ("COVID-19",)),
    ],
)
def test_masks_come_back(data_root, name, concepts):
    seen, found = 0, read_back(name, data_root)
    for each in CASES[name]:
        dataset, index = found[each.image_id]
        assert dataset.has_masks
        for concept in concepts:
            drawn = film(each).masks.get(concept)
            assert dataset.annotated(concept)[index] == (drawn is not None)
            expected = np.zeros(SIZE, dtype=bool) if drawn is None else drawn
            assert (dataset.mask(index, concept) == expected).all()
            seen += drawn is not None
        if seen > 6:
            break
    assert seen >= 4


def test_mimic_films_come_back(data_root):
    splits = {s: open_dataset("mimic-cxr", data_root, s) for s in ("train", "validation", "test")}
    train = splits["train"]
    assert train.records["image_id"].tolist() == ["d0"]
    assert train.left_out == {"not a frontal view": 1}
    assert train.records.loc[0, ["patient_id", "study"]].tolist() == ["p10000001", "s50000001"]
    labels = train.records.loc[0, list(train.concepts)].astype(float)
    assert labels["Edema"] == 1 and labels["Fracture"] == 0 and np.isnan(labels["Pneumonia"])
    assert labels.isna().sum() == 1  # blanks are 0
    assert np.abs(train.pixels(0) - film(MIMIC_CASES[0]).pixels).max() < 0.2
    assert splits["validation"].records["image_id"].tolist() == ["d2"]
    assert splits["test"].records["Fracture"].tolist() == [1.0]
    assert (data_root / "mimic-cxr/files/p10/p10000001/s50000001/d0.jpg").is_file()


@pytest.mark.parametrize("name", CASES)
def test_the_same_cases_give_the_same_bytes(data_root, tmp_path, name):
    files = [path for path in write(name, tmp_path).rglob("*") if path.is_file()]
    again = [path for path in (data_root / name).rglob("*") if path.is_file()]
    assert len(files) == len(again) > 1
    for path in files:
        assert sha256_file(path) == sha256_file(data_root / path.relative_to(tmp_path))


def test_lists_and_boxes_of_chestxray14(data_root):
    root = data_root / "chestxray14"
    assert (root / "test_list.txt").read_text() == "00090001_000.png\n00090001_001.png\n"
    assert (root / "train_val_list.txt").read_text() == "00090002_000.png\n00090003_000.png\n"
    table = pd.read_csv(root / "Data_Entry_2017_v2020.csv")
    labels = ["Effusion|Mass", "Infiltration|Pleural_Thickening", "No Finding", "Hernia|Pneumonia"]
    assert table["Finding Labels"].tolist() == labels
    assert table["Follow-up #"].tolist() == [0, 1, 0, 0]
    rows = (root / "BBox_List_2017.csv").read_text().splitlines()
    assert rows[0] == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    ((x, y, w, h),) = lesion_boxes(film(CASES["chestxray14"][0]).masks["Pleural Effusion"])
    image, label, *numbers = rows[1].split(",")[:6]
    assert (image, label) == ("00090001_000.png", "Effusion")
    scaled = [x * 1024 / 48, y * 1024 / 40, w * 1024 / 48, h * 1024 / 40]
    assert [float(number) for number in numbers] == pytest.approx(scaled)
    assert any(",Infiltrate," in row for row in rows)  # the box table's own spelling


def test_specks_get_no_box_of_their_own():
    mask = np.zeros((40, 40), dtype=bool)
    mask[5:25, 5:25] = True  # 400 pixels
    mask[30, 20:32] = True  # 12, below 4 %
    mask[35, 18:38] = True  # 20
    assert lesion_boxes(mask) == [(5, 5, 20, 20), (18, 35, 20, 1)]
    assert lesion_boxes(None) == []


def test_dicom_trees(data_root):
    kinds = set()
    for each in CASES["rsna"]:
        data = pydicom.dcmread(data_root / "rsna" / "stage_2_train_images" / f"{each.image_id}.dcm")
        kinds.add(data.PhotometricInterpretation)
        inverted = data.PhotometricInterpretation == "MONOCHROME1"
        assert inverted == inverted_film(each.image_id)
        assert data.PatientID == each.patient_id
    assert kinds == {"MONOCHROME1", "MONOCHROME2"}
    for path in (data_root / "siim" / "dicom-images-train").rglob("*.dcm"):
        data = pydicom.dcmread(path)
        assert path.stem == data.SOPInstanceUID
        assert path.parent.name == data.SeriesInstanceUID
        assert path.parent.parent.name == data.StudyInstanceUID


def test_official_spellings(data_root):
    rows = (data_root / "siim" / "train-rle.csv").read_text().splitlines()
    assert rows[0] == "ImageId, EncodedPixels" and rows[1].endswith(", -1")
    rows = (data_root / "covidx" / "test.txt").read_text().splitlines()
    assert rows[0] == "sim-1 sim-1.png COVID-19 simulated"
    positive = CASES["covid-rural"][1]
    outline = read_json(data_root / f"covid-rural/jpgs/jsons/{positive.image_id}.json")
    assert outline["shapes"][0]["shape_type"] == "polygon"
    mask = polygon_mask(np.array(outline["shapes"][0]["points"]), SIZE)
    assert (mask == film(positive).masks["COVID-19"]).all()


def test_torchxrayvision_reads_chestxray14_chexpert_and_rsna_alike(data_root):
    root, home = data_root / "chestxray14", data_root / "chexpert" / "CheXpert-v1.0-small"
    films, every = root / "images_001" / "images", {"views": ["*"], "unique_patients": False}
    tables = [str(root / name) for name in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv")]
    theirs = xrv.datasets.NIH_Dataset(str(films), *tables, **every)
    _read_alike(theirs, theirs.csv["Image Index"], read_back("chestxray14", data_root))
    theirs = xrv.datasets.CheX_Dataset(str(home), str(home / "valid.csv"), **every)
    ours = open_dataset("chexpert", data_root, "test")
    assert theirs.csv["Path"].tolist() == ours.records["image_id"].tolist()
    _read_alike(theirs, theirs.csv["Path"], read_back("chexpert", data_root))
    root = data_root / "rsna"
    labels, films = root / "stage_2_train_labels.csv", root / "stage_2_train_images"
    rsna = xrv.datasets.RSNA_Pneumonia_Dataset
    theirs = rsna(str(films), str(labels), views=["*"], extension=".dcm")
    assert len(theirs) == len(CASES["rsna"])
    _read_alike(theirs, theirs.csv["patientId"], read_back("rsna", data_root))


def _read_alike(theirs, images, ours):
    names = {"Effusion": "Pleural Effusion", "Pleural_Thickening": "Pleural Thickening"}
    for k, image in enumerate(images):
        dataset, index = ours[image]
        found = zip(theirs.pathologies, theirs.labels[k], strict=True)
        labels = {c: value for n, value in found if (c := names.get(n, n)) in dataset.concepts}
        assert labels and {c: dataset.records[c][index] for c in labels} == labels
        pixels = theirs[k]["img"][0] / 2048 + 0.5
        inverted = dataset.name == "rsna" and inverted_film(image)  # theirs stay inverted
        pixels = 1 - pixels if inverted else pixels
        np.testing.assert_allclose(pixels, dataset.pixels(index), atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_two_films_of_one_name_are_refused(tmp_path, name):
    row = write_film(name, tmp_path, CASES[name][0], film(CASES[name][0]))
    with pytest.raises(InputError, match=r"row .*: two images of the same name\. Name them apart"):
        write_tables(name, tmp_path, [row, row])


@pytest.mark.parametrize(
    ("name", "concept"),
    [("rsna", "Pneumonia"), ("siim", "Pneumothorax"), ("covid-rural", "COVID-19")],
)
def test_a_positive_film_must_show_its_lesion(tmp_path, name, concept):
    positive = case("1.2", "1.2", (concept,), "test")
    blank = film(positive)
    blank.masks[concept][:] = False
    with pytest.raises(InputError, match=f"row 1.2: {concept} is labeled, but nothing is drawn"):
        write_film(name, tmp_path, positive, blank)


def test_no_finding_and_5x200_of_chexpert(data_root):
    home = data_root / "chexpert" / "CheXpert-v1.0-small"
    train, valid = (pd.read_csv(home / f"{name}.csv") for name in ("train", "valid"))
    device = train.set_index("Path").loc[chexpert_path("train", 70011)]
    assert device["No Finding"] == 1 and device["Support Devices"] == 1
    assert device.isna().sum() == 14  # Sex, Age and twelve findings that no one mentions
    assert valid["No Finding"].tolist() == [0, 1] and not valid.iloc[:, 5:].isna().any().any()
    five = open_dataset("chexpert5x200", data_root, "test", per_class=1)
    rest = open_dataset("chexpert", data_root, "validation", per_class=1)
    assert five.records["patient_id"].tolist() == [f"patient{70001 + k}" for k in range(5)]
    assert five.concepts == FIVE and (five.records[list(FIVE)].to_numpy() == np.eye(5)).all()
    next_best = open_dataset("chexpert5x200", data_root, "validation", per_class=1)
    assert next_best.records["patient_id"].tolist() == ["patient70010"]
    assert next_best.records[list(FIVE)].to_numpy().tolist() == [[0, 0, 0, 1, 0]]
    assert rest.records["patient_id"].unique().tolist() == ["patient70010", "patient70011"]
