"""A few random films in every layout, and ways to spoil them, for the tests of the data sets."""

import gzip
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rctpl_utils.datasets import open_dataset
from rctpl_utils.datasets.tables import hash_split
from rctpl_utils.errors import InputError
from rctpl_utils.simulation.cases import Case, Lesion
from rctpl_utils.simulation.layouts import write_film, write_image, write_tables
from rctpl_utils.vocabulary import CHEXPERT_CONCEPTS

SIZE = (40, 48)  # height, width


def case(image: str, patient: str, concepts: tuple[str, ...], split: str, seed: int = 0) -> Case:
    lesions = tuple(Lesion(concept) for concept in concepts)
    return Case(image, patient, lesions, split, "any", seed)


def film(of: Case) -> SimpleNamespace:
    """Random pixels, and one rectangle a drawn concept; stands in for `radiograph.Radiograph`."""
    rng = np.random.default_rng([of.seed, *of.image_id.encode()])
    masks = {}
    for lesion in of.lesions:
        top, left = rng.integers(0, 25, size=2)
        masks[lesion.concept] = np.zeros(SIZE, dtype=bool)
        masks[lesion.concept][top : top + 12, left : left + 9] = True
    pixels = rng.integers(0, 256, SIZE).astype(np.float32) / np.float32(255)
    return SimpleNamespace(pixels=pixels, masks=masks)


def hashed(prefix: str, concepts: tuple[str, ...], count: int) -> list[Case]:
    names = [f"{prefix}{number}" for number in range(count)]
    splits = hash_split(names)
    return [case(n, n, concepts if k % 2 else (), str(splits[k]), k) for k, n in enumerate(names)]


def chexpert_path(part: str, patient: int, study: int = 1) -> str:
    return f"CheXpert-v1.0-small/{part}/patient{patient}/study{study}/view1_frontal.jpg"


FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")

CASES: dict[str, list[Case]] = {
    "chestxray14": [
        case("00090001_000.png", "90001", ("Mass", "Pleural Effusion"), "test"),
        case("00090001_001.png", "90001", ("Pleural Thickening", "Infiltration"), "test"),
        case("00090002_000.png", "90002", ("Fracture",), "validation"),  # not of this set's labels
        case("00090003_000.png", "90003", ("Pneumonia", "Hernia"), "validation"),
    ],
    "chexpert": [
        *(
            case(chexpert_path("train", 70001 + k), f"patient{70001 + k}", (c,), "test")
            for k, c in enumerate(FIVE)
        ),
        case(chexpert_path("train", 70010), "patient70010", ("Edema",), "validation"),
        case(chexpert_path("train", 70010, 2), "patient70010", ("Mass",), "validation"),
        case(chexpert_path("train", 70011), "patient70011", ("Support Devices",), "validation"),
        case(chexpert_path("valid", 70020), "patient70020", ("Edema", "Fracture"), "test"),
        case(chexpert_path("valid", 70021), "patient70021", (), "test"),
    ],
    "covidx": [
        case("sim-1.png", "sim-1", ("COVID-19",), "test"),
        case("sim-2.png", "sim-2", ("Pneumonia", "Support Devices"), "test"),
        case("sim-3.png", "sim-3", (), "test"),
        case("sim-4.png", "sim-4", ("Support Devices",), "validation"),
    ],
    "rsna": hashed("rsna-", ("Pneumonia",), 40),
    "siim": hashed("1.2.826.0.1.3680043.8.498.", ("Pneumothorax",), 30),
    "covid-rural": hashed("SIM-COVID-", ("COVID-19",), 20),
}

MIMIC_CASES = [
    case("d0", "p10000001", ("Edema",), "train"),
    case("d1", "p10000001", ("Edema",), "train"),
    case("d2", "p10000002", (), "validation"),
    case("d3", "p10000003", ("Fracture",), "test"),
]
MIMIC_STUDIES = {"d0": "s50000001", "d1": "s50000001", "d2": "s50000002", "d3": "s50000003"}


def write(name: str, data_root: Path, cases: dict[str, list[Case]] = CASES) -> Path:
    """Write one data set's cases; return its folder."""
    if name == "mimic-cxr":
        return write_mimic(data_root)
    root = data_root / name
    films = [write_film(name, root, each, film(each)) for each in cases[name]]
    write_tables(name, root, films[::-1])  # their order must not matter
    return root


def write_mimic(data_root: Path) -> Path:
    """Write the MIMIC-CXR films with minimal tables."""
    root = data_root / "mimic-cxr"
    for each in MIMIC_CASES:
        folder = root / "files/p10" / each.patient_id / MIMIC_STUDIES[each.image_id]
        write_image(folder / f"{each.image_id}.jpg", film(each).pixels)
    _write(
        root,
        "split",
        "dicom_id,study_id,subject_id,split\n"
        "d0,50000001,10000001,train\nd1,50000001,10000001,train\n"
        "d2,50000002,10000002,validate\nd3,50000003,10000003,test\n",
    )
    _write(root, "metadata", "dicom_id,ViewPosition\nd0,PA\nd1,LATERAL\nd2,AP\nd3,PA\n")
    names = "Edema,Fracture,Pneumonia"
    others = [c for c in CHEXPERT_CONCEPTS if c not in names.split(",")]
    blanks = "," * len(others)
    _write(
        root,
        "chexpert",
        f"subject_id,study_id,{names},{','.join(others)}\n"
        f"10000001,50000001,1.0,0.0,-1.0{blanks}\n"
        f"10000002,50000002,,,{blanks}\n10000003,50000003,,1.0,{blanks}\n",
    )
    return root


def _write(root: Path, name: str, text: str) -> None:
    packed = gzip.compress(text.encode(), mtime=0)
    (root / f"mimic-cxr-2.0.0-{name}.csv.gz").write_bytes(packed)


def edit(file: Path, old: str, new: str) -> None:
    """Replace the first occurrence of `old` in a text file, gzipped or not."""
    packed = file.suffix == ".gz"
    raw = file.read_bytes()
    text = (gzip.decompress(raw) if packed else raw).decode()
    assert old in text
    raw = text.replace(old, new, 1).encode()
    file.write_bytes(gzip.compress(raw) if packed else raw)


def refused(name: str, data_root: Path, split: str, message: str, **options: object) -> None:
    """Opening fails with an `InputError` that matches `message` and ends with a cure."""
    with pytest.raises(InputError, match=message) as error:
        open_dataset(name, data_root, split, **options)
    assert str(error.value).endswith(".") and error.value.cure
