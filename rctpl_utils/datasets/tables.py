"""Reading the tables and lists that come with the data sets, and finding what they list."""

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
    if not isinstance(table.index, pd.RangeIndex):
        problem, cure = "rows with more cells than the header", "Use the official file, unchanged."
        raise InputError(problem, cure, file=path)
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
        cure = "Complete the download, or accept a partial data set (--allow-partial)."
        raise InputError(problem, cure, file=file)
    return records[present].reset_index(drop=True), len(gone)
