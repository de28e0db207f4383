"""The manifest of the embedded world: what it holds, made from what, provable by hashes."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rctpl_utils.datasets.openi import OpenIReport
from rctpl_utils.files import sha256_file, write_text
from rctpl_utils.profiles import WorldSize
from rctpl_utils.simulation.cases import SPLITS, Case, Lesion
from rctpl_utils.simulation.ct import SOURCES
from rctpl_utils.simulation.evaluation_cases import (
    QUOTA,
    QUOTA_SHARE,
    RSNA_PNEUMONIA,
    SIIM_PNEUMOTHORAX,
)
from rctpl_utils.simulation.layouts import case_labels
from rctpl_utils.simulation.training_cases import Study, why_left_out

IMAGE_SUFFIXES = {".jpg", ".png", ".dcm"}
STATEMENTS = {
    "radiographs": (
        "All radiographs are simulated from one CT; they show no patient and are unfit for any "
        "clinical use."
    ),
    "reports": (
        "Reports are real (Open-I) unless the metadata table marks them as templated; templated "
        "ones fill up concepts that few training reports hold, and are in no test split."
    ),
    "labels": (
        "Label combinations come from the real tables; rare concepts are oversampled to at least "
        f"{QUOTA} images (in small sets {QUOTA_SHARE:.1%} of them), as are the positives of RSNA "
        f"({RSNA_PNEUMONIA:.0%}), SIIM-ACR ({SIIM_PNEUMOTHORAX:.0%}) and COVIDx (a third each of "
        "normal, pneumonia and COVID-19), so the prevalence is not that of the real sets."
    ),
    "identifiers": "Identifiers lie outside the real data sets' ranges and name nobody.",
}
DRAWN_TABLE = "drawn.csv"


def summarize(folder: Path, cases: Sequence[Case], extra: Mapping[str, Any]) -> dict[str, Any]:
    """One finished data set: counts a split and a concept, hashes of tables and images, `extra`."""
    parts = {split: [case for case in cases if case.split == split] for split in SPLITS}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    images = [path for path in files if path.suffix in IMAGE_SUFFIXES]
    tables = [path for path in files if path.parent == folder or path.suffix == ".csv"]
    return {
        "counts": {split: _counts(films) for split, films in parts.items() if films},
        "images_sha256": _hash_files(folder, images),
        "files_sha256": _hash_files(folder, files),
        "tables_sha256": {
            path.relative_to(folder).as_posix(): sha256_file(path) for path in tables
        },
        **extra,
    }


def report_counts(studies: Iterable[Study], reports: Iterable[OpenIReport]) -> dict[str, Any]:
    """Reports a split, real and templated; what the templated ones fill up; those left out."""
    studies = list(studies)
    made = [study for study in studies if study.templated]
    split = Counter((study.split, study.templated) for study in studies)
    filled = Counter(concept for study in made for concept in study.concepts)
    left_out = Counter(reason for report in reports if (reason := why_left_out(report)))
    return {
        "reports": {
            name: {"real": split[name, False], "templated": split[name, True]} for name in SPLITS
        },
        "templated_reports_by_concept": dict(sorted(filled.items())),
        "reports_left_out": dict(sorted(left_out.items())),
    }


def write_drawn(folder: Path, cases: Iterable[Case]) -> None:
    """Write `drawn.csv`: each lesion that was asked for. Simulation truth, not part of a layout.

    `x`, `y`: its real box's center relative to the film, empty without one.
    """
    rows = [
        [c.image_id, c.split, x.concept, x.side, x.zone, round(x.severity, 4), *_center(x)]
        for c in cases
        for x in c.lesions
    ]
    columns = ["image", "split", "concept", "side", "zone", "severity", "x", "y"]
    table = pd.DataFrame(rows, columns=columns)
    write_text(folder / DRAWN_TABLE, table.to_csv(index=False, lineterminator="\n"))


def world_manifest(
    profile: str, size: WorldSize, datasets: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The whole world's manifest."""
    return {
        "profile": profile,
        "seed": size.seed,
        "size": size,
        "statements": STATEMENTS,
        "sources": SOURCES,
        "datasets": dict(datasets),
    }


def _counts(cases: Sequence[Case]) -> dict[str, Any]:
    concepts = Counter(concept for case in cases for concept in case_labels(case))
    return {
        "images": len(cases),
        "patients": len({case.patient_id for case in cases}),
        "without_finding": sum(not case.lesions for case in cases),
        "concepts": dict(sorted(concepts.items())),
    }


def _center(lesion: Lesion) -> tuple[float | str, float | str]:
    if lesion.box is None:
        return "", ""
    x, y, width, height = lesion.box
    return round(x + width / 2, 3), round(y + height / 2, 3)


def _hash_files(folder: Path, files: Iterable[Path]) -> str:
    """One hash of names and bytes."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()
