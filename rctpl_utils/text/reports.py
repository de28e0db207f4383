"""Radiology reports in MIMIC-CXR's layout, and which of them are used (paper 3.1.1, 4.1.1)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rctpl_utils.datasets.tables import Screen, Skipped, read_table
from rctpl_utils.errors import InputError
from rctpl_utils.given_files import child
from rctpl_utils.text.sections import parse_sections
from rctpl_utils.workspace import Workspace

MIMIC = "mimic-cxr"  # its folder below the data root
SPLIT_TABLE = "mimic-cxr-2.0.0-split.csv.gz"
METADATA_TABLE = "mimic-cxr-2.0.0-metadata.csv.gz"
MINIMUM_CONCEPTS = 2  # paper 4.1.1: reports with fewer than two concepts are left out
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """A report: `report_id` "sNNNNNNNN", `patient_id` "pNNNNNNNN", `split` train/validate/test."""

    report_id: str
    patient_id: str
    findings: str
    impression: str
    split: str

    @property
    def text(self) -> str:
        """Findings, then impression: the text T of the paper."""
        return f"{self.findings} {self.impression}".strip()


def run_reports(workspace: Workspace) -> list[Report]:
    """The reports of a run, read as its options say (`read_mimic_reports`)."""
    root = workspace.data_root / MIMIC
    options = {"skip_bad": workspace.skip_bad, "allow_partial": workspace.allow_partial}
    return read_mimic_reports(root, **options)


def read_mimic_reports(
    root: str | Path,
    *,
    skip_bad: bool = False,
    allow_partial: bool = False,
    skipped: list[Skipped] | None = None,
) -> list[Report]:
    """Read `root/files/pNN/pNNNNNNNN/sNNNNNNNN.txt` with the splits of `mimic-cxr-2.0.0-split`.

    Reports without findings and impression, and those that the split table does not list, are
    left out; their numbers are logged as a warning. Errors are a file that cannot be read, a
    patient in two splits, a row without its file: `skip_bad` leaves them all out, `allow_partial`
    the last, and `skipped` takes what was left out.
    """
    root, skipped = Path(root), [] if skipped is None else skipped
    screen, split_table = Screen(skip_bad), child(root, SPLIT_TABLE)
    columns = ["study_id", "subject_id", "split"]
    table = screen.read(split_table, columns, cure="Fix the table.", dtype="str")
    table.named("study_id", "subject_id")
    for column in ("study_id", "subject_id"):
        elsewhere = table.rows.groupby(column)["split"].transform("first") != table["split"]
        table.refuse(elsewhere, f"a {column} that is in two splits", whole=column)
    splits = dict(zip("s" + table["study_id"], table["split"], strict=True))
    paths = sorted(root.glob("files/p*/p*/s*.txt"))
    there = {path.stem for path in paths}
    missing = [study for study in splits if study not in there]
    if missing and paths and not (skip_bad or allow_partial):
        raise InputError(
            f"{len(missing)} of {len(splits)} studies have no report: {', '.join(missing[:3])}"
            + ", ..." * (len(missing) > 3),
            "Complete the download, or accept a part of it (--allow-partial).",
            file=root / SPLIT_TABLE,
        )
    file, why = str(root / SPLIT_TABLE), "its report is missing"
    skipped += [Skipped(file, f"of study {study}", why) for study in missing]
    listed = [path for path in paths if path.stem in splits]
    found = [screen.attempt(_read_report, path, splits[path.stem]) for path in listed]
    skipped += screen.skipped
    reports = [report for report in found if report is not None]
    usable = [report for report in reports if report.text]
    if not usable:
        raise InputError(
            f"no report with findings or impression among {len(paths)} files",
            "Expect files/pNN/pNNNNNNNN/sNNNNNNNN.txt beside the split table.",
            file=root,
        )
    for count, why in (
        (len(paths) - len(listed), "are not in the split table"),
        (len(reports) - len(usable), "have neither findings nor impression"),
        (len(listed) - len(reports), "cannot be read"),
    ):
        if count:
            _log.warning("%d of %d reports %s and are left out", count, len(paths), why)
    return usable


def with_enough_concepts(reports: Sequence[Report], triplets: pd.DataFrame) -> list[Report]:
    """The paper's filter (4.1.1): reports that mention at least two distinct concepts.

    A mention counts whatever its assertion. That no report passes is an `InputError`.
    """
    counts = triplets.groupby("report_id")["concept"].nunique()
    kept = [report for report in reports if counts.get(report.report_id, 0) >= MINIMUM_CONCEPTS]
    if not kept:
        raise InputError(
            f"none of {len(reports)} reports mentions {MINIMUM_CONCEPTS} concepts",
            "Check that they are chest radiograph reports with FINDINGS or IMPRESSION.",
        )
    return kept


def quotable_sources(root: str | Path) -> pd.Series:
    """report_id -> Open-I identifier, for reports of the embedded world that are not templated.

    Real MIMIC-CXR has no such column, and its reports must not be quoted: the result is empty.
    """
    path = child(Path(root), METADATA_TABLE)
    table = read_table(path, ["study_id"], dtype="str") if path.is_file() else pd.DataFrame()
    if "source" not in table.columns:
        return pd.Series(dtype=str)
    table = table[table["source"] != "templated"].drop_duplicates("study_id")
    return table.set_index("s" + table["study_id"])["source"]


def _read_report(path: Path, split: str) -> Report:
    cure = "Fetch the report again, or leave out what is bad (--skip-bad)."
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not a text file ({error})", cure, file=path) from error
    except OSError as error:
        raise InputError(f"it cannot be read ({error.strerror})", cure, file=path) from error
    findings, impression = parse_sections(text)
    return Report(path.stem, path.parent.name, findings, impression, split)
