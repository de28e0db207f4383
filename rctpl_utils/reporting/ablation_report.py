"""What notebook 08 writes: ablations.csv, Figure 4, and the figure of the other ablations."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rctpl_utils.evaluation.ablations import (
    CLASSIFIED,
    CLS_POOLED,
    GROUNDED,
    KNOWLEDGE,
    LENGTHS,
    POOLING_REPORTS,
    REFERENCE,
    factors,
)
from rctpl_utils.evaluation.metrics import holm, named_interval, paired_p_value
from rctpl_utils.evaluation.results import NOT_RUN, Draws, save_draws, write_csv
from rctpl_utils.plots import COLUMN_WIDTH, TEXT, rule_lines, spread
from rctpl_utils.reporting.common import ALPHA, finished
from rctpl_utils.workspace import Workspace

MEASURED = (*((name, "auc") for name in CLASSIFIED), (GROUNDED, "pointing_game"))
_DIFFERENCE = ("difference", "diff_low", "diff_high")
_COLUMNS = (
    "factor", "level", "dataset", "metric", "value", "ci_low", "ci_high", *_DIFFERENCE, "p_value",
    "p_holm",
)  # fmt: skip
TITLES = {
    "chexpert": "CheXpert, macro AUC",
    "covidx-normal": "COVID-19 AUC, against normal",
    "covidx-pneumonia": "COVID-19 AUC, against pneumonia",
    "covid-rural": "COVID Rural, pointing game",
}
_SAMPLE = f"up to {POOLING_REPORTS} reports"
LABELS = {  # levels that their short names do not explain
    **dict(
        zip(
            KNOWLEDGE,
            ("none: bare name", "general:\na photo of ...", "language model",
             "knowledge base,\none clause", "knowledge base,\nwithout location",
             "knowledge base,\nwith location"),
            strict=True,
        )
    ),
    "pooling: mean": f"pooling: mean, {_SAMPLE}", CLS_POOLED: f"{CLS_POOLED}, {_SAMPLE}",
}  # fmt: skip
UNSEEN = (*CLASSIFIED[1:], GROUNDED)
# What a factor cannot change, by construction, is left out of its rows.
UNTOUCHED = {"tau_c at test": ("covid-rural",), "unseen disease": ("chexpert",)}


def save_ablations(
    workspace: Workspace, draws: Draws, seconds: pd.DataFrame, available: int
) -> pd.DataFrame:
    """Write ablations.csv and the draws (`ablations.score_trials`); return the rows.

    Differences are those to the factor's reference on the same resamples (empty for the reference
    itself), with Holm's correction over all comparisons. Rows of a data set without draws are
    empty. Rows of metric `training_seconds` are this machine's, from `seconds` (label, seed,
    seconds); `available` is the number of training reports.
    """
    rows, there = [], {dataset for dataset, *_ in draws}
    for factor, labels in factors(available).items():
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
    _draw_lengths(axes["auc"], axes["seconds"], table)
    for dataset in UNSEEN:
        part = table[(table["factor"] == "knowledge") & (table["dataset"] == dataset)]
        part = part.set_index("level").loc[list(KNOWLEDGE)].reset_index()
        _draw_levels(axes[dataset], part, dataset)
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
    figure, axes = plt.subplots(
        1, len(MEASURED), figsize=(COLUMN_WIDTH, 0.19 * len(levels) + 0.9),
        layout="constrained", sharey=True,
    )  # fmt: skip
    first = shown.groupby("factor", sort=False)["level"].first()
    for axis, (dataset, _) in zip(axes, MEASURED, strict=True):
        part = shown[shown["dataset"] == dataset].set_index("level").reindex(levels)
        _draw_levels(axis, part.reset_index(), dataset)
        for level in first[1:]:
            axis.axhline(levels.index(level) - 0.5, color="0.5", lw=0.8)
    axes[0].invert_yaxis()
    note = (
        "In each group compare with its first line, the reference (hollow): all training reports, "
        f"but in the group on pooling {_SAMPLE} for both. 95 % intervals over patients and seeds; "
        "an empty place: what the factor cannot change."
    )
    return finished(workspace, figure, "ablations", note)


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """The comparisons whose interval, after Holm's correction, leaves zero out."""
    columns = ["factor", "level", "dataset", "metric", *_DIFFERENCE, "p_holm"]
    return table.loc[table["p_holm"] < ALPHA, columns].reset_index(drop=True)


def _draw_lengths(axis: Axes, below: Axes, table: pd.DataFrame) -> None:
    """AUC by M, with both branches alone beside M = 12; below it the seconds of training."""
    color, other = sns.color_palette("colorblind", 1)[0], "#D55E00"
    own = table["factor"] == "prompt length M"
    auc = table[own & (table["dataset"] == "chexpert")].set_index("level")
    auc = auc.loc[[f"M={m}" for m in LENGTHS]]
    places = np.arange(len(LENGTHS))
    axis.errorbar(places, auc["value"], yerr=spread(auc), fmt="o", ms=3, lw=1, color=color)
    at = LENGTHS.index(int(REFERENCE.removeprefix("M=")))
    axis.plot(at, auc["value"].iloc[at], "o", ms=3.5, mfc="white", color=color, zorder=3)
    branches = table[(table["factor"] == "branch") & (table["dataset"] == "chexpert")]
    for shift, marker, (_, row) in zip((0.3, 0.55), "^v", branches[1:].iterrows(), strict=True):
        label = f"{row['level'].removeprefix(f'{REFERENCE}, ')} alone"
        axis.errorbar(
            at + shift, row["value"], yerr=spread(row.to_frame().T), fmt=marker, ms=4, lw=0.8,
            color=other, label=label,
        )  # fmt: skip
    axis.set_ylabel(TITLES["chexpert"], fontsize=TEXT)
    axis.legend(fontsize=TEXT, loc="lower left", bbox_to_anchor=(-0.02, 1.0), frameon=False)
    _say_absent(axis, auc)
    times = table[own & (table["metric"] == "training_seconds")].set_index("level")["value"]
    below.plot(places, times.loc[auc.index], "s", ms=3, color="0.3")
    below.set_ylabel("training,\ns a seed", fontsize=TEXT)
    below.set_ylim(0, 1.15 * times.max())
    below.set_xlabel("prompt length M", fontsize=TEXT)
    for each in (axis, below):
        each.set_xticks(places, LENGTHS)
        each.set_xlim(-0.6, len(LENGTHS) - 0.4)
        each.tick_params(labelsize=TEXT, labelbottom=each is below)


def _draw_levels(axis: Axes, rows: pd.DataFrame, dataset: str) -> None:
    """The levels of factors below each other; the reference is hollow."""
    color = sns.color_palette("colorblind", 1)[0]
    places = np.arange(len(rows))
    axis.errorbar(
        rows["value"], places, xerr=spread(rows), fmt="o", ms=4, lw=1, color=color, zorder=2
    )
    reference = rows["difference"].isna().to_numpy()
    hollow = {"ms": 4, "mfc": "white", "color": color, "zorder": 3}
    axis.plot(rows["value"][reference], places[reference], "o", **hollow)
    names = rows["level"].map(lambda level: LABELS.get(level, level))
    axis.set_yticks(places, names, fontsize=TEXT)
    axis.set_xlabel(TITLES[dataset].replace(", ", ",\n"), fontsize=TEXT)
    rule_lines(axis)
    _say_absent(axis, rows)


def _say_absent(axis: Axes, rows: pd.DataFrame) -> None:
    if rows["value"].isna().all():
        axis.text(0.5, 0.5, NOT_RUN, transform=axis.transAxes, ha="center", fontsize=9)
