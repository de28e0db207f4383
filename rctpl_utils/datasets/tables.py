"""The tables and lists that come with the data sets, and what happens to their bad rows.

A bad row or image, or an absent one, is an error, or a counted omission. A whole table that cannot
be read, or that lacks a column, is an error always.
"""

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from rctpl_utils.errors import InputError, naming
from rctpl_utils.given_files import AGAIN, as_utf8, files_below, opened

VALIDATION_SHARE = 0.2  # of the patients, where a data set has no official split
IMAGES = (".png", ".jpg", ".jpeg")
OFFICIAL_TABLE = "Use the official table."
UNCHANGED = "Use the official table, unchanged."
_DELIMITERS = ",;\t|"
_OFFICIAL_FILE = "Use the official file, unchanged."
_UTF8 = f"{AGAIN[:-1]}, or save it as UTF-8."
_ROUNDED = r"\d+(?:[.,]\d+)?[eE]\+\d+"
_OUTSIDE = r"(?:^[/\\~])|(?:^[A-Za-z]:)|(?:(?:^|[/\\])\.\.(?:[/\\]|$))"
Found = TypeVar("Found")


class Skipped(NamedTuple):
    """A row (counted from 1, header excluded) or an image that was left out, and why."""

    file: str
    row: int | str | None
    reason: str

    @classmethod
    def of(cls, error: InputError) -> "Skipped":
        """The same facts as an error's, without the cure."""
        place = f"{error.file}" + ("" if error.row is None else f", row {error.row}")
        reason = str(error).removeprefix(f"{place}: ").removesuffix(f". {error.cure}")
        return cls(f"{error.file}", error.row, reason)


@dataclass
class Screen:
    """Refuses bad rows and images, or leaves them out and lists them."""

    skip_bad: bool = False  # leave out what is bad
    allow_partial: bool = False  # leave out films whose file is missing
    skipped: list[Skipped] = field(default_factory=list)  # what was left out, as it was found
    images: set[str] = field(default_factory=set)  # that lost a row of their annotation
    missing: int = 0  # films that were left out since their file is missing

    def read(
        self,
        file: Path,
        columns: Sequence[str],
        *,
        cure: str = OFFICIAL_TABLE,
        whole: str = "",
        **options: Any,
    ) -> "CheckedTable":
        """A table that is checked row by row, as `read_table` reads it."""
        return CheckedTable(read_table(file, columns, **options), file, self, cure, whole)

    def refuse(self, error: InputError) -> None:
        """Raise the error, or list what it is about as left out."""
        if not self.skip_bad:
            raise error
        self.skipped.append(Skipped.of(error))

    def attempt(self, work: Callable[..., Found], *arguments: Any) -> Found | None:
        """What `work(*arguments)` gives; None where it met bad input that is left out."""
        try:
            return work(*arguments)
        except InputError as error:
            self.refuse(error)
            return None

    def apart(
        self,
        records: pd.DataFrame,
        others: pd.Series,
        sides: tuple[str, str],
        file: Path,
        split: str,
    ) -> pd.DataFrame:
        """Records of patients who are not among `others`, those of the other of two `sides`.

        With `skip_bad` the test split keeps such patients and the other side loses them; else the
        error says how many patients the sides share.
        """
        shared = sorted(set(records["patient_id"]) & set(others))
        where = f"both in {sides[0]} and in {sides[1]}"
        if shared and not self.skip_bad:
            cure = "Use the official split, or move all images of a patient to one side."
            row = f"of patient {shared[0]}"
            raise InputError(f"{len(shared)} patients are {where}", cure, file=file, row=row)
        if split == "test":
            return records
        reason = f"a patient who is {where}"
        self.skipped += [Skipped(str(file), f"of patient {name}", reason) for name in shared]
        return records[~records["patient_id"].isin(shared)]

    def present(self, records: pd.DataFrame, folder: Path) -> pd.DataFrame:
        """Records whose image file is there (`path` is not NaN), index 0..n-1; the rest counted.

        That none is there at all is an error always.
        """
        there = records["path"].notna().to_numpy()
        gone = records["image_id"][~there]
        if len(gone) and (not self.allow_partial or not there.any()):
            shown = ", ".join(gone.astype("str").head(3)) + (", ..." if len(gone) > 3 else "")
            problem = f"{len(gone)} of {len(records)} images listed are missing: {shown}"
            cure = "Complete the download, or accept a partial data set (--allow-partial)."
            raise InputError(problem, cure, file=folder)
        self.missing += len(gone)
        return records[there].reset_index(drop=True)


@dataclass
class CheckedTable:
    """The rows of a file under a `Screen`: each check takes the bad ones out, or raises.

    `rows` keep their index, which counts the file's rows from 0; an `InputError` names the first
    bad one, and the `cure`. Where `whole` names a column of identifiers, of images or patients,
    a refused row takes all others of its image along: what is left of them would mislead.
    """

    rows: pd.DataFrame
    file: Path
    screen: Screen
    cure: str = OFFICIAL_TABLE
    whole: str = ""

    def __getitem__(self, columns: Any) -> Any:
        """A column, or several, as of the rows that are left."""
        return self.rows[columns]

    def refuse(
        self,
        bad: Sequence[bool] | pd.Series | np.ndarray,
        problem: str,
        cure: str | None = None,
        whole: str | None = None,
    ) -> None:
        """Take the `bad` rows out; `whole` ("" for none) stands in place of the table's."""
        bad, whole = np.asarray(bad, dtype=bool), self.whole if whole is None else whole
        if not bad.any():
            return
        numbers = [int(row) + 1 for row in self.rows.index[bad]]
        if not self.screen.skip_bad:
            more = f" (and {len(numbers) - 1} more rows)" if len(numbers) > 1 else ""
            raise InputError(f"{problem}{more}", cure or self.cure, file=self.file, row=numbers[0])
        self.screen.skipped += [Skipped(str(self.file), number, problem) for number in numbers]
        if whole:
            names = self.rows.loc[bad, whole].dropna().astype("str")
            self.screen.images |= set(names)
            bad = bad | self.rows[whole].astype("str").isin(names).to_numpy()
        self.rows = self.rows[~bad]

    def named(self, *columns: str) -> None:
        """Rows with a whole identifier in all of `columns`: not blank, not cut to "1.23E+07"."""
        cut = self[list(columns)].astype("str").apply(lambda cells: cells.str.fullmatch(_ROUNDED))
        self.refuse(cut.any(axis=1), "an identifier that a spreadsheet rounded", OFFICIAL_TABLE, "")
        names = self[list(columns)]
        blank = (names.isna() | (names == "")).any(axis=1)
        self.refuse(blank, f"a blank {' or '.join(columns)}", OFFICIAL_TABLE, "")

    def distinct(self, *columns: str) -> None:
        """The first of the rows that agree in `columns`."""
        repeated = self.rows.duplicated(list(columns))
        problem = f"the same {', '.join(columns)} as in an earlier row"
        self.refuse(repeated, problem, "Remove the duplicate.", "")

    def inside(self, column: str) -> None:
        """Rows whose path stays in the data root; the paths of Windows come with slashes."""
        leaves = self[column].astype("str").str.contains(_OUTSIDE)
        cure = "Make it relative to the data set's folder, or use the official table."
        self.refuse(leaves, "a path that leaves the data root", cure, "")
        self.rows = self.rows.assign(**{column: self[column].str.replace("\\", "/")})

    def films(self, column: str, *more: str) -> None:
        """Names of files in place of paths that stay inside; distinct, with the columns `more`."""
        self.inside(column)
        self.rows = self.rows.assign(**{column: bare_names(self[column])})
        self.distinct(column, *more)

    def numbers(self, *columns: str) -> None:
        """`columns` as float, blank cells NaN; a cell that is no number is bad."""
        cells = self[list(columns)]
        values = cells.apply(pd.to_numeric, errors="coerce").astype(float)
        wrong = (values.isna() & cells.notna()).any(axis=1)
        self.rows = self.rows.assign(**values)
        self.refuse(wrong, f"no number in {', '.join(columns)}", OFFICIAL_TABLE)


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
        content = _read(path)
        hint, _, rest = content.partition(b"\n")  # "sep=;", as spreadsheets tell each other
        content = rest if hint.strip().strip(b'"').lower().startswith(b"sep=") else content
        first = content.lstrip()[:65536].splitlines()[0].decode()
        headers = {mark: _header(first, mark) for mark in _DELIMITERS}
        mark = max(headers, key=lambda each: len(headers[each].keys() & set(columns)))
        if isinstance(kinds := options.get("dtype"), dict):  # by the names as they are in the file
            names = headers[mark]
            options["dtype"] = {names.get(name, name): kind for name, kind in kinds.items()}
        table = pd.read_csv(BytesIO(content), sep=mark, skipinitialspace=True, **options)
        # a last row with fewer cells than the header, closed by no line end
        lines = content.lstrip().splitlines()
        short = lines[-1].count(mark.encode()) < lines[0].count(mark.encode())
        if short and b'"' not in lines[-1] and not content.endswith((b"\n", b"\r")):
            raise InputError("the last row is cut off", AGAIN, file=path)
    if not isinstance(table.index, pd.RangeIndex):
        raise InputError("rows with more cells than the header", _OFFICIAL_FILE, file=path)
    table.columns = [_plain(column) for column in table.columns]
    missing = [column for column in columns if column not in table.columns]
    if missing:
        there = ", ".join(table.columns)
        problem = f"no column {', '.join(map(repr, missing))}; it has {there:.300}"
        raise InputError(problem, _OFFICIAL_FILE, file=path)
    for column in columns:
        if pd.api.types.is_string_dtype(table[column]):
            text = kinds == "str" or (kinds is not None and kinds.get(column) == "str")
            table[column] = _clean(table[column], text, mark)
    blank = (table.isna() | table.eq("")).all(axis=1)
    return table[~blank] if blank.any() else table


def read_lines(path: Path) -> list[str]:
    """The lines of a text list, packed or in UTF-16 as `read_table`; none blank at its end."""
    with naming(path, "not a text file in UTF-8", _UTF8):
        return _read(path).decode().rstrip().splitlines()


def _read(path: Path) -> bytes:
    with opened(path) as stream:
        content = as_utf8(stream.read())
    if not content.strip():
        raise InputError("it is empty", AGAIN, file=path)
    return content


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
        earlier = found.setdefault(name, path)
        if earlier != path and not os.path.samefile(earlier, path):
            problem = f"a second file of the same image as {earlier}"
            (screen or Screen()).refuse(InputError(problem, "Remove one of them.", file=path))
    return found


def locate(records: pd.DataFrame, files: dict[str, str], suffix: str = "") -> pd.DataFrame:
    """The records with a `path`, of the file named as the image; NaN where there is none.

    A file whose name differs in case alone counts where it is the only one.
    """
    cases: dict[str, list[str]] = {}
    for name, path in files.items():
        cases.setdefault(name.casefold(), []).append(path)
    single = {name: paths[0] for name, paths in cases.items() if len(paths) == 1}
    names = records["image_id"] + suffix
    records = records.copy()
    records.insert(2, "path", names.map(files).fillna(names.str.casefold().map(single)))
    return records


def bare_names(paths: pd.Series) -> pd.Series:
    """What stands after the last slash or backslash, without spaces around it."""
    return paths.str.replace(r"^.*[/\\]", "", regex=True).str.strip()
