"""What happens to bad rows and images, and to absent ones: an error, or a counted omission.

A whole table that cannot be read, or that lacks a column, is an error always.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from rctpl_utils.errors import InputError

Found = TypeVar("Found")
_ROUNDED = r"\d+(?:[.,]\d+)?[eE]\+\d+"
_OUTSIDE = r"(?:^[/\\~])|(?:^[A-Za-z]:)|(?:(?:^|[/\\])\.\.(?:[/\\]|$))"


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


class Screen:
    """Refuses bad rows and images, or leaves them out and lists them.

    Tables that pass through keep their index, which counts the file's rows from 0. Without
    `skip_bad` (`allow_partial`) a method raises an `InputError` that names the first bad row.

    Attributes:
        skip_bad: leave out what is bad.
        allow_partial: leave out films whose file is missing.
        skipped: what was left out, in the order it was found.
        images: identifiers of images that lost a row of their annotation, and so cannot be trusted.
        missing: how many films were left out since their file is missing.
    """

    def __init__(self, skip_bad: bool = False, allow_partial: bool = False) -> None:
        self.skip_bad, self.allow_partial = skip_bad, allow_partial
        self.skipped: list[Skipped] = []
        self.images: set[str] = set()
        self.missing = 0

    def rows(
        self,
        table: pd.DataFrame,
        bad: Sequence[bool] | pd.Series | np.ndarray,
        problem: str,
        cure: str,
        file: Path,
        *,
        whole: str | None = None,
    ) -> pd.DataFrame:
        """The table of `file` without its `bad` rows.

        Every row that agrees with a bad one in the column `whole`, identifiers of images (or
        patients), goes too: what is left of an image's annotation would mislead.
        """
        bad = np.asarray(bad, dtype=bool)
        if not bad.any():
            return table
        numbers = [int(row) + 1 for row in table.index[bad]]
        if not self.skip_bad:
            more = f" (and {len(numbers) - 1} more rows)" if len(numbers) > 1 else ""
            raise InputError(f"{problem}{more}", cure, file=file, row=numbers[0])
        self.skipped += [Skipped(str(file), number, problem) for number in numbers]
        if whole is not None:
            names = table.loc[bad, whole].dropna().astype("str")
            self.images |= set(names)
            bad = bad | table[whole].astype("str").isin(names).to_numpy()
        return table[~bad]

    def blank(self, table: pd.DataFrame, columns: Sequence[str], file: Path) -> pd.DataFrame:
        """Rows with a whole identifier in all of `columns`: not blank, not cut to "1.23E+07"."""
        names = table[list(columns)].astype("str")
        cut = names.apply(lambda cells: cells.str.fullmatch(_ROUNDED)).any(axis=1)
        problem = "an identifier that a spreadsheet rounded"
        table = self.rows(table, cut, problem, "Use the official table.", file)
        blank = (table[list(columns)].isna() | (table[list(columns)] == "")).any(axis=1)
        problem = f"a blank {' or '.join(columns)}"
        return self.rows(table, blank, problem, "Use the official table.", file)

    def duplicates(self, table: pd.DataFrame, columns: Sequence[str], file: Path) -> pd.DataFrame:
        """The first of the rows that agree in `columns`."""
        problem = f"the same {', '.join(columns)} as in an earlier row"
        repeated = table.duplicated(list(columns))
        return self.rows(table, repeated, problem, "Remove the duplicate.", file)

    def outside(self, table: pd.DataFrame, column: str, file: Path) -> pd.DataFrame:
        """Rows whose path stays in the data root; the paths of Windows come with slashes."""
        leaves = table[column].astype("str").str.contains(_OUTSIDE)
        problem = "a path that leaves the data root"
        cure = "Make it relative to the data set's folder, or use the official table."
        table = self.rows(table, leaves, problem, cure, file)
        return table.assign(**{column: table[column].str.replace("\\", "/")})

    def numbers(
        self, table: pd.DataFrame, columns: Sequence[str], file: Path, *, whole: str
    ) -> pd.DataFrame:
        """The table with `columns` as float, blank cells NaN; a cell that is no number is bad."""
        values = table[list(columns)].apply(pd.to_numeric, errors="coerce").astype(float)
        wrong = (values.isna() & table[list(columns)].notna()).any(axis=1)
        problem = f"no number in {', '.join(columns)}"
        table = table.assign(**values)
        return self.rows(table, wrong, problem, "Use the official table.", file, whole=whole)

    def patients(
        self,
        records: pd.DataFrame,
        others: pd.Series,
        names: tuple[str, str],
        file: Path,
        *,
        is_test: bool,
    ) -> pd.DataFrame:
        """Records of patients who are not among `others`, those of the other side of a split.

        With `skip_bad` the test set keeps such patients and the other side loses them. `names` are
        what the two sides are called; the error says how many patients they share.
        """
        shared = sorted(set(records["patient_id"]) & set(others))
        if shared and not self.skip_bad:
            problem = f"{len(shared)} patients are both in {names[0]} and in {names[1]}"
            cure = "Use the official split, or move all images of a patient to one side."
            raise InputError(problem, cure, file=file, row=f"of patient {shared[0]}")
        if is_test:
            return records
        problem = f"a patient who is both in {names[0]} and in {names[1]}"
        self.skipped += [Skipped(str(file), f"of patient {name}", problem) for name in shared]
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

    def attempt(self, work: Callable[..., Found], *arguments: Any) -> Found | None:
        """What `work(*arguments)` gives; None where it met bad input that is left out."""
        try:
            return work(*arguments)
        except InputError as error:
            if not self.skip_bad:
                raise
            self.skipped.append(Skipped.of(error))
            return None
