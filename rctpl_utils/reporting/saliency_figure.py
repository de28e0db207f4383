"""The figure of `saliency_sanity`: maps under every change, and how far they follow it."""

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rctpl_utils.encoders.frame import on_film
from rctpl_utils.evaluation.heat_maps import stretch
from rctpl_utils.evaluation.saliency_sanity import (
    NO_WORD,
    SAMPLE,
    SEEDS,
    SHUFFLED,
    UNCHANGED,
    Sanity,
)
from rctpl_utils.plots import COLUMN_WIDTH, spread
from rctpl_utils.reporting.common import finished
from rctpl_utils.reporting.film_drawing import draw_map
from rctpl_utils.workspace import Workspace


def save_saliency_figure(workspace: Workspace, sanity: Sanity, name: str) -> Figure:
    """Write `saliency_sanity`: the first film's maps under every change, and the curves.

    Args:
        name: of the method, for the caption.
    """
    figure = plt.figure(figsize=(COLUMN_WIDTH, 4.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.25))
    axes = top.subplots(len(sanity.maps), len(sanity.changes))
    for line, (kind, maps) in zip(axes, sanity.maps.items(), strict=True):
        heats = stretch(on_film(torch.from_numpy(maps), sanity.mask.shape)).numpy()
        for axis, heat in zip(line, heats, strict=True):
            draw_map(axis, sanity.pixels, heat, sanity.mask)
        line[0].set_ylabel(kind, fontsize=6)
    for axis, label in zip(axes[0], _labels(sanity.changes), strict=True):
        axis.set_title(fill(label, 12), fontsize=5.5, pad=2)
    left, right = bottom.subplots(1, 2)
    _draw_curve(left, sanity, "similarity", "rank correlation")
    _draw_curve(right, sanity, "pointing_game", "pointing game")
    left.legend(fontsize=6, frameon=False)
    note = (
        f"{name}, first seed; {SAMPLE} test films with boxes, spread evenly "
        f"by image identifier; the first of them above ({sanity.concept.lower()}). +: random "
        f"together with all layers to the left, {len(SEEDS)} draws. Bars: 95 % intervals. "
        "Maps stretched to their own range; blue: box; cross: maximum of the map, filled where it "
        f"lies in the box. Check of the words: {sanity.verdict}"
    )
    return finished(workspace, figure, "saliency_sanity", note)


def _labels(changes: Sequence[str]) -> list[str]:
    """The names of the changes; a "+" where a layer joins those randomized before."""
    return [c if c in (UNCHANGED, SHUFFLED, NO_WORD) else f"+ {c}" for c in changes]


def _draw_curve(axis: Axes, sanity: Sanity, metric: str, label: str) -> None:
    rows = sanity.rows[sanity.rows["metric"] == metric]
    colors = sns.color_palette("colorblind", len(sanity.maps))
    for shift, (kind, color) in enumerate(zip(sanity.maps, colors, strict=True)):
        one = rows[rows["map"] == kind].set_index("change").loc[list(sanity.changes)]
        places = np.arange(len(one)) + 0.16 * (shift - 0.5)
        looks = {"fmt": "o", "ms": 3, "lw": 0.8, "color": color, "label": kind}
        axis.errorbar(places, one["value"], yerr=spread(one), **looks)
        chain = (one["kind"] == "weights") | (one.index == UNCHANGED)
        axis.plot(places[chain], one["value"][chain], color=color, lw=0.6)
    axis.axvline(len(sanity.changes) - 2.5, color="0.7", lw=0.8, ls=":")  # then the words
    axis.axhline(0, color="0.85", lw=0.6, zorder=0)
    axis.set_xticks(
        range(len(sanity.changes)), _labels(sanity.changes), fontsize=6, rotation=60, ha="right",
        rotation_mode="anchor",
    )  # fmt: skip
    axis.tick_params(axis="y", labelsize=6)
    axis.set_ylabel(label, fontsize=7)
