"""The official on-disk layouts of the data sets, filled with simulated radiographs.

`root` is the data set's folder; the same pixels give the same bytes. The names are the data sets'
own, not imported from the readers in `datasets/`: so an edit of a reader redraws nothing.
"""

import gzip
import hashlib
import textwrap
import uuid
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from rctpl_utils.datasets.masks import encode_runs, mask_boxes, mask_polygons
from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path, write_json, write_text
from rctpl_utils.simulation.cases import Case
from rctpl_utils.simulation.films import Study
from rctpl_utils.simulation.radiograph import Radiograph
from rctpl_utils.vocabulary import CHESTXRAY14_CONCEPTS, CHEXPERT_CONCEPTS, with_parents

# Pillow's options; zlib's default level is fixed here so that a new Pillow cannot change it
_OPTIONS = {".png": {"compress_level": 6}, ".jpg": {"quality": 95, "optimize": False}}
COMMENT = "SIMULATED RADIOGRAPH, NOT OF A PATIENT"
_IMPLEMENTATION = "RCTPL_UTILS"
_ATTRIBUTES = {  # of every DICOM film; those of type 2 that nobody knows are present, but empty
    "Modality": "CR", "ConversionType": "WSD", "BodyPartExamined": "CHEST", "SeriesNumber": "1",
    "InstanceNumber": "1", "ImageComments": COMMENT, "SamplesPerPixel": 1, "BitsAllocated": 8,
    "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "LossyImageCompression": "00",
    "StudyDate": None, "StudyTime": None, "AccessionNumber": None, "ReferringPhysicianName": None,
    "PatientBirthDate": None, "PatientSex": None, "StudyID": None, "PatientOrientation": None,
}  # fmt: skip


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Round float (H, W) in [0, 1] to uint8; `ValueError` for others: the renderer is at fault."""
    if pixels.ndim != 2 or not (pixels.min() >= 0 and pixels.max() <= 1):  # false for NaN too
        raise ValueError("pixels must be (H, W) in [0, 1]")
    return np.round(pixels * 255).astype(np.uint8)


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write float (H, W) in [0, 1] as 8-bit gray PNG or JPEG, a bool mask with values 0 and 1."""
    stored = pixels.astype(np.uint8) if pixels.dtype == bool else to_bytes(pixels)
    with atomic_path(path) as temporary:
        Image.fromarray(stored).save(temporary, **_OPTIONS[path.suffix])


def write_dicom(
    path: Path, pixels: np.ndarray, uids: tuple[str, str, str], patient_id: str, *, inverted: bool
) -> None:
    """Write float (H, W) in [0, 1] as an 8-bit, uncompressed Part 10 file (explicit VR, LE).

    `uids` are those of image, study and series; `inverted` is MONOCHROME1 (0 = white), as some
    real films are. No date, time, age or sex: none is known. `ImageComments` says that the film
    is simulated.
    """
    stored = to_bytes(pixels)
    stored = 255 - stored if inverted else stored
    dicom, meta = Dataset(), FileMetaDataset()
    meta.MediaStorageSOPClassUID = dicom.SOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = uids[0]
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid_of(_IMPLEMENTATION)
    meta.ImplementationVersionName = _IMPLEMENTATION  # pydicom would write its version number
    dicom.file_meta = meta
    dicom.SOPInstanceUID, dicom.StudyInstanceUID, dicom.SeriesInstanceUID = uids
    dicom.PatientID = dicom.PatientName = patient_id
    for name, value in _ATTRIBUTES.items():
        setattr(dicom, name, value)
    dicom.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dicom.Rows, dicom.Columns = stored.shape
    data = stored.tobytes()
    dicom.add_new("PixelData", "OB", data + b"\0" * (len(data) % 2))
    with atomic_path(path) as temporary:
        pydicom.dcmwrite(temporary, dicom, enforce_file_format=True)


def uid_of(name: str) -> str:
    """A DICOM unique identifier made from a name: 2.25 and a name-based UUID (PS3.5, B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'rctpl-companion/{name}').int}"


def inverted_film(name: str) -> bool:
    """Whether this film is stored as MONOCHROME1: one in ten, by a hash of its name."""
    return hashlib.sha256(name.encode()).digest()[0] < 26


_PATHS = {  # of a film; CheXpert's is its name
    "mimic-cxr": "files/{patient:.3}/{patient}/s{number}/{image}.jpg",  # each patient has one study
    "chestxray14": "images_001/images/{image}",
    "chexpert": "{image}",
    "covidx": "{part}/{image}",
    "rsna": "stage_2_train_images/{image}.dcm",
    "siim": "dicom-images-train/{image}.1/{image}.2/{image}.dcm",
    "covid-rural": "jpgs/{image}.jpg",
}
SPECK = 0.04  # components below this share of a lesion's area get no box of their own
FRAME = 1024  # pixels: the size of ChestX-ray14's official images, which its boxes refer to
# ChestX-ray14's own spelling of labels and, of the eight findings that have them, of boxes
_LABEL_NAMES = {"Pleural Effusion": "Effusion", "Pleural Thickening": "Pleural_Thickening"}
_BOX_NAMES = {
    "Atelectasis": "Atelectasis", "Cardiomegaly": "Cardiomegaly", "Pleural Effusion": "Effusion",
    "Infiltration": "Infiltrate", "Mass": "Mass", "Nodule": "Nodule", "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
}  # fmt: skip
_BOXED = {"chestxray14": tuple(_BOX_NAMES), "rsna": ("Pneumonia",)}
# What a film that is labeled with it must show, since its outline, mask or box is part of the set
_OUTLINED = {"rsna": "Pneumonia", "siim": "Pneumothorax", "covid-rural": "COVID-19"}


class Film(NamedTuple):
    """What the tables need to know of a written film."""

    image: str
    patient: str
    part: str  # "test", or "train" for every other split
    labels: frozenset[str]  # what is drawn, and what that implies
    size: tuple[int, int]  # width, height
    boxes: list[tuple[str, tuple[int, int, int, int]]]  # concept; x, y, width, height
    runs: str | None  # of the set's outlined concept


def write_film(name: str, root: Path, case: Case, radiograph: Radiograph) -> Film:
    """Write a film of the data set `name`, and what lies beside it."""
    image, patient, pixels = case.image_id, case.patient_id, radiograph.pixels
    part = "test" if case.split == "test" else "train"
    names = {"image": image, "part": part, "patient": patient, "number": patient[1:]}
    path = root / _PATHS[name].format(**names)
    if path.suffix == ".dcm":
        own = (image, f"{image}.1", f"{image}.2")  # SIIM-ACR's `image_id` is a UID
        made = tuple(map(uid_of, (image, f"study {image}", f"series {image}")))
        uids = own if name == "siim" else made
        write_dicom(path, pixels, uids, patient, inverted=inverted_film(image))
    else:
        write_image(path, pixels)
    labels, concept = with_parents(case.concepts), _OUTLINED.get(name)
    mask = radiograph.masks.get(concept) if concept in labels else np.zeros(pixels.shape, bool)
    if concept in labels and (mask is None or not mask.any()):
        problem = f"{concept} is labeled, but nothing is drawn"
        raise InputError(problem, "Draw it, or take it out of the case.", row=image)
    if name == "covid-rural":
        _write_outline(root, image, mask)
    boxes = [
        (c, box) for c in _BOXED.get(name, ()) for box in lesion_boxes(radiograph.masks.get(c))
    ]
    runs = encode_runs(mask) if name == "siim" else None
    return Film(image, patient, part, labels, pixels.shape[::-1], boxes, runs)


def lesion_boxes(mask: np.ndarray | None) -> list[tuple[int, int, int, int]]:
    """One box a component of a lesion's mask, specks left out; none without a mask."""
    if mask is None:
        return []
    return mask_boxes(mask, smallest=max(1, round(SPECK * int(mask.sum()))))


def _write_outline(root: Path, image: str, mask: np.ndarray) -> None:
    """Write the outlines of COVID Rural and, where an opacity is drawn, its mask."""
    kind = {"group_id": None, "shape_type": "polygon", "flags": {}}
    outline = {
        "version": "4.5.6",  # of labelme, as in the real annotations
        "flags": {},
        "shapes": [{"label": "opacity", "points": p.tolist(), **kind} for p in mask_polygons(mask)],
        "imagePath": f"{image}.jpg",
        "imageData": None,
        "imageHeight": mask.shape[0],
        "imageWidth": mask.shape[1],
    }
    write_json(root / "jpgs" / "jsons" / f"{image}.json", outline)
    if mask.any():
        write_image(root / "pngs_masks" / f"{image}.png", mask)


def write_tables(name: str, root: Path, films: Iterable[Film]) -> None:
    """Write a data set's tables; two films of one name would have replaced each other."""
    films = sorted(films, key=lambda film: film.image)
    for film, following in pairwise(films):
        if film.image == following.image:
            problem = "two images of the same name"
            raise InputError(problem, "Name them apart.", file=root, row=film.image)
    if name in TABLES:
        TABLES[name](root, films)


def _chestxray14(root: Path, films: list[Film]) -> None:
    """The entry table, the box table and the two image lists; age and sex are unknown."""
    follow_up: dict[str, int] = {}
    entries, boxes = [], []
    for film in films:
        labels = sorted(_LABEL_NAMES.get(c, c) for c in film.labels & set(CHESTXRAY14_CONCEPTS))
        visit = follow_up[film.patient] = follow_up.get(film.patient, -1) + 1
        found = "|".join(labels) or "No Finding"
        entries.append((film.image, found, visit, film.patient, "", "", "PA", *film.size, "", ""))
        scale = np.array([FRAME / side for side in film.size] * 2)
        for concept, box in film.boxes:
            scaled = np.multiply(box, scale).tolist()
            boxes.append((film.image, _BOX_NAMES[concept], *scaled, "", "", ""))
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    _write_lines(root / "Data_Entry_2017_v2020.csv", header, entries)
    _write_lines(root / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,", boxes)
    for name, part in (("test_list.txt", "test"), ("train_val_list.txt", "train")):
        names = [film.image for film in films if film.part == part]
        write_text(root / name, "".join(f"{name}\n" for name in names))


def _chexpert(root: Path, films: list[Film]) -> None:
    """`train.csv` (not mentioned = blank) and `valid.csv` (absent = 0), in the images' folder."""
    columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", *CHEXPERT_CONCEPTS]
    parts: dict[tuple[str, ...], list] = {}
    for film in films:
        home, part, *_ = film.image.split("/")
        clear = not film.labels - {"Support Devices"}  # as CheXpert's labeler has it
        values = [clear, *(concept in film.labels for concept in CHEXPERT_CONCEPTS)]
        absent = "" if part == "train" else "0.0"
        labels = ["1.0" if value else absent for value in values]
        line = (film.image, "", "", "Frontal", "PA", *labels)
        parts.setdefault((home, f"{part}.csv"), []).append(line)
    for place, lines in parts.items():
        _write_lines(root.joinpath(*place), ",".join(columns), lines)


def _covidx(root: Path, films: list[Film]) -> None:
    """`train.txt` and `test.txt`, the three-class lists."""
    lists = {"train": "", "test": ""}
    for film in films:
        label = "pneumonia" if "Pneumonia" in film.labels else "normal"
        label = "COVID-19" if "COVID-19" in film.labels else label
        lists[film.part] += f"{film.patient} {film.image} {label} simulated\n"
    for part, text in lists.items():
        write_text(root / f"{part}.txt", text)


def _rsna(root: Path, films: list[Film]) -> None:
    """The label table (one row a box) and the class table."""
    labels, classes = [], []
    for film in films:
        name = "No Lung Opacity / Not Normal" if film.labels else "Normal"
        for _, box in film.boxes or [(None, None)]:
            corners = [f"{value}.0" for value in box] if box else [""] * 4
            labels.append((film.image, *corners, int(box is not None)))
            classes.append((film.image, "Lung Opacity" if box else name))
    header = "patientId,x,y,width,height,Target"
    _write_lines(root / "stage_2_train_labels.csv", header, labels)
    _write_lines(root / "stage_2_detailed_class_info.csv", "patientId,class", classes)


def _siim(root: Path, films: list[Film]) -> None:
    """`train-rle.csv`, a space before its second column's name and values as originally."""
    rows = [(film.image, f" {film.runs}") for film in films]
    _write_lines(root / "train-rle.csv", "ImageId, EncodedPixels", rows)


TABLES = {
    "chestxray14": _chestxray14, "chexpert": _chexpert, "covidx": _covidx, "rsna": _rsna,
    "siim": _siim,
}  # fmt: skip


def _write_lines(path: Path, header: str, rows: Iterable[Sequence[Any]]) -> None:
    lines = (header, *(",".join(map(str, row)) for row in rows))
    write_text(path, "".join(f"{line}\n" for line in lines))


_MIMIC_SPLITS = {"train": "train", "validation": "validate", "test": "test"}
_MIMIC_LABELS = tuple(sorted((*CHEXPERT_CONCEPTS, "No Finding")))  # MIMIC-CXR's order


def write_studies(root: Path, films: Sequence[tuple[Study, Case]], size: int) -> None:
    """Write MIMIC-CXR's reports and `mimic-cxr-2.0.0-metadata`, `-split`, `-chexpert` (`.csv.gz`).

    Two columns of the metadata are ours: `source` (the Open-I report), `templated` (1: our text).
    Labels are 1 for what the codes say is present, with parents, blank for the rest.
    """
    rows = [
        {
            "dicom_id": case.image_id,
            "subject_id": study.patient_id[1:],
            "study_id": study.study_id[1:],
            "ViewPosition": "PA",
            "Rows": size,
            "Columns": size,
            "split": _MIMIC_SPLITS[study.split],
            "source": study.report.uid,
            "templated": int(study.templated),
        }
        for study, case in films
    ]
    labels = []
    for study in {study.study_id: study for study, _ in films}.values():
        folder = root / "files" / study.patient_id[:3] / study.patient_id
        write_text(folder / f"{study.study_id}.txt", _report_text(study))
        own = {label: 1.0 if label in study.concepts else None for label in _MIMIC_LABELS}
        own["No Finding"] = None if study.concepts - {"Support Devices"} else 1.0
        numbers = {"subject_id": study.patient_id[1:], "study_id": study.study_id[1:]}
        labels.append(numbers | own)
    table = pd.DataFrame(rows)
    tables = {
        "metadata": table.drop(columns="split"),
        "split": table[["dicom_id", "study_id", "subject_id", "split"]],
        "chexpert": pd.DataFrame(labels),
    }
    for name, table in tables.items():
        text = table.to_csv(index=False, lineterminator="\n")
        # gzip with no time stamp and no file's name: the same table, the same bytes
        with (
            atomic_path(root / f"mimic-cxr-2.0.0-{name}.csv.gz") as temporary,
            temporary.open("wb") as file,
            gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
        ):
            packed.write(text.encode())


def _report_text(study: Study) -> str:
    """The report under MIMIC's headings; the sections' words are unchanged, only wrapped."""
    report, sections = study.report, {"EXAMINATION": "Chest radiograph."}
    for name in ("indication", "comparison", "findings", "impression"):
        sections[name.upper()] = getattr(report, name)
    wrap = textwrap.TextWrapper(
        78, initial_indent=" ", subsequent_indent=" ", break_on_hyphens=False
    )
    blocks = [wrap.fill(f"{heading}:  {text}") for heading, text in sections.items() if text]
    return "\n".join(f"{block}\n" for block in (f"{'FINAL REPORT':>40}", *blocks))
