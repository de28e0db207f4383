"""What reports share: outcomes of paired tests, Markdown, a film with map and outlines."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from rctpl_utils.evaluation.grounding_metrics import peak, pointing_hits
from rctpl_utils.evaluation.results import data_note
from rctpl_utils.plots import TEXT, caption, save_figure
from rctpl_utils.workspace import Workspace

ALPHA = 0.05
# Okabe and Ito's palette, for the outlines on one film
OUTLINES = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2", "#FFFFFF")
BOX_COLOR = OUTLINES[0]


def paired_outcomes(tests: pd.DataFrame) -> pd.Categorical:
    """What paired tests say: better, worse or undecided, grouped in this order."""
    sure = tests["p_holm"] < ALPHA
    better, worse = sure & (tests["value"] > 0), sure & (tests["value"] < 0)
    words = ["better", "worse", "undecided"]
    return pd.Categorical(np.select([better, worse], words[:2], words[2]), words)


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


def color_bar(figure: Figure, ends: tuple[float, float], label: str, **options: object) -> None:
    """What the colors of heat maps mean, from one end to the other."""
    bar = figure.colorbar(ScalarMappable(Normalize(*ends), "inferno"), **options)
    bar.set_label(label, fontsize=TEXT)
    bar.ax.tick_params(labelsize=TEXT)


def draw_film(axis: Axes, pixels: np.ndarray, heat: np.ndarray | None = None) -> None:
    """A film in gray, its values from 0 to 1, under a heat map, which is clear at 0."""
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    if heat is not None:
        axis.imshow(heat, cmap="inferno", alpha=0.65 * heat.clip(0, 1), vmin=0, vmax=1)


def draw_map(axis: Axes, pixels: np.ndarray, heat: np.ndarray, mask: np.ndarray) -> None:
    """A film and its map, with the box and the map's maximum, filled where it lies in the box."""
    draw_film(axis, pixels, heat)
    outline(axis, mask, BOX_COLOR)
    down, across = peak(heat)
    inside = "white" if pointing_hits(heat[None], mask)[0] else "none"
    axis.plot(across, down, "X", ms=5, mew=0.7, mec="white", mfc=inside)


def outline(axis: Axes, mask: np.ndarray, color: str) -> None:
    """The border of a bool mask; padded, so that it closes at the film's edge."""
    height, width = mask.shape
    down, across = np.arange(-1, height + 1), np.arange(-1, width + 1)
    border = np.pad(mask.astype(float), 1)
    axis.contour(across, down, border, [0.5], colors=color, linewidths=1.1)
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
