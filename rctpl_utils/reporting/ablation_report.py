"""What notebook 08 writes: ablations.csv, Figure 4, and the figure of the other ablations."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rctpl_utils.evaluation import ablations as arms
from rctpl_utils.evaluation.ablations import (
    CLASSIFIED,
    GROUNDED,
    LENGTHS,
    POOLING_REPORTS,
    REFERENCE,
)
from rctpl_utils.evaluation.metrics import holm, named_interval, paired_p_value
from rctpl_utils.evaluation.results import NOT_RUN, Draws, save_draws, write_csv
from rctpl_utils.plots import COLUMN_WIDTH, TEXT, WORDS, panels, rule_lines, small, spread
from rctpl_utils.reporting.common import ALPHA, finished
from rctpl_utils.workspace import Workspace

MEASURED = (*((name, "auc") for name in CLASSIFIED), (GROUNDED, "pointing_game"))
_DIFFERENCE = ("difference", "diff_low", "diff_high")
_COLUMNS = (
    "factor", "level", "dataset", "metric", "value", "ci_low", "ci_high", *_DIFFERENCE, "p_value",
    "p_holm",
)  # fmt: skip
UNSEEN = (*CLASSIFIED[1:], GROUNDED)
# What a factor cannot change, by construction, is left out of its rows.
UNTOUCHED = {"tau_c at test": ("covid-rural",), "unseen disease": ("chexpert",)}


def save_ablations(
    workspace: Workspace, draws: Draws, seconds: pd.DataFrame, available: int
) -> pd.DataFrame:
    """Write ablations.csv (returned) and the draws (`ablations.score_trials`).

    Differences are to the factor's reference on the same resamples, Holm-corrected over all; rows
    without draws are empty. `seconds` (label, seed, seconds) are this machine's; `available` is the
    number of training reports.
    """
    rows, there = [], {dataset for dataset, *_ in draws}
    for factor, labels in arms.factors(available).items():
        for dataset, metric in MEASURED:
            if dataset in UNTOUCHED.get(factor, ()):
                continue
            for label in labels:
                row = {"factor": factor, "level": label, "dataset": dataset, "metric": metric}
                rows.append(row)
                if dataset not in there:
                    continue
                base, series = (draws[dataset, each, metric] for each in (labels[0], label))
                row |= named_interval(series)
                if label != labels[0]:
                    change = named_interval(series - base, None)
                    row |= dict(zip(_DIFFERENCE, change.values(), strict=True))
                    row["p_value"] = paired_p_value(series - base)
    table = pd.DataFrame(rows).reindex(columns=list(_COLUMNS))
    compared = table["p_value"].notna()
    table.loc[compared, "p_holm"] = holm(table.loc[compared, "p_value"].to_numpy())
    times = seconds.groupby("label", sort=False)["seconds"].mean()
    levels = [f"M={m}" for m in LENGTHS]
    timed = pd.DataFrame({"level": levels, "value": times[levels].to_numpy()})
    timed = timed.assign(factor="prompt length M", metric="training_seconds")
    count = len(workspace.profile.seeds)
    table = pd.concat([table, timed], ignore_index=True).assign(seeds=count)
    save_draws(workspace.results, "ablations", draws)
    write_csv(workspace.figures / "ablations.csv", table)
    return table


def figure4(workspace: Workspace, table: pd.DataFrame) -> Figure:
    """Figure 4: M and branches on CheXpert; kinds of knowledge on the unseen disease."""
    figure, axes = plt.subplot_mosaic(
        [["auc", *UNSEEN], ["seconds", *UNSEEN]], figsize=(COLUMN_WIDTH, 3.7),
        layout="constrained", width_ratios=(1.5, 1, 1, 1), height_ratios=(2, 1),
    )  # fmt: skip
    small(*axes.values())
    _draw_lengths(axes["auc"], axes["seconds"], table)
    for dataset in UNSEEN:
        part = table[(table["factor"] == "knowledge") & (table["dataset"] == dataset)]
        _draw_levels(axes[dataset], part.set_index("level").loc[list(arms.KNOWLEDGE)], dataset)
        axes[dataset].invert_yaxis()
        axes[dataset].tick_params(labelleft=dataset == UNSEEN[0])
    note = (
        "Left: whether AUC gains from longer prompts or from both branches together, and what "
        "training costs (below, by the clock). Right: what the descriptions are made of: the bare "
        "name, “a photo of” it, a language model's text, our own knowledge base as one clause, and "
        "the same as short sentences without or with the report's location. Mean of "
        f"{len(workspace.profile.seeds)} seeds, bars: 95 % intervals over patients and seeds; "
        "hollow: the reference. Shorter training than for Table 1, the same for every point."
    )
    return finished(workspace, figure, "fig4", note)


def other_ablations(workspace: Workspace, table: pd.DataFrame) -> Figure:
    """Beyond the paper: every other factor, on the three measures; the reference is hollow."""
    shown = table[~table["factor"].isin(["prompt length M", "branch", "knowledge"])]
    shown = shown[shown["dataset"].notna()]
    levels = list(dict.fromkeys(shown["level"]))
    figure, (axes,) = panels(1, len(MEASURED), 0.19 * len(levels) + 0.9, sharey=True)
    first = shown.groupby("factor", sort=False)["level"].first()
    for axis, (dataset, _) in zip(axes, MEASURED, strict=True):
        part = shown[shown["dataset"] == dataset].set_index("level").reindex(levels)
        _draw_levels(axis, part, dataset)
        for level in first[1:]:
            axis.axhline(levels.index(level) - 0.5, color="0.5", lw=0.8)
    axes[0].invert_yaxis()
    note = (
        "In each group compare with its first line, the reference (hollow): all training reports, "
        f"but in the group on pooling up to {POOLING_REPORTS} reports for both. 95 % intervals "
        "over patients and seeds; an empty place: what the factor cannot change."
    )
    return finished(workspace, figure, "ablations", note)


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """The comparisons whose interval, after Holm's correction, leaves zero out."""
    columns = ["factor", "level", "dataset", "metric", *_DIFFERENCE, "p_holm"]
    return table.loc[table["p_holm"] < ALPHA, columns].reset_index(drop=True)


def _draw_lengths(axis: Axes, below: Axes, table: pd.DataFrame) -> None:
    """AUC by M, with both branches alone beside M = 12; below it the seconds of training."""
    color, other = sns.color_palette("colorblind", 1)[0], "#D55E00"
    own, levels = table[table["factor"] == "prompt length M"], [f"M={m}" for m in LENGTHS]
    auc = own[own["dataset"] == "chexpert"].set_index("level").loc[levels]
    places, at = np.arange(len(LENGTHS)), levels.index(REFERENCE)
    axis.errorbar(places, auc["value"], yerr=spread(auc), fmt="o", ms=3, lw=1, color=color)
    axis.plot(at, auc["value"].iloc[at], "o", ms=3.5, mfc="white", color=color, zorder=3)
    branches = table[(table["factor"] == "branch") & (table["dataset"] == "chexpert")]
    for place, shift, marker in zip((1, 2), (0.3, 0.55), "^v", strict=True):
        row = branches.iloc[[place]]
        label = f"{row['level'].item().removeprefix(f'{REFERENCE}, ')} alone"
        look = {"fmt": marker, "ms": 4, "lw": 0.8, "color": other, "label": label}
        axis.errorbar(at + shift, row["value"], yerr=spread(row), **look)
    axis.set_ylabel(WORDS["ablations"]["chexpert"])
    axis.legend(fontsize=TEXT, loc="lower left", bbox_to_anchor=(-0.02, 1.0), frameon=False)
    _say_absent(axis, auc)
    times = own[own["metric"] == "training_seconds"].set_index("level")["value"]
    below.plot(places, times.loc[levels], "s", ms=3, color="0.3")
    below.set(ylabel="training,\ns a seed", ylim=(0, 1.15 * times.max()), xlabel="prompt length M")
    for each in (axis, below):
        each.set_xticks(places, LENGTHS)
        each.set_xlim(-0.6, len(LENGTHS) - 0.4)
    axis.tick_params(labelbottom=False)


def _draw_levels(axis: Axes, rows: pd.DataFrame, dataset: str) -> None:
    """The levels of factors (the index) below each other; the reference is hollow."""
    look = {"ms": 4, "color": sns.color_palette("colorblind", 1)[0]}
    places, reference = np.arange(len(rows)), rows["difference"].isna().to_numpy()
    names = (WORDS["levels"].get(level, level) for level in rows.index)
    axis.errorbar(rows["value"], places, xerr=spread(rows), fmt="o", lw=1, zorder=2, **look)
    hollow = rows["value"][reference], places[reference]
    axis.plot(*hollow, "o", mfc="white", zorder=3, **look)
    axis.set_yticks(places, [name.replace("{reports}", str(POOLING_REPORTS)) for name in names])
    axis.set_xlabel(WORDS["ablations"][dataset].replace(", ", ",\n"))
    rule_lines(axis)
    _say_absent(axis, rows)


def _say_absent(axis: Axes, rows: pd.DataFrame) -> None:
    if rows["value"].isna().all():
        axis.text(0.5, 0.5, NOT_RUN, transform=axis.transAxes, ha="center", fontsize=9)
