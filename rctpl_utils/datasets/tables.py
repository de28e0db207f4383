"""Reading and checking the tables that come with the data sets, in whole columns at a time."""

import hashlib
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rctpl_utils.errors import InputError

VALIDATION_SHARE = 0.2  # of the patients, where a data set has no official split


def read_table(path: Path, columns: Sequence[str], **options: Any) -> pd.DataFrame:
    """Read a CSV file (gzip by its suffix); spaces around column names are dropped.

    Args:
        path: the file.
        columns: the columns that must be there.
        options: further arguments of `pandas.read_csv`.

    Raises:
        InputError: the file is absent, empty or no table, or lacks a column.
    """
    if not path.is_file():
        raise InputError("the table is missing", "Check the data root, or download it.", file=path)
    try:
        table = pd.read_csv(path, skipinitialspace=True, **options)
    except (ValueError, OSError, EOFError, zlib.error) as error:  # parser errors are ValueErrors
        cure = "Download or copy the file again."
        raise InputError(f"not a readable CSV table ({error})", cure, file=path) from error
    table.columns = [str(column).strip() for column in table.columns]
    missing = [column for column in columns if column not in table.columns]
    if missing:
        problem = f"no column {', '.join(map(repr, missing))}; it has {', '.join(table.columns)}"
        raise InputError(problem, "Use the official file, unchanged.", file=path)
    return table


def read_lines(path: Path) -> list[str]:
    """The lines of a text list (UTF-8) without their ends; blank lines at its end are dropped.

    Raises:
        InputError: the file is absent or no text.
    """
    if not path.is_file():
        raise InputError("the list is missing", "Check the data root, or download it.", file=path)
    try:
        return path.read_text(encoding="utf-8").rstrip().splitlines()
    except UnicodeDecodeError as error:
        cure = "Download or copy the file again."
        raise InputError("not a text file in UTF-8", cure, file=path) from error


def numbers(table: pd.DataFrame, columns: Sequence[str], file: Path) -> pd.DataFrame:
    """The columns as float; blank becomes NaN.

    Raises:
        InputError: a cell that is no number.
    """
    values = table[list(columns)].apply(pd.to_numeric, errors="coerce").astype(float)
    wrong = (values.isna() & table[list(columns)].notna()).any(axis=1)
    refuse_rows(wrong, f"no number in {', '.join(columns)}", "Use the official table.", file)
    return values


def refuse_rows(bad: Sequence[bool] | pd.Series, problem: str, cure: str, file: Path) -> None:
    """Raise an `InputError` that names the first bad row (from 1) and how many there are."""
    rows = np.flatnonzero(np.asarray(bad, dtype=bool))
    if len(rows):
        more = f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
        raise InputError(f"{problem}{more}", cure, file=file, row=int(rows[0]) + 1)


def refuse_blank(table: pd.DataFrame, columns: Sequence[str], file: Path) -> None:
    """Refuse a row without an identifier in one of `columns`."""
    blank = (table[list(columns)].isna() | (table[list(columns)] == "")).any(axis=1)
    refuse_rows(blank, f"a blank {' or '.join(columns)}", "Use the official table.", file)


def refuse_duplicates(table: pd.DataFrame, columns: Sequence[str], file: Path) -> None:
    """Refuse a table in which two rows agree in `columns`."""
    repeated = table.duplicated(list(columns))
    named = ", ".join(columns)
    refuse_rows(repeated, f"the same {named} as in an earlier row", "Remove the duplicate.", file)


def refuse_outside(paths: pd.Series, file: Path) -> None:
    """Refuse paths that are absolute or climb out of the data root (`..`)."""
    text = paths.astype("str")
    outside = text.str.contains(r"(?:^[/\\~])|(?:^[A-Za-z]:)|(?:(?:^|[/\\])\.\.(?:[/\\]|$))")
    refuse_rows(outside, "a path that leaves the data root", "Use the official table.", file)


def refuse_shared_patients(
    one: Iterable[str], other: Iterable[str], names: tuple[str, str], file: Path
) -> None:
    """Refuse patients that stand on both sides of a split.

    Raises:
        InputError: naming a patient and how many there are.
    """
    shared = sorted(set(one) & set(other))
    if shared:
        problem = f"{len(shared)} patients are both in {names[0]} and in {names[1]}"
        cure = "Use the official split, or move all images of a patient to one side."
        raise InputError(problem, cure, file=file, row=f"of patient {shared[0]}")


def hash_split(patients: Iterable[str], share: float = VALIDATION_SHARE) -> np.ndarray:
    """ "validation" or "test" for each patient identifier, by its SHA-256; the same everywhere."""
    limit = int(share * 2**32)
    numbers = (
        int(hashlib.sha256(str(patient).encode()).hexdigest()[:8], 16) for patient in patients
    )
    return np.array(
        ["validation" if number < limit else "test" for number in numbers], dtype=object
    )


def files_in(folders: Iterable[Path], suffixes: Iterable[str]) -> dict[str, str]:
    """File name -> path of the files with one of `suffixes` right inside `folders`."""
    endings = tuple(suffixes)
    found: dict[str, str] = {}
    for folder in folders:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
        found.update({n: str(folder / n) for n in names if n.lower().endswith(endings)})
    return found


def keep_present(
    records: pd.DataFrame, present: pd.Series | np.ndarray, *, allow_partial: bool, file: Path
) -> tuple[pd.DataFrame, int]:
    """Records whose image file is present, and how many were left out.

    Raises:
        InputError: files are missing and `allow_partial` is false, or none is there at all.
    """
    present = np.asarray(present, dtype=bool)
    gone = records["image_id"][~present]
    if len(gone) and (not allow_partial or not present.any()):
        shown = ", ".join(gone.astype("str").head(3)) + (", ..." if len(gone) > 3 else "")
        problem = f"{len(gone)} of {len(records)} images listed are missing: {shown}"
        cure = "Complete the download, or allow a partial data set (allow_partial=True)."
        raise InputError(problem, cure, file=file)
    return records[present].reset_index(drop=True), len(gone)
