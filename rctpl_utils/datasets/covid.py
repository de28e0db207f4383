"""Two data sets with COVID-19; `docs/data/` has their layouts, torchxrayvision no class for either.

COVIDx CXR-3 (Pavlova et al. 2022): is it COVID-19, and if not, is it another pneumonia? A line of
its lists is patient, file, label, source. Those of two classes ("3B") say positive or negative,
those of three ("3A") normal, pneumonia (of another cause: 0.0 for COVID-19) or COVID-19.

COVID Rural (Desai et al. 2020, TCIA COVID-19-AR): all patients had COVID-19, and a film without an
outlined opacity gets NaN, for it is not known whether it shows the disease. Masks (0/1) go before
outlines (labelme, in a frame that the file states; the lungs are outlined too). 20 % of the
patients, the file names up to "_", are validation (by a hash), the rest test.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rctpl_utils.datasets.base import ChestXrayDataset, TableMasks
from rctpl_utils.datasets.images import read_mask
from rctpl_utils.datasets.masks import polygon_mask, resize_mask
from rctpl_utils.datasets.tables import (
    IMAGES,
    CheckedTable,
    Screen,
    find_files,
    hash_split,
    locate,
    read_lines,
)
from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.given_files import child, existing

LISTS = {"validation": ("train", "test"), "test": ("test", "train")}  # own, and the other one
POSITIVE = {"positive", "COVID-19"}
FINDINGS = ("normal", "pneumonia", "COVID-19")
LABELS = {*POSITIVE, "negative", *FINDINGS}
RURAL_FOLDERS = (".", "covid_rural_annot")
FILMS, OUTLINES, MASKS = "jpgs", "jpgs/jsons", "pngs_masks"


def open_covidx(root: Path, split: str, **options: bool) -> ChestXrayDataset:
    """Open "test" (`test.txt`) or "validation" (`train.txt`)."""
    screen, (part, opposite) = Screen(**options), LISTS[split]
    file, other = child(root, f"{part}.txt"), child(root, f"{opposite}.txt")
    files = find_files([child(root, part)], IMAGES, screen)
    records = _read_list(file, files, screen)
    if other.is_file():
        apart = Screen(screen.skip_bad)
        there = find_files([child(root, opposite)], IMAGES, apart)
        patients = _read_list(other, there, apart)["patient_id"]
        records = screen.apart(records, patients, (file.name, other.name), file, split)
    label, concepts = records.pop("label"), ("COVID-19",)
    records["COVID-19"] = label.isin(POSITIVE).astype(float)
    if label.isin(FINDINGS).all():
        records["Pneumonia"] = label.eq("pneumonia").astype(float)
        concepts = ("COVID-19", "Pneumonia")
    records = screen.present(locate(records, files), root)
    return ChestXrayDataset("covidx", split, concepts, records, screen=screen)


def _fields(line: str, files: Mapping[str, str]) -> tuple[str, str, str, str]:
    """Patient, file, label and source of a line; an empty patient where these are not there.

    Label and source hold no space. A file's name does where one file of that name is there, and one
    only; where none is, the spaces are the patient's.
    """
    head, label, source = ["", "", "", *line.rsplit(maxsplit=2)][-3:]
    places = [match.span() for match in re.finditer(r"\s+", head)]
    cuts = [(head[:start], head[end:]) for start, end in places]
    named = {name: cut for cut in cuts if (name := re.sub(r"^.*[/\\]", "", cut[1])) in files}
    found = list(named.values()) or cuts[-1:]  # the last cut of a name has the shortest folder
    patient, file = found[0] if len(found) == 1 else ("", head)
    return patient, file, label, source


def _read_list(file: Path, files: Mapping[str, str], screen: Screen) -> pd.DataFrame:
    """The list as image_id, patient_id and label; the index counts its lines from 0."""
    fields = [_fields(line.strip(' \t\r"'), files) for line in read_lines(file)]
    rows = pd.DataFrame(fields, columns=["patient", "file", "label", "source"], dtype="str")
    table = CheckedTable(rows, file, screen, cure="Use the official list.")
    table.refuse(table["patient"] == "", "not `patient file label source`")
    problem = f"the label is none of {', '.join(sorted(LABELS))}"
    table.refuse(~table["label"].isin(LABELS), problem)
    table.films("file")
    # sources number their patients independently: "3" of one is not "3" of another
    patients = table["source"] + ":" + table["patient"]
    return pd.DataFrame(
        {"image_id": table["file"], "patient_id": patients, "label": table["label"]}
    )


def open_covid_rural(root: Path, split: str, **options: bool) -> ChestXrayDataset:
    """Open "validation" (20 % of the patients) or "test" (80 %).

    `root` is the data set's folder, or the clone of the annotations' repository.
    """
    screen, home = Screen(**options), find_rural(root)
    films = {Path(name).stem: path for name, path in find_files([home / FILMS], IMAGES).items()}
    kinds = find_files([home / OUTLINES], (".json",)), find_files([home / MASKS], (".png",))
    annotated = {Path(name).stem for names in kinds for name in names}
    names = [*films, *sorted(annotated - films.keys())]
    records = pd.DataFrame({"image_id": names}, dtype="str")
    records["patient_id"] = [name.split("_")[0] for name in names]
    records["path"] = records["image_id"].map(films)
    records = records[hash_split(records["patient_id"]) == split]
    known = records["image_id"].isin(annotated)
    records = screen.present(records[known].reset_index(drop=True), home)
    drawn = [screen.attempt(is_outlined, home, image) for image in records["image_id"]]
    sound = np.array([each is not None for each in drawn], dtype=bool)
    records, opaque = records[sound], np.array(drawn, dtype=bool)[sound]
    records["COVID-19"] = np.where(opaque, 1.0, np.nan)
    images = records["image_id"][opaque]
    return ChestXrayDataset(
        "covid-rural",
        split,
        ("COVID-19",),
        records,
        masks={"COVID-19": TableMasks(home, images, images, partial(outline_mask, home))},
        left_out={"film without annotation": int((~known).sum())},
        screen=screen,
    )


def find_rural(root: Path) -> Path:
    """The folder that holds `jpgs/` with its films."""
    for name in RURAL_FOLDERS:
        if find_files([root / name / FILMS], IMAGES):
            return root / name
    raise InputError("no images", "Put the data set's jpgs/ there.", file=root / FILMS)


def is_outlined(home: Path, image: str) -> bool:
    """Whether an opacity is outlined in a film, by its mask image or else by its outlines."""
    mask = existing(str(home / MASKS / f"{image}.png"))
    return bool(read_mask(mask).any() if mask else _outlines(home, image)[0])


def outline_mask(home: Path, image: str, size: tuple[int, int], **_place: Any) -> np.ndarray:
    """The opacities of a film, from the same source: bool, `size` = (H, W)."""
    if file := existing(str(home / MASKS / f"{image}.png")):
        return resize_mask(read_mask(file), size)  # the masks may be larger than the JPEGs
    polygons, (height, width) = _outlines(home, image)
    mask = np.zeros(size, dtype=bool)
    for polygon in polygons:
        mask |= polygon_mask(polygon * [size[1] / width, size[0] / height], size)
    return mask


def _outlines(home: Path, image: str) -> tuple[list[np.ndarray], tuple[float, float]]:
    """The opacities' polygons and the height and width they refer to."""
    file = home / OUTLINES / f"{image}.json"
    file = Path(existing(str(file)) or file)
    if not file.is_file():
        raise InputError("neither mask nor outline of a film", "Complete it.", file=file)
    try:
        content = read_json(file)
        frame = (float(content["imageHeight"]), float(content["imageWidth"]))
        shapes = [(str(s["label"]), np.array(s["points"], float)) for s in content["shapes"]]
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        problem = f"not a labelme file ({error!r})"
        raise InputError(problem, "Download it.", file=file) from error
    polygons = [points for label, points in shapes if "lung" not in label.lower()]
    slack = 1.0  # pixel: labelme lets an outline touch the border
    for polygon in polygons:
        if polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < 3:
            raise InputError("an outline of fewer than three points", "Correct it.", file=file)
        inside = (polygon >= -slack) & (polygon <= np.add(frame[::-1], slack))
        if not inside.all():  # false for NaN too
            raise InputError("an outline that leaves the image", "Correct it.", file=file)
    return polygons, frame
