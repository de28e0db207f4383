"""Reading the tables and lists that come with the data sets, and finding what they list."""

import csv
import os
from collections.abc import Iterable, Sequence
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rctpl_utils.datasets.screening import Screen
from rctpl_utils.errors import InputError
from rctpl_utils.given_files import AGAIN, as_utf8, files_below, naming, opened

VALIDATION_SHARE = 0.2  # of the patients, where a data set has no official split
IMAGES = (".png", ".jpg", ".jpeg")
_DELIMITERS = ",;\t|"
_OFFICIAL = "Use the official file, unchanged."
_UTF8 = f"{AGAIN[:-1]}, or save it as UTF-8."


def read_table(path: Path, columns: Sequence[str], **options: Any) -> pd.DataFrame:
    """Read a CSV file as people have it.

    Gzip or zip or neither, whatever its suffix; UTF-8 or UTF-16 with a byte-order mark or without;
    separated by commas, semicolons, tabs or bars, whichever its header shows `columns` with, and
    then with decimal commas too; spaces around names and cells dropped; rows without any cell too.
    Where `options` of `pandas.read_csv` make a column text, a whole number that was saved as "5.0"
    is "5" again. The index counts the file's rows from 0.

    Raises:
        InputError: the file is absent, empty or no table, or lacks one of `columns`.
    """
    with naming(path, "not a readable CSV table", _UTF8):
        content = _without_hint(_read(path))
        first = content.lstrip()[:65536].splitlines()[0].decode()
        headers = {mark: _header(first, mark) for mark in _DELIMITERS}
        mark = max(headers, key=lambda each: len(headers[each].keys() & set(columns)))
        if isinstance(kinds := options.get("dtype"), dict):  # by the names as they are in the file
            names = headers[mark]
            options["dtype"] = {names.get(name, name): kind for name, kind in kinds.items()}
        table = pd.read_csv(BytesIO(content), sep=mark, skipinitialspace=True, **options)
        _refuse_torn(content, mark, path)
    if not isinstance(table.index, pd.RangeIndex):
        raise InputError("rows with more cells than the header", _OFFICIAL, file=path)
    table.columns = [_plain(column) for column in table.columns]
    missing = [column for column in columns if column not in table.columns]
    if missing:
        there = ", ".join(table.columns)
        problem = f"no column {', '.join(map(repr, missing))}; it has {there:.300}"
        raise InputError(problem, _OFFICIAL, file=path)
    for column in columns:
        if pd.api.types.is_string_dtype(table[column]):
            text = kinds == "str" or (kinds is not None and kinds.get(column) == "str")
            table[column] = _clean(table[column], text, mark)
    blank = (table.isna() | table.eq("")).all(axis=1)
    return table[~blank] if blank.any() else table


def _read(path: Path) -> bytes:
    with opened(path) as stream:
        content = as_utf8(stream.read())
    if not content.strip():
        raise InputError("it is empty", AGAIN, file=path)
    return content


def _without_hint(content: bytes) -> bytes:
    """Without the line "sep=;" by which spreadsheets tell each other the separator."""
    first, _, rest = content.partition(b"\n")
    return rest if first.strip().strip(b'"').lower().startswith(b"sep=") else content


def _refuse_torn(content: bytes, mark: str, path: Path) -> None:
    """Refuse a last row with fewer cells than the header that no line end closes."""
    first, *_, last = content.lstrip().splitlines() * 2
    short = last.count(mark.encode()) < first.count(mark.encode())
    if short and b'"' not in last and not content.endswith((b"\n", b"\r")):
        raise InputError("the last row is cut off", AGAIN, file=path)


def _plain(name: object) -> str:
    return " ".join(str(name).split())


def _header(line: str, delimiter: str) -> dict[str, str]:
    """Column name -> as it is in the file."""
    rows = csv.reader([line], delimiter=delimiter, skipinitialspace=True)
    return {_plain(cell): cell for cell in next(rows, [])}


def _clean(cells: pd.Series, text: bool, mark: str) -> pd.Series:
    """Cells without spaces around them; numbers with decimal commas as numbers, unless `text`."""
    cells = cells.str.strip()
    if text:
        return cells.str.replace(r"^(\d+)\.0+$", r"\1", regex=True)
    if mark == ",":
        return cells
    numbers = pd.to_numeric(cells.str.replace(",", "."), errors="coerce")
    return numbers if numbers.notna().equals(cells.notna()) else cells


def read_lines(path: Path) -> list[str]:
    """The lines of a text list, packed or in UTF-16 as `read_table`; none blank at its end."""
    with naming(path, "not a text file in UTF-8", _UTF8):
        return _read(path).decode().rstrip().splitlines()


def hash_split(patients: Iterable[str]) -> np.ndarray:
    """ "validation" or "test" for each patient identifier, by its SHA-256; the same everywhere."""
    limit = int(VALIDATION_SHARE * 2**32)
    numbers = (int(sha256(str(patient).encode()).hexdigest()[:8], 16) for patient in patients)
    splits = ["validation" if number < limit else "test" for number in numbers]
    return np.array(splits, dtype=object)


def find_files(
    folders: Iterable[Path], suffixes: Iterable[str], screen: Screen | None = None
) -> dict[str, str]:
    """File name -> path of those with one of `suffixes`; two of one name are bad input."""
    found: dict[str, str] = {}
    for name, path in files_below(folders, suffixes):
        (screen or Screen()).attempt(_add, found, name, path)
    return found


def _add(found: dict[str, str], name: str, path: str) -> None:
    earlier = found.setdefault(name, path)
    if earlier != path and not os.path.samefile(earlier, path):
        problem = f"a second file of the same image as {earlier}"
        raise InputError(problem, "Remove one of them.", file=path)


def locate(names: pd.Series, files: dict[str, str]) -> pd.Series:
    """The path of each named file, NaN where it is absent; in another case where that is one."""
    cases: dict[str, list[str]] = {}
    for name, path in files.items():
        cases.setdefault(name.casefold(), []).append(path)
    single = {name: paths[0] for name, paths in cases.items() if len(paths) == 1}
    return names.map(files).fillna(names.str.casefold().map(single))


def bare_names(paths: pd.Series) -> pd.Series:
    """What stands after the last slash or backslash, without spaces around it."""
    return paths.str.replace(r"^.*[/\\]", "", regex=True).str.strip()
