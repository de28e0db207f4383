"""What reports share: a table in three formats, paired tests and their words, a figure's end."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from rctpl_utils.baselines.registry import why_absent
from rctpl_utils.evaluation.bootstrap_samples import Draws
from rctpl_utils.evaluation.metrics import holm, named_interval, paired_p_value
from rctpl_utils.evaluation.results import (
    data_note,
    wide_table,
    with_reported,
    write_csv,
    write_table,
)
from rctpl_utils.plots import caption, save_figure
from rctpl_utils.workspace import Workspace

ALPHA = 0.05
TESTED = (
    "dataset", "method", "against", "metric", "value", "ci_low", "ci_high", "p_value", "p_holm",
)  # fmt: skip
NOT_RERUNS = "Columns 'reported': the paper's numbers, on real data with other encoders"


def save_table(
    workspace: Workspace,
    number: int,
    rows: pd.DataFrame,
    reported: pd.DataFrame,
    caption: str,
    columns: Sequence[tuple[str, str]] | None = None,
) -> pd.DataFrame:
    """Write table<number>.csv, .md and .tex: our rows with the paper's numbers beside them.

    Args:
        columns: the order of (dataset, metric), where it is not that of the rows.

    Returns:
        one line a method, as a reader sees it.
    """
    table = with_reported(rows, reported)
    stem = workspace.figures / f"table{number}"
    write_csv(stem.with_suffix(".csv"), table)
    wide = wide_table(table, reasons=why_absent(workspace))
    if columns is not None:
        wide = wide[[column for column in columns if column in wide.columns]]
    write_table(stem, wide, f"Table {number}. {caption}")
    return wide


def paired_tests(
    path: Path, pairs: Iterable[tuple[Draws, str, str, str, str]], columns: Sequence[str] = TESTED
) -> pd.DataFrame:
    """Test differences on the same resamples, Holm-corrected over all, and write them.

    Args:
        pairs: draws, dataset, method, the other method, metric.
        columns: which of `TESTED` to keep.
    """
    rows = []
    for draws, *key in pairs:
        dataset, method, other, metric = key
        difference = draws[dataset, method, metric] - draws[dataset, other, metric]
        row = dict(zip(TESTED, key, strict=False)) | named_interval(difference, None)
        rows.append(row | {"p_value": paired_p_value(difference)})
    tests = pd.DataFrame(rows, columns=[name for name in columns if name != "p_holm"])
    tests["p_holm"] = holm(tests["p_value"].to_numpy(float))
    write_csv(path, tests)
    return tests


def by_outcome(tests: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tests that are better, worse and undecided; a word without tests is absent."""
    sure = tests["p_holm"] < ALPHA
    parts = {
        "better": tests[sure & (tests["value"] > 0)],
        "worse": tests[sure & (tests["value"] < 0)],
        "undecided": tests[~sure],
    }
    return {word: part for word, part in parts.items() if len(part)}


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return [lines[0], "|---" * len(heads) + "|", *lines[1:]]


def with_interval(row: Mapping[str, float] | tuple) -> str:
    """A row's value [its interval], two digits each."""
    return f"{row.value:.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}]"


def finished(workspace: Workspace, figure: Figure, stem: str, note: str) -> Figure:
    """Write a figure's note below it, with what the images are, and save it."""
    caption(figure, f"{data_note(workspace)} {note}")
    save_figure(figure, workspace.figures / stem)
    return figure
