"""What `--skip-bad` and `--allow-partial` left out of real data: counted, listed, never silent.

Notebook 00 lists rows and films, notebook 01 the reports; the runner says at its end how many.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.base import MISSING
from rctpl_utils.datasets.tables import Skipped
from rctpl_utils.evaluation.results import write_csv
from rctpl_utils.text.reports import MIMIC, Report, read_mimic_reports
from rctpl_utils.workspace import Workspace

FILMS, REPORTS = "skipped_films", "skipped_reports"


class Omission(NamedTuple):
    """A bad row, film or report that was left out; or all missing files of a split, counted."""

    dataset: str
    split: str
    file: str
    row: int | str | None
    reason: str
    count: int = 1


def omissions(dataset: ChestXrayDataset) -> list[Omission]:
    """What was left out of one split by the options; the paper's own exclusions are not in it."""
    about = dataset.name, dataset.split
    found = [Omission(*about, *each) for each in dataset.skipped]
    if missing := dataset.left_out.get(MISSING, 0):
        found.append(Omission(*about, "", None, MISSING, missing))
    return found


def write_skipped(workspace: Workspace, name: str, found: Sequence[Omission]) -> Path:
    """Write `results/<name>.csv`, one row an omission and split; files below the data root."""
    table = pd.DataFrame(found, columns=list(Omission._fields))
    for column in ("file", "reason"):
        short = table[column].astype(str).str.replace(f"{workspace.data_root}{os.sep}", "")
        table[column] = short.str.replace(os.sep, "/")
    return write_csv(workspace.results / f"{name}.csv", table)


def read_and_list_reports(workspace: Workspace) -> list[Report]:
    """The run's reports (`reports.run_reports`); of real data, what was left out is listed."""
    skipped: list[Skipped] = []
    reports = read_mimic_reports(
        workspace.data_root / MIMIC,
        skip_bad=workspace.skip_bad,
        allow_partial=workspace.allow_partial,
        skipped=skipped,
    )
    if not workspace.profile.simulated:
        found = [Omission(MIMIC, "", *each) for each in skipped]
        write_skipped(workspace, REPORTS, found)
    return reports


def summary(workspace: Workspace) -> str:
    """How much was left out, and where it is listed; what several splits meet counts once."""
    parts = []
    for name, what in ((FILMS, "rows and films"), (REPORTS, "reports")):
        path = workspace.results / f"{name}.csv"
        if path.exists():
            rows = pd.read_csv(path, dtype=str, keep_default_na=False)
            named = rows["file"] != ""
            listed = rows.loc[named, ["file", "row", "reason"]].drop_duplicates()
            count = len(listed) + rows.loc[~named, "count"].astype(int).sum()
            place = path.relative_to(workspace.output).as_posix()
            parts.append(f"{count:,} {what} ({place})")
    return f"Left out of the data: {', '.join(parts) or 'not known yet (notebooks 00, 01)'}."
