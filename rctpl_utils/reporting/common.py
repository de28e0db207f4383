"""What reports share: outcomes of paired tests, lines of Markdown, a figure's end."""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from rctpl_utils.evaluation.results import data_note
from rctpl_utils.plots import caption, save_figure
from rctpl_utils.workspace import Workspace

ALPHA = 0.05


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
