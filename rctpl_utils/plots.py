"""Figures: color-blind safe, legible at column width, PDF beside PNG."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from rctpl_utils.files import atomic_path

COLUMN_WIDTH = 7.0  # inches: two columns of the paper's layout
UNSEEN_COLOR = "#D55E00"  # vermillion of the Okabe-Ito palette
MASK_COLOR = "#56B4E9"  # Okabe-Ito sky blue: a drawn lesion on a gray film
REGION_COLOR = "#F0E442"  # Okabe-Ito yellow: a predicted region


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem.png` (200 dpi) and `stem.pdf`, atomically, without a time stamp."""
    targets = [stem.with_suffix(".png"), stem.with_suffix(".pdf")]
    for target, notes in zip(targets, ({"Software": None}, {"CreationDate": None}), strict=True):
        with atomic_path(target) as temporary:
            figure.savefig(temporary, dpi=200, bbox_inches="tight", metadata=notes)
    return targets


def spread(rows: pd.DataFrame) -> np.ndarray:
    """How far the intervals of rows reach below and above their values, (2, n)."""
    ends = rows[["ci_low", "ci_high"]].to_numpy(float).T
    return np.abs(ends - rows["value"].to_numpy(float))


def learning_curves(history: pd.DataFrame) -> Figure:
    """Ranking losses by epoch, training and validation, one line a seed.

    Args:
        history: columns variant, seed, epoch, branch, part ("training", "validation"), loss.
    """
    grid = sns.relplot(
        history, x="epoch", y="loss", hue="variant", style="part", col="branch", kind="line",
        units="seed", estimator=None, palette="colorblind", height=2.8, aspect=1.2,
        facet_kws={"sharey": False},
    )  # fmt: skip
    grid.set_axis_labels("epoch", "ranking loss")
    return grid.figure


RIVAL_MARKERS = ("v", "^", "<", ">", "s", "D", "P", "X")


def per_class_auc(
    rows: pd.DataFrame,
    methods: list[str],
    unseen: dict[str, set],
    note: str,
    rivals: Sequence[str] = (),
) -> Figure:
    """Figure 3: AUC with 95 % intervals by class, one panel a data set; unseen classes in color.

    Args:
        rows: per-class rows of `classification.evaluate`.
        methods: which methods to draw, in order.
        unseen: for each data set the classes to mark.
        note: stands under the figure (what the numbers were measured on).
        rivals: methods drawn in gray, a marker each, without intervals.
    """
    datasets = list(dict.fromkeys(rows["dataset"]))
    heights = [rows.loc[rows["dataset"] == d, "concept"].nunique() for d in datasets]
    figure, axes = plt.subplots(
        1, len(datasets), figsize=(COLUMN_WIDTH, 0.27 * max(heights) + 1.1), layout="constrained"
    )
    colors = sns.color_palette("colorblind", len(methods))
    for axis, dataset in zip(np.atleast_1d(axes), datasets, strict=True):
        part = rows[(rows["dataset"] == dataset) & rows["method"].isin(methods)]
        concepts = list(dict.fromkeys(part["concept"]))
        offsets = np.linspace(-0.28, 0.28, len(methods))
        for method, color, offset in zip(methods, colors, offsets, strict=True):
            one = part[part["method"] == method].set_index("concept").loc[concepts]
            places = np.arange(len(concepts)) + offset
            looks = {"fmt": "o", "ms": 3, "lw": 0.8, "color": color, "label": method}
            axis.errorbar(one["value"], places, xerr=spread(one), **looks)
        for rival, marker in zip(rivals, RIVAL_MARKERS, strict=False):
            one = rows[(rows["dataset"] == dataset) & (rows["method"] == rival)]
            values = one.set_index("concept")["value"].reindex(concepts)
            axis.plot(
                values, range(len(concepts)), marker, ms=2.5, color="0.55", mew=0, zorder=1,
                label=rival,
            )  # fmt: skip
        axis.set_yticks(range(len(concepts)), concepts, fontsize=7)
        for label in axis.get_yticklabels():
            if label.get_text() in unseen.get(dataset, set()):
                label.set_color(UNSEEN_COLOR)
        axis.axvline(0.5, color="0.7", lw=0.8, ls=":")
        axis.invert_yaxis()
        axis.set_title(dataset, fontsize=9)
        axis.set_xlabel("AUC", fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=min(5, len(labels)), fontsize=7
    )
    figure.supxlabel(note, fontsize=6)
    return figure


def melt_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Learning curves from one column a loss to one row a loss: branch, part, loss.

    Args:
        curves: columns variant, seed, epoch, seconds, report_loss, concept_loss and
            validation_*_loss.
    """
    rows = curves.drop(columns="seconds").melt(
        ["variant", "seed", "epoch"], var_name="name", value_name="loss"
    )
    held_out = rows["name"].str.startswith("validation_")
    branch = rows["name"].str.removeprefix("validation_").str.removesuffix("_loss")
    return rows.assign(branch=branch, part=np.where(held_out, "validation", "training"))
