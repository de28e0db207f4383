"""What happens to bad rows and images: an error, or a counted and listed omission (`skip_bad`).

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

    Tables that pass through keep their index, which counts the file's rows from 0.

    Attributes:
        skip_bad: leave out instead of raising an `InputError`.
        skipped: what was left out, in the order it was found.
        images: identifiers of images that lost a row of their annotation, and so cannot be trusted.
    """

    def __init__(self, skip_bad: bool = False) -> None:
        self.skip_bad = skip_bad
        self.skipped: list[Skipped] = []
        self.images: set[str] = set()

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
        """The table without its bad rows.

        Args:
            table: index = row of the file from 0.
            bad: bool, one a row.
            problem: what is wrong with them.
            cure: what the user can do.
            file: the table's file.
            whole: a column with identifiers of images (or patients): every row that agrees in it
                with a bad one goes too, as what is left of an image's annotation would mislead.

        Raises:
            InputError: a row is bad and `skip_bad` is false; the first one is named.
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
        """Rows whose path neither is absolute nor climbs out of the data root (`..`).

        The paths of Windows come with slashes.
        """
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
        """Records of patients who are on one side of a split only.

        With `skip_bad` the test set keeps such patients and the other side loses them.

        Args:
            records: one side, with `patient_id`.
            others: the other side's patients.
            names: what the two sides are called.
            file: the table or folder to name.
            is_test: whether `records` are the test set.

        Raises:
            InputError: a shared patient and `skip_bad` is false; names one and how many there are.
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

    def attempt(self, work: Callable[..., Found], *arguments: Any) -> Found | None:
        """What `work(*arguments)` gives; None where it met bad input that is left out.

        Raises:
            InputError: bad input, and `skip_bad` is false.
        """
        try:
            return work(*arguments)
        except InputError as error:
            if not self.skip_bad:
                raise
            self.skipped.append(Skipped.of(error))
            return None
