"""What reports share: outcomes of paired tests, Markdown, a film with map and outlines."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rctpl_utils.evaluation.grounding_metrics import peak, pointing_hits
from rctpl_utils.evaluation.results import data_note
from rctpl_utils.plots import REGION_COLOR, caption, save_figure
from rctpl_utils.workspace import Workspace

ALPHA = 0.05
# Okabe and Ito's palette, for the outlines on one film
OUTLINES = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2", "#FFFFFF")
BOX_COLOR = OUTLINES[0]


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


def draw_film(axis: Axes, pixels: np.ndarray) -> None:
    """A film in gray, its values from 0 to 1."""
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])


def draw_overlay(axis: Axes, heat: np.ndarray) -> None:
    """A heat map over what is there, clear at 0."""
    axis.imshow(heat, cmap="inferno", alpha=0.65 * heat.clip(0, 1), vmin=0, vmax=1)


def draw_heat(axis: Axes, pixels: np.ndarray, heat: np.ndarray) -> None:
    """A film under its heat map, shown from 0 (the film alone) to 1."""
    draw_film(axis, pixels)
    draw_overlay(axis, heat)


def draw_map(axis: Axes, pixels: np.ndarray, heat: np.ndarray, mask: np.ndarray) -> None:
    """`draw_heat`, with the box and the map's maximum, filled where it lies in the box."""
    draw_heat(axis, pixels, heat)
    outline(axis, mask, BOX_COLOR)
    down, across = peak(heat)
    axis.plot(
        across, down, "X", ms=5, mew=0.7, mec="white",
        mfc="white" if pointing_hits(heat[None], mask)[0] else "none",
    )  # fmt: skip


def fill_region(axis: Axes, region: np.ndarray) -> None:
    """A bool region in yellow; holes in it stay as they are."""
    axis.contourf(region.astype(float), [0.5, 1.5], colors=REGION_COLOR, alpha=0.45)


def outline(axis: Axes, mask: np.ndarray, color: str) -> None:
    """The border of a bool mask; padded, so that it closes at the film's edge."""
    height, width = mask.shape
    around = np.pad(mask.astype(float), 1)
    axis.contour(
        np.arange(-1, width + 1), np.arange(-1, height + 1), around, [0.5],
        colors=color, linewidths=1.1,
    )  # fmt: skip
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
