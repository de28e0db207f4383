"""What a written data set holds: its drawn lesions, a row each; counts and hashes."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rctpl_utils.files import sha256_file, write_text
from rctpl_utils.simulation.cases import SPLITS, Case, openi_reports, why_left_out
from rctpl_utils.simulation.films import Study
from rctpl_utils.vocabulary import with_parents

DRAWN_TABLE = "drawn.csv"


def write_drawn(folder: Path, cases: Iterable[Case]) -> None:
    """Write `drawn.csv`, no part of a layout: each lesion asked for, its real box's center."""
    rows = []
    for case in cases:
        for lesion in case.lesions:
            x, y, width, height = lesion.box or [None] * 4
            center = (round(x + width / 2, 3), round(y + height / 2, 3)) if lesion.box else ("", "")
            place = (lesion.concept, lesion.side, lesion.zone, round(lesion.severity, 4))
            rows.append((case.image_id, case.split, *place, *center))
    columns = ["image", "split", "concept", "side", "zone", "severity", "x", "y"]
    table = pd.DataFrame(rows, columns=columns)
    write_text(folder / DRAWN_TABLE, table.to_csv(index=False, lineterminator="\n"))


def summary(folder: Path, cases: Sequence[Case]) -> dict[str, Any]:
    """One data set in the manifest: counts a split and a concept, hashes of tables and images."""
    counts = {}
    for split in SPLITS:
        if films := [case for case in cases if case.split == split]:
            concepts = Counter(name for case in films for name in with_parents(case.concepts))
            counts[split] = {
                "images": len(films),
                "patients": len({case.patient_id for case in films}),
                "without_finding": sum(not case.lesions for case in films),
                "concepts": dict(sorted(concepts.items())),
            }
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths}
    images = (".jpg", ".png", ".dcm")
    return {
        "counts": counts,
        "images_sha256": _hash_files({k: v for k, v in sums.items() if k.endswith(images)}),
        "files_sha256": _hash_files(sums),
        "tables_sha256": {k: v for k, v in sums.items() if "/" not in k or k.endswith(".csv")},
    }


def _hash_files(sums: Mapping[str, str]) -> str:
    """One hash of names and bytes."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sums.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def report_counts(studies: Iterable[Study]) -> dict[str, Any]:
    """Reports a split, real and templated; what the templated ones fill up; those left out."""
    studies = list(studies)
    split = Counter((study.split, study.templated) for study in studies)
    filled = Counter(concept for s in studies if s.templated for concept in s.concepts)
    left_out = Counter(reason for report in openi_reports() if (reason := why_left_out(report)))
    return {
        "reports": {
            name: {"real": split[name, False], "templated": split[name, True]} for name in SPLITS
        },
        "templated_reports_by_concept": dict(sorted(filled.items())),
        "reports_left_out": dict(sorted(left_out.items())),
    }
