"""Whether a run's numbers and verdicts are the committed ones: `./run_all.sh check`.

Tables are compared row by row and number by number with those of the last commit (a run overwrites
them in place), verdicts one by one. Exit status: 0 all are the same within their tolerance, 1
something differs, 2 the comparison could not be made.
"""

import argparse
import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from rctpl_utils.errors import InputError, one_line
from rctpl_utils.workspace import PROJECT, Workspace

# file -> what to call it. Others of a run's files hold clock times, pictures, or these numbers.
COMPARED = {
    "extraction.csv": "Extraction",
    **{f"table{k}.csv": f"Table {k}" for k in range(1, 6)},
    "ablations.csv": "Figure 4 and ablations",
    "prompt_maps.csv": "Prompt maps",
    "saliency_sanity.csv": "Sanity of heat maps",
    "method_map.csv": "Method map",
    "reproduction.csv": "Ours beside the reported",
    "claims_parts.csv": "Ledger, parts",
    "claims.csv": "Ledger",
}
VERDICT = "verdict"
EXACT = ("n", "seeds", "support", "native")
CLOCK = "training_seconds"  # a metric whose rows are clock times
LEFT_OUT = ("seconds", "note", "in_words", "quote")  # clock times, and words about the others
# How far numbers of two machines may be apart: what rounding was seen to move, with room. Where few
# films decide, one that changes sides moves more, so a share of a row's own interval is allowed.
TOLERANCE, SHARE = 0.003, 0.05
LOOSE = {"p_value": 0.05, "p_holm": 0.1, "p_for": 0.05, "p_against": 0.05}
SHOWN = 5  # differences a table that are printed


class Difference(NamedTuple):
    """One number or word that differs: its row, its column, what was committed, what is there."""

    row: str
    column: str
    committed: object
    found: object

    @property
    def size(self) -> float:
        """How far apart two numbers are; infinite where one is missing or both are words."""
        try:
            return abs(float(self.committed) - float(self.found))
        except (TypeError, ValueError):
            return np.inf


class Comparison(NamedTuple):
    """A file's outcome: how many numbers and words were compared, and which differ."""

    title: str
    compared: int
    differences: list[Difference]

    def __str__(self) -> str:
        """A line, and a line each for what differs most, verdicts first."""
        differ = len(self.differences)
        lines = [f"{self.title}: {self.compared - differ} of {self.compared} as committed"]
        worst = sorted(self.differences, key=lambda d: (d.column != VERDICT, -d.size))
        for row, column, committed, found in worst[:SHOWN]:
            lines.append(f"  {row}, {column}: {committed} committed, {found} here")
        return "\n".join([*lines, f"  and {differ - SHOWN} more"] if differ > SHOWN else lines)


def compare(title: str, committed: pd.DataFrame, found: pd.DataFrame) -> Comparison:
    """Compare two tables whose rows are named by their columns of words, in any order.

    A row or column that only one of them has counts as one difference a cell. Clock times are left
    out, be they a column or rows.
    """
    committed, found = (
        table[table["metric"] != CLOCK] if "metric" in table else table
        for table in (committed, found)
    )
    keys = [
        name
        for name, column in committed.items()
        if not (pd.api.types.is_numeric_dtype(column) or column.isna().all())
        and name not in (*LEFT_OUT, *EXACT, VERDICT)
        and name in found
    ]
    columns = [c for c in dict.fromkeys([*committed, *found]) if c not in (*keys, *LEFT_OUT)]
    left, right = (_named(table, keys) for table in (committed, found))
    rows, both = left.index.union(right.index, sort=False), left.index.intersection(right.index)
    allowed = pd.Series(TOLERANCE, index=rows)  # how far the numbers of each row may be apart
    if {"ci_low", "ci_high"} <= {*left}:
        wide = SHARE * (left["ci_high"] - left["ci_low"])
        allowed = wide.fillna(0).clip(lower=TOLERANCE).reindex(rows)
    one, other = (table.reindex(index=rows, columns=columns) for table in (left, right))
    differences = [
        Difference(row, column, a, b)
        for column in columns
        for row, a, b, most in zip(rows, one[column], other[column], allowed, strict=True)
        if row not in both or not _same(a, b, 0 if column in EXACT else LOOSE.get(column, most))
    ]
    return Comparison(title, len(rows) * len(columns), differences)


def _named(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Rows named by their words; rows of equal names are numbered in their order."""
    words = table[list(keys)].fillna("").astype(str)
    rows = words.itertuples(index=False)
    names = pd.Series([" | ".join(part for part in row if part) for row in rows], dtype=object)
    again = names.groupby(names).cumcount()
    names = names.where(again == 0, names + " #" + (again + 1).astype(str))
    return table.set_axis(names.to_list(), axis=0)


def _same(one: object, other: object, most: float) -> bool:
    if pd.isna(one) or pd.isna(other):
        return pd.isna(one) and pd.isna(other)
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return abs(float(one) - float(other)) <= most


def check(workspace: Workspace, against: Path | None = None) -> list[Comparison]:
    """Compare a run with the last commit's results, or with those of the folder `against`."""
    if not workspace.results.is_dir() or not any(workspace.results.iterdir()):
        raise InputError("no run is here", "Run ./run_all.sh first.", file=workspace.build)
    outcome = []
    for name, title in COMPARED.items():
        if against is None:
            committed = _committed(f"figures/{workspace.profile.name}/{name}")
        elif (against / name).is_file():
            committed = pd.read_csv(against / name)
        else:
            raise InputError("no such results", "Check --against DIR.", file=against / name)
        path = workspace.figures / name
        found = pd.read_csv(path) if path.is_file() else committed.iloc[:0]
        outcome.append(compare(title, committed, found))
    return outcome


def _committed(place: str) -> pd.DataFrame:
    """A table of the last commit."""
    try:
        shown = subprocess.run(
            ["git", "show", f"HEAD:{place}"], cwd=PROJECT, capture_output=True, check=False
        )
        problem = shown.stderr.decode(errors="replace").strip() if shown.returncode else ""
    except FileNotFoundError:
        problem = "git is not installed"
    if problem:
        raise InputError(
            f"the committed {place} cannot be read ({problem})",
            "Run in a git clone, or give a folder of committed results with --against DIR.",
        )
    return pd.read_csv(io.BytesIO(shown.stdout))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="./run_all.sh check", description=__doc__)
    parser.add_argument("--profile", default="embedded", help="default: embedded")
    parser.add_argument("--output", metavar="DIR", help="where the run's build/ and figures/ are")
    parser.add_argument("--against", type=Path, metavar="DIR", help="default: the last commit")
    options = parser.parse_args(arguments)
    try:
        workspace = Workspace.open(options.profile, output=options.output, device="cpu")
        outcome = check(workspace, options.against)
    except (InputError, OSError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    for each in outcome:
        print(each)
    differ = sum(len(each.differences) for each in outcome)
    flipped = sum(d.column == VERDICT for each in outcome for d in each.differences)
    total = sum(each.compared for each in outcome)
    print(f"{total - differ} of {total} are the committed ones; {flipped} verdicts differ")
    return 1 if differ else 0
