"""What notebook 08 writes: ablations.csv, Figure 4, and the figure of the other ablations."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rctpl_utils.evaluation.ablation_arms import KNOWLEDGE, LENGTHS, REFERENCE, factors
from rctpl_utils.evaluation.ablation_scores import CLASSIFIED, GROUNDED
from rctpl_utils.evaluation.bootstrap_samples import Draws, save_draws
from rctpl_utils.evaluation.metrics import holm, named_interval, paired_p_value
from rctpl_utils.evaluation.results import NOT_RUN, write_csv
from rctpl_utils.plots import COLUMN_WIDTH, spread
from rctpl_utils.reporting.common import ALPHA, finished
from rctpl_utils.workspace import Workspace

MEASURED = (*((name, "auc") for name in CLASSIFIED), (GROUNDED, "pointing_game"))
_COLUMNS = (
    "factor", "level", "dataset", "metric", "value", "ci_low", "ci_high", "difference", "diff_low",
    "diff_high", "p_value", "p_holm",
)  # fmt: skip
TITLES = {
    "chexpert": "CheXpert, macro AUC",
    "covidx-normal": "COVID-19 AUC, against normal",
    "covidx-pneumonia": "COVID-19 AUC, against pneumonia",
    "covid-rural": "COVID Rural, pointing game",
}
UNSEEN = (*CLASSIFIED[1:], GROUNDED)
# What a factor cannot change, by construction, is left out of its rows.
UNTOUCHED = {"tau_c at test": ("covid-rural",), "unseen disease": ("chexpert",)}


def save_ablations(
    workspace: Workspace, draws: Draws, seconds: pd.DataFrame, available: int
) -> pd.DataFrame:
    """Write ablations.csv and the draws; Holm's correction over all comparisons.

    Args:
        draws: from `ablation_scores.score_trials`.
        seconds: label, seed, seconds of training.
        available: number of training reports.

    Returns:
        factor, level, dataset, metric, value with interval, seeds; and, against the factor's
        reference on the same resamples: difference with interval, p_value, p_holm (empty for
        the reference itself). Rows of a data set without draws are empty. Rows of metric
        `training_seconds` are this machine's.
    """
    rows, there = [], {dataset for dataset, *_ in draws}
    for factor, labels in factors(available).items():
        for dataset, metric in MEASURED:
            if dataset in UNTOUCHED.get(factor, ()):
                continue
            for label in labels:
                row = {"factor": factor, "level": label, "dataset": dataset, "metric": metric}
                if dataset not in there:
                    rows.append(row)
                    continue
                base, series = (draws[dataset, each, metric] for each in (labels[0], label))
                row |= named_interval(series)
                if label != labels[0]:
                    change = named_interval(series - base, None)
                    row |= dict(
                        zip(("difference", "diff_low", "diff_high"), change.values(), strict=True)
                    )
                    row["p_value"] = paired_p_value(series - base)
                rows.append(row)
    table = pd.DataFrame(rows).reindex(columns=list(_COLUMNS))
    compared = table["p_value"].notna()
    table.loc[compared, "p_holm"] = holm(table.loc[compared, "p_value"].to_numpy())
    times = seconds.groupby("label", sort=False)["seconds"].mean()
    timed = [
        {"factor": "prompt length M", "level": f"M={m}", "metric": "training_seconds",
         "value": times[f"M={m}"]}
        for m in LENGTHS
    ]  # fmt: skip
    count = len(workspace.profile.seeds)
    table = pd.concat([table, pd.DataFrame(timed)], ignore_index=True).assign(seeds=count)
    save_draws(workspace.results, "ablations", draws)
    write_csv(workspace.figures / "ablations.csv", table)
    return table


def figure4(workspace: Workspace, table: pd.DataFrame) -> Figure:
    """Figure 4: M and branches on CheXpert; kinds of knowledge on the unseen disease."""
    figure, axes = plt.subplots(
        1, 4, figsize=(COLUMN_WIDTH, 2.7), layout="constrained", width_ratios=(1.4, 1, 1, 1)
    )
    _draw_lengths(axes[0], table)
    for axis, dataset in zip(axes[1:], UNSEEN, strict=True):
        part = table[(table["factor"] == "knowledge") & (table["dataset"] == dataset)]
        part = part.set_index("level").loc[list(KNOWLEDGE)].reset_index()
        part = part.assign(level=part["level"].str.removeprefix("knowledge: "))
        _draw_levels(axis, part)
        axis.invert_yaxis()
        axis.set_xlabel(TITLES[dataset].replace(", ", ",\n"), fontsize=7)
        _say_absent(axis, part)
    for axis in axes[2:]:
        axis.set_yticklabels([])
    note = (
        f"Mean of {len(workspace.profile.seeds)} seeds, bars: 95 % intervals over patients "
        "and seeds;\nhollow: the reference. Shorter training than for Table 1, the same "
        "for every point."
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
    for axis, (dataset, _) in zip(axes, MEASURED, strict=True):
        part = shown[shown["dataset"] == dataset].set_index("level").reindex(levels)
        _draw_levels(axis, part.reset_index())
        _say_absent(axis, part)
        axis.set_xlabel(TITLES[dataset].replace(", ", ",\n"), fontsize=7)
        starts = [
            levels.index(each) for each in shown.groupby("factor", sort=False)["level"].first()
        ]
        for start in starts[1:]:
            axis.axhline(start - 0.5, color="0.85", lw=0.6)
    axes[0].invert_yaxis()
    note = "Hollow: the reference of its group. 95 % intervals over patients and seeds."
    return finished(workspace, figure, "ablations", note)


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """The comparisons whose interval, after Holm's correction, leaves zero out."""
    sure = table[table["p_holm"] < ALPHA]
    return sure[["factor", "level", "dataset", "metric", "difference", "diff_low", "diff_high",
                 "p_holm"]].reset_index(drop=True)  # fmt: skip


def _draw_lengths(axis: Axes, table: pd.DataFrame) -> None:
    color, gray = sns.color_palette("colorblind", 1)[0], "0.55"
    own = table["factor"] == "prompt length M"
    auc = table[own & (table["dataset"] == "chexpert")].set_index("level")
    auc = auc.loc[[f"M={m}" for m in LENGTHS]]
    places = np.arange(len(LENGTHS))
    axis.errorbar(places, auc["value"], yerr=spread(auc), fmt="o-", ms=3, lw=1, color=color)
    branches = table[(table["factor"] == "branch") & (table["dataset"] == "chexpert")]
    at = LENGTHS.index(int(REFERENCE.removeprefix("M=")))
    for marker, row in zip("^v", branches[1:].itertuples(), strict=True):
        label = row.level.removeprefix(f"{REFERENCE}, ")
        axis.plot(at, row.value, marker, ms=5, color="#D55E00", label=f"{label} alone")
    axis.set_xticks(places, LENGTHS, fontsize=7)
    axis.set_xlabel("prompt length M", fontsize=7)
    axis.set_ylabel(TITLES["chexpert"], fontsize=7, color=color)
    axis.tick_params(axis="y", labelsize=7)
    axis.legend(fontsize=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    times = table[own & (table["metric"] == "training_seconds")].set_index("level")["value"]
    _say_absent(axis, auc)
    twin = axis.twinx()
    twin.plot(places, times.loc[auc.index], "s--", ms=2.5, lw=0.8, color=gray)
    twin.set_ylabel("training, s a seed", fontsize=7, color=gray)
    twin.set_ylim(bottom=0)
    twin.tick_params(axis="y", labelsize=7)


def _draw_levels(axis: Axes, rows: pd.DataFrame) -> None:
    color = sns.color_palette("colorblind", 1)[0]
    places = np.arange(len(rows))
    axis.errorbar(
        rows["value"], places, xerr=spread(rows), fmt="o", ms=4, lw=1, color=color, zorder=2
    )
    reference = rows["difference"].isna().to_numpy()
    hollow = {"ms": 4, "mfc": "white", "color": color, "zorder": 3}
    axis.plot(rows["value"][reference], places[reference], "o", **hollow)
    axis.set_yticks(places, rows["level"], fontsize=7)
    axis.tick_params(axis="x", labelsize=7)


def _say_absent(axis: Axes, rows: pd.DataFrame) -> None:
    if rows["value"].isna().all():
        axis.text(0.5, 0.5, NOT_RUN, transform=axis.transAxes, ha="center", fontsize=9)
