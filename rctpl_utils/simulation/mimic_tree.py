"""The training studies as MIMIC-CXR's tree: text files, films, and its three tables.

Layout: Johnson et al., MIMIC-CXR and MIMIC-CXR-JPG (PhysioNet, 2019). Two columns of the metadata
table are ours: `source` (the Open-I report) and `templated` (1: we wrote the text).
"""

import gzip
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from rctpl_utils.files import atomic_path, write_text
from rctpl_utils.simulation.cases import Case
from rctpl_utils.simulation.layouts import MimicImages
from rctpl_utils.simulation.layouts_labels import Row
from rctpl_utils.simulation.mimic_cases import Study, study_id_of
from rctpl_utils.simulation.radiograph import Radiograph
from rctpl_utils.vocabulary import CHEXPERT_CONCEPTS

SPLIT_NAMES = {"train": "train", "validation": "validate", "test": "test"}
LABELS = tuple(sorted((*CHEXPERT_CONCEPTS, "No Finding")))  # MIMIC-CXR's order
_TABLE = "mimic-cxr-2.0.0-{}.csv.gz"


def write_film(root: Path, case: Case, radiograph: Radiograph) -> Row:
    """Write one film; the patient's number gives the study, since each has one."""
    return MimicImages({case.image_id: study_id_of(case.patient_id)})(root, case, radiograph)


def write_reports(root: Path, studies: Iterable[Study]) -> None:
    """Write `files/pNN/<patient>/<study>.txt` of each study."""
    for study in studies:
        folder = root / "files" / study.patient_id[:3] / study.patient_id
        write_text(folder / f"{study.study_id}.txt", report_text(study))


def report_text(study: Study) -> str:
    """The report under MIMIC's headings; the sections' words are unchanged, only wrapped."""
    sections = {
        "EXAMINATION": "Chest radiograph.",
        "INDICATION": study.indication,
        "COMPARISON": study.comparison,
        "FINDINGS": study.findings,
        "IMPRESSION": study.impression,
    }
    blocks = [f"{'FINAL REPORT':>40}"]
    for heading, text in sections.items():
        if text:
            blocks.append(_wrapped(f"{heading}:  {text}"))
    return "\n".join(f"{block}\n" for block in blocks)


def write_tables(root: Path, films: Sequence[tuple[Study, Case]], size: int) -> None:
    """Write `mimic-cxr-2.0.0-metadata`, `-split` and `-chexpert` (`.csv.gz`).

    Args:
        root: the data set's folder.
        films: the films with their studies.
        size: side of a film in pixels.
    """
    rows = [
        {
            "dicom_id": case.image_id,
            "subject_id": study.patient_id[1:],
            "study_id": study.study_id[1:],
            "ViewPosition": "PA",
            "Rows": size,
            "Columns": size,
            "split": SPLIT_NAMES[study.split],
            "source": study.source,
            "templated": int(study.templated),
        }
        for study, case in films
    ]
    table = pd.DataFrame(rows)
    _write(root, "metadata", table.drop(columns="split"))
    _write(root, "split", table[["dicom_id", "study_id", "subject_id", "split"]])
    studies = {study.study_id: study for study, _ in films}.values()
    _write(root, "chexpert", pd.DataFrame([_label_row(study) for study in studies]))


def _label_row(study: Study) -> Mapping[str, float | str | None]:
    """1 for what the codes say is present, with parents; blank for what they do not mention."""
    present = study.concepts
    labels = {label: 1.0 if label in present else None for label in LABELS}
    labels["No Finding"] = None if present - {"Support Devices"} else 1.0
    return {"subject_id": study.patient_id[1:], "study_id": study.study_id[1:], **labels}


def _wrapped(text: str) -> str:
    return textwrap.fill(
        text, 78, initial_indent=" ", subsequent_indent=" ", break_on_hyphens=False
    )


def _write(root: Path, name: str, table: pd.DataFrame) -> None:
    """Gzip without a time stamp or a file's name, so that the same table gives the same bytes."""
    text = table.to_csv(index=False, lineterminator="\n")
    with (
        atomic_path(root / _TABLE.format(name)) as temporary,
        temporary.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
    ):
        packed.write(text.encode())
