"""Figures: color-blind safe, legible at column width, PDF beside PNG."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from rctpl_utils.files import atomic_path, read_json
from rctpl_utils.workspace import PACKAGE_DATA

COLUMN_WIDTH = 7.0  # inches: two columns of the paper's layout
UNSEEN_COLOR = "#D55E00"  # vermillion of the Okabe-Ito palette
MASK_COLOR = "#56B4E9"  # Okabe-Ito sky blue: a drawn lesion on a gray film
REGION_COLOR = "#F0E442"  # Okabe-Ito yellow: a predicted region
TEXT = 7  # points: the smallest text, at a width of `COLUMN_WIDTH`
CAPTION_WIDTH = 130  # characters of `TEXT` points in a line
MARKERS = "osD^vP"
WORDS = read_json(PACKAGE_DATA / "names.json")  # how a reader knows what tables name shortly
NAMES = WORDS["names"]  # of data sets and metrics


def save_figure(figure: Figure, stem: Path) -> None:
    """Write `stem.png` (200 dpi) and `stem.pdf`, uncropped, atomically, without a time stamp."""
    figure.draw_without_rendering()  # a first pass of the layout: legends and captions take room
    for suffix, stamp in ((".png", "Software"), (".pdf", "CreationDate")):
        with atomic_path(stem.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, dpi=200, metadata={stamp: None})


def caption(figure: Figure, words: str) -> None:
    """Write what a figure shows below it, in lines as wide as `COLUMN_WIDTH`."""
    lines = fill(words, CAPTION_WIDTH, break_on_hyphens=False)
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=TEXT)


def panels(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of `COLUMN_WIDTH` x `height` inches and its axes (rows, columns), made `small`."""
    size = (COLUMN_WIDTH, height)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, layout="constrained", squeeze=False, **options
    )
    small(*axes.flat)
    return figure, axes


def small(*axes: Axes) -> None:
    """Labels and numbers of some axes in `TEXT` points."""
    for axis in axes:
        axis.tick_params(labelsize=TEXT)
        axis.xaxis.label.set_size(TEXT)
        axis.yaxis.label.set_size(TEXT)


def spread(rows: pd.DataFrame) -> np.ndarray:
    """How far the intervals of rows reach below and above their values, (2, n)."""
    return np.abs(rows[["ci_low", "ci_high"]].sub(rows["value"], axis=0).to_numpy(float).T)


def legend_above(figure: FigureBase, handles: Sequence[Any], columns: int) -> None:
    """A figure's one legend, above its panels."""
    figure.legend(
        handles=handles, loc="outside upper center", ncols=columns, fontsize=TEXT, frameon=False
    )


def rule_lines(axis: Axes) -> None:
    """A faint line for each row of an axis whose rows have names."""
    axis.grid(axis="y", color="0.92", lw=0.6)
    axis.set_axisbelow(True)


def learning_curves(curves: pd.DataFrame) -> Figure:
    """Ranking losses by epoch, one line a seed.

    Columns are variant, seed, epoch, seconds, report_loss, concept_loss and validation_*_loss.
    """
    rows = curves.drop(columns="seconds").melt(
        ["variant", "seed", "epoch"], var_name="name", value_name="loss"
    )
    held_out = rows["name"].str.startswith("validation_")
    branch = rows["name"].str.removeprefix("validation_").str.removesuffix("_loss")
    rows = rows.assign(branch=branch, part=np.where(held_out, "validation", "training"))
    grid = sns.relplot(
        rows, x="epoch", y="loss", hue="variant", style="part", col="branch", kind="line",
        units="seed", estimator=None, palette="colorblind", height=2.8, aspect=1.2,
        facet_kws={"sharey": False},
    )  # fmt: skip
    grid.set_axis_labels("epoch", "ranking loss")
    return grid.figure


def per_class_auc(
    rows: pd.DataFrame, methods: list[str], unseen: dict[str, set], rivals: Sequence[str]
) -> Figure:
    """Figure 3: AUC with 95 % intervals by class, one panel a data set; unseen classes in color.

    Rivals are one gray bar from the lowest to the highest, a tick at the median.
    """
    datasets = rows["dataset"].unique()
    most = rows.groupby("dataset")["concept"].nunique().max()
    figure, axes = panels(1, len(datasets), 0.36 * most + 1.4)
    looks = list(zip(sns.color_palette("colorblind", len(methods)), MARKERS, strict=False))
    for axis, dataset in zip(axes[0], datasets, strict=True):
        part = rows[rows["dataset"] == dataset]
        part = part.pivot(index="concept", columns="method").loc[part["concept"].unique()]
        places = np.arange(len(part))
        if rivals:
            values = part["value"][list(rivals)]
            low, high = values.min(axis=1), values.max(axis=1)
            label = f"{len(rivals)} baselines: lowest to highest, median"
            axis.barh(places, high - low, left=low, height=0.86, color="0.88", label=label)
            axis.use_sticky_edges = False  # room beyond the lowest
            axis.vlines(values.median(axis=1), places - 0.43, places + 0.43, color="0.45", lw=1.2)
        shifts = np.linspace(-0.32, 0.32, len(methods))
        for method, (color, marker), shift in zip(methods, looks, shifts, strict=False):
            one = part.xs(method, axis=1, level="method")
            axis.errorbar(one["value"], places + shift, xerr=spread(one), fmt=marker, ms=2.8,
                          lw=0.8, color=color, label=method)  # fmt: skip
        axis.axvline(0.5, color="0.4", lw=0.8, ls=":", zorder=0)
        axis.set_yticks(places, part.index)
        for label in axis.get_yticklabels():
            if label.get_text() in unseen.get(dataset, set()):
                label.set_color(UNSEEN_COLOR)
        axis.set_ylim(len(part) - 0.5, -0.5)
        for place in places[1:]:
            axis.axhline(place - 0.5, color="0.9", lw=0.5, zorder=0)
        axis.set_title(NAMES[dataset], fontsize=9)
        axis.set_xlabel("AUC (dotted: 0.5, chance)", fontsize=8)
        axis.tick_params(axis="y", length=0)
    legend_above(figure, axes[0, 0].get_legend_handles_labels()[0], 3)
    return figure
