"""MIMIC-CXR-JPG (Johnson et al. 2019): frontal images, CheXpert labels, official split.

Labels as in `chexpert`: uncertain is NaN, not mentioned 0.0. torchxrayvision's `MIMIC_Dataset` is
not used: it makes both NaN, keeps PA views and one image a patient by default, and knows no split.

Layout: `files/pNN/pNNNNNNNN/sNNNNNNNN/<dicom_id>.jpg`, `mimic-cxr-2.0.0-split.csv.gz`,
`-metadata.csv.gz`, `-chexpert.csv.gz`; `reports.read_mimic_reports` reads the texts beside them.
"""

from pathlib import Path

import pandas as pd

from rctpl_utils.datasets.base import Radiographs
from rctpl_utils.datasets.chexpert import chexpert_labels, refuse_odd_labels
from rctpl_utils.datasets.screening import Screen
from rctpl_utils.datasets.tables import read_table
from rctpl_utils.errors import InputError
from rctpl_utils.given_files import child, existing
from rctpl_utils.vocabulary import CHEXPERT_CONCEPTS

PARTS = {"train": "train", "validation": "validate", "test": "test"}
FRONTAL = ("AP", "PA")
_TABLE = "mimic-cxr-2.0.0-{}.csv.gz"
SPLIT_TABLE = _TABLE.format("split")
_IDENTIFIERS = {"subject_id": "str", "study_id": "str", "dicom_id": "str"}


def open_mimic_cxr(root: Path, split: str, **options: bool) -> Radiographs:
    """Open "train", "validation" or "test" of the official split table, frontal views only.

    `records` also has `study` ("sNNNNNNNN", the report's identifier).
    """
    screen = Screen(**options)
    records, left_out = _listed(root, split, screen)
    records["path"] = records["path"].map(existing)
    records = screen.present(records, root)
    concepts = CHEXPERT_CONCEPTS
    return Radiographs("mimic-cxr", split, concepts, records, left_out=left_out, screen=screen)


def list_mimic_cxr(root: Path, split: str, *, skip_bad: bool = False) -> Radiographs:
    """As `open_mimic_cxr`, by the tables alone: no image file is looked for.

    For those who choose among films before there are any, or of which only the chosen are there.
    """
    screen, concepts = Screen(skip_bad), CHEXPERT_CONCEPTS
    records, left_out = _listed(root, split, screen)
    return Radiographs("mimic-cxr", split, concepts, records, left_out=left_out, screen=screen)


def _listed(root: Path, split: str, screen: Screen) -> tuple[pd.DataFrame, dict[str, int]]:
    """The films of a split that the tables name, and what was left out of them."""
    table = _split_table(child(root, SPLIT_TABLE), screen)
    table = table[table["split"] == PARTS[split]]
    views = _views(child(root, _TABLE.format("metadata")), table, screen)
    frontal = views.isin(FRONTAL)
    table = table[frontal]
    records = table[["dicom_id"]].rename(columns={"dicom_id": "image_id"}).reset_index(drop=True)
    records["patient_id"] = "p" + table["subject_id"].to_numpy()
    identifiers = table[["subject_id", "study_id", "dicom_id"]].itertuples(index=False)
    records["path"] = [
        f"{root.as_posix()}/files/p{subject[:2]}/p{subject}/s{study}/{film}.jpg"
        for subject, study, film in identifiers
    ]
    records["study"] = "s" + table["study_id"].to_numpy()
    labels, unlabeled = _labels(child(root, _TABLE.format("chexpert")), table, screen)
    records = pd.concat([records, labels], axis=1)[~unlabeled].reset_index(drop=True)
    left_out = {
        "not a frontal view": int((~frontal).sum()),
        "study without labels": int(unlabeled.sum()),
    }
    return records, left_out


def _split_table(file: Path, screen: Screen) -> pd.DataFrame:
    table = read_table(file, [*_IDENTIFIERS, "split"], dtype=_IDENTIFIERS)
    table = screen.blank(table, list(_IDENTIFIERS), file)
    table = screen.duplicates(table, ["dicom_id"], file)
    for column in _IDENTIFIERS:
        table = screen.outside(table, column, file)
    unknown, cure = ~table["split"].isin(PARTS.values()), "Use the official split."
    table = screen.rows(table, unknown, "a split that is not train, validate or test", cure, file)
    first = table.groupby("subject_id")["split"].transform("first")
    problem = "a patient who is in another part of the split too"
    return screen.rows(table, first != table["split"], problem, cure, file, whole="subject_id")


def _views(file: Path, images: pd.DataFrame, screen: Screen) -> pd.Series:
    table = read_table(file, ["dicom_id", "ViewPosition"], dtype=_IDENTIFIERS)
    table = screen.duplicates(table, ["dicom_id"], file)
    gone = images["dicom_id"][~images["dicom_id"].isin(table["dicom_id"])]
    if len(gone) and not (screen.skip_bad or screen.allow_partial):
        problem = f"{len(gone)} films of the split are not in it, {gone.iloc[0]} among them"
        raise InputError(problem, "Use the official table, in full.", file=file)
    return images["dicom_id"].map(table.set_index("dicom_id")["ViewPosition"])


def _labels(file: Path, images: pd.DataFrame, screen: Screen) -> tuple[pd.DataFrame, pd.Series]:
    """Labels of each image's study, index 0..n-1, and which images have none."""
    table = read_table(file, ["subject_id", "study_id", *CHEXPERT_CONCEPTS], dtype=_IDENTIFIERS)
    table = screen.duplicates(table, ["study_id"], file)
    table = refuse_odd_labels(table, file, screen)
    labels = chexpert_labels(table).set_axis(table["study_id"])
    unlabeled = ~images["study_id"].isin(labels.index).reset_index(drop=True)
    return labels.reindex(images["study_id"]).reset_index(drop=True), unlabeled
