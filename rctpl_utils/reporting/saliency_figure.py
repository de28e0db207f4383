"""The figure of `saliency_sanity`: maps under every change, and how far they follow it."""

from collections.abc import Sequence

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
from rctpl_utils.plots import COLUMN_WIDTH, TEXT, spread
from rctpl_utils.reporting.common import finished
from rctpl_utils.reporting.film_drawing import draw_map
from rctpl_utils.workspace import Workspace


def save_saliency_figure(workspace: Workspace, sanity: Sanity, name: str) -> Figure:
    """Write `saliency_sanity`: the first film's maps under every change, and the curves.

    Args:
        name: of the method, for the caption.
    """
    figure = plt.figure(figsize=(COLUMN_WIDTH, 4.9), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.55))
    axes = top.subplots(len(sanity.maps), len(sanity.changes))
    for line, (kind, maps) in zip(axes, sanity.maps.items(), strict=True):
        heats = stretch(on_film(torch.from_numpy(maps), sanity.mask.shape)).numpy()
        for axis, heat in zip(line, heats, strict=True):
            draw_map(axis, sanity.pixels, heat, sanity.mask)
        line[0].set_ylabel(kind, fontsize=TEXT)
    for axis, label in zip(axes[0], _labels(sanity.changes), strict=True):
        axis.set_title(label, fontsize=TEXT, pad=2)
    left, right = bottom.subplots(1, 2)
    _draw_curve(left, sanity, "similarity", "rank correlation with the unchanged map")
    _draw_curve(right, sanity, "pointing_game", "pointing game (share of boxes hit)")
    handles, labels = left.get_legend_handles_labels()
    bottom.legend(
        handles, labels, loc="outside upper center", ncols=2, fontsize=TEXT, frameon=False
    )
    last = len(_layers(sanity.changes))
    note = (
        f"Both maps should fall as layers become random, and differ for other words. {name}, "
        f"first seed; {SAMPLE} test films with boxes, spread evenly by image identifier; the first "
        f"of them above ({sanity.concept.lower()}). 1 to {last}: that many of the image tower's "
        f"{last} layers are random, counted from the output, {len(SEEDS)} draws; other, none: the "
        "weights as they are, but another class's name, or a nonsense word. Bars: 95 % "
        "intervals. Maps are stretched to their own range, since ranks are compared; blue: box; "
        f"cross: the map's maximum, filled in the box. Of the words: {sanity.verdict}"
    )
    return finished(workspace, figure, "saliency_sanity", note)


def _layers(changes: Sequence[str]) -> list[str]:
    """The changes that make one more layer random, from the output's side on."""
    return [each for each in changes if each not in (UNCHANGED, SHUFFLED, NO_WORD)]


def _labels(changes: Sequence[str]) -> list[str]:
    """Short names: how many layers are random, or what stands for the class's name."""
    numbers = {name: str(k) for k, name in enumerate(_layers(changes), start=1)}
    names = {UNCHANGED: "0", SHUFFLED: "other", NO_WORD: "none", **numbers}
    return [names[each] for each in changes]


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
    axis.set_xticks(range(len(sanity.changes)), _labels(sanity.changes))
    axis.set_xlabel("random layers, from the output | other words", fontsize=TEXT)
    axis.tick_params(labelsize=TEXT)
    axis.set_ylabel(label, fontsize=TEXT)
