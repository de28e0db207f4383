"""Every method in one picture: AUC, pointing game and what its training cost."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rctpl_utils.baselines.report import COSTS, cost_file
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.bootstrap_samples import Draws, load_draws
from rctpl_utils.evaluation.metrics import named_interval
from rctpl_utils.evaluation.results import BASELINES, write_csv
from rctpl_utils.evaluation.retrieval import OURS
from rctpl_utils.files import read_json
from rctpl_utils.plots import COLUMN_WIDTH
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.prompts.variants import HANDWRITTEN, VARIANTS
from rctpl_utils.reporting.common import finished
from rctpl_utils.workspace import Workspace

GROUPS = ("learned from text alone", "films with reports", "labeled films", "written by hand")
AXES = {"auc": ("table1", "auc"), "pointing_game": ("grounding", "pointing_game")}
_LABELS = {"auc": "AUC, mean over sets", "pointing_game": "pointing game, mean over sets"}
NOTHING = 0.3  # seconds at which methods without training are drawn on the logarithmic axis


def method_map(workspace: Workspace) -> pd.DataFrame:
    """For each method its mean AUC and pointing game over the data sets, and its cost.

    A resample of the mean takes one resample of each data set; their patients differ, so the sets
    are independent.

    Returns:
        method, group, seconds (a seed; 0 without training), auc and pointing_game with intervals;
        NaN where a method has no such row.

    Raises:
        InputError: a notebook that leaves draws or costs has not run.
    """
    costs = training_costs(workspace)
    names = [*HANDWRITTEN, *OURS, *(name for name in costs.index if name not in OURS)]
    draws = {file: load_draws(workspace.results, file) for file, _ in AXES.values()}
    rows = []
    for name in names:
        seconds = costs["seconds"].get(name, 0.0)
        row = {"method": name, "group": _group(name, costs), "seconds": seconds}
        for column, (file, metric) in AXES.items():
            found = _mean_over_sets(draws[file], name, metric)
            row |= {f"{column}_{part}": value for part, value in found.items()}
        rows.append(row)
    table = pd.DataFrame(rows)
    write_csv(workspace.figures / "method_map.csv", table)
    return table


def training_costs(workspace: Workspace) -> pd.DataFrame:
    """The costs of all trained methods: what notebooks 04b and 04c left, then RC-TPL's (04).

    Returns:
        by method: the columns of `baselines.report.save_costs`.

    Raises:
        InputError: a notebook that writes a part has not run.
    """
    rows = [row for part in COSTS for row in _read_costs(workspace, part)]
    rows += [_prompt_cost(workspace, *each) for each in zip(OURS, VARIANTS, strict=True)]
    return pd.DataFrame(rows).set_index("method")


def _read_costs(workspace: Workspace, part: str) -> list[dict[str, object]]:
    path = cost_file(workspace, part)
    if not path.exists():
        raise InputError("no training costs there", f"Run notebook {COSTS[part]} first.", file=path)
    return pd.read_csv(path).to_dict("records")


def _prompt_cost(workspace: Workspace, name: str, variant: str) -> dict[str, object]:
    seeds, folder = workspace.profile.seeds, workspace.prompts
    histories = [read_json(folder / f"{variant}-{seed}.history.json")["history"] for seed in seeds]
    seconds = [history[-1]["seconds"] for history in histories]
    prompts = folder / f"{variant}-{seeds[0]}.safetensors"
    return {
        "method": name,
        "parameters": Prompts.load(prompts).parameters,
        "views": 0,
        "tokens": 0,
        "labeled images a class": 0,
        "seconds": float(np.mean(seconds)),
    }


def _group(name: str, costs: pd.DataFrame) -> str:
    if name in HANDWRITTEN:
        return GROUPS[3]
    if costs.loc[name, "labeled images a class"] > 0:
        return GROUPS[2]
    return GROUPS[1] if name in BASELINES else GROUPS[0]


def _mean_over_sets(draws: Draws, method: str, metric: str) -> dict[str, float]:
    series = [values for key, values in draws.items() if key[1:] == (method, metric)]
    if not series:
        return dict.fromkeys(("value", "ci_low", "ci_high"), np.nan)
    return named_interval(np.mean(series, axis=0))


def save_method_map(workspace: Workspace, table: pd.DataFrame) -> Figure:
    """Draw `method_map`: two panels over the training seconds, a number for each method."""
    figure, axes = plt.subplots(
        1, 2, figsize=(COLUMN_WIDTH, 3.6), layout="constrained", sharex=True
    )
    colors = dict(zip(GROUPS, sns.color_palette("colorblind"), strict=False))
    markers = dict(zip(GROUPS, "Dos^", strict=True))
    for axis, column in zip(axes, AXES, strict=True):
        for number, row in enumerate(table.to_dict("records"), start=1):
            _draw(axis, number, row, column, colors[row["group"]], markers[row["group"]])
        axis.set(xscale="log")
        axis.set_ylabel(_LABELS[column], fontsize=8)
        axis.set_xlabel("training of one seed, seconds by the clock", fontsize=8)
        axis.tick_params(labelsize=7)
    handles = [
        plt.Line2D([], [], color=colors[group], marker=markers[group], ls="", ms=5, label=group)
        for group in GROUPS
        if group in set(table["group"])
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=7)
    return finished(workspace, figure, "method_map", _note(table["method"]), 155)


def _draw(
    axis: Axes, number: int, row: dict, column: str, color: Sequence[float], marker: str
) -> None:
    value = row[f"{column}_value"]
    if np.isnan(value):
        return
    spread = [[value - row[f"{column}_ci_low"]], [row[f"{column}_ci_high"] - value]]
    place = row["seconds"] or NOTHING
    axis.errorbar(place, value, yerr=spread, fmt=marker, ms=4, lw=0.6, color=color, alpha=0.9)
    axis.annotate(
        str(number), (place, value), xytext=(3, 3), textcoords="offset points", fontsize=6
    )


def _note(methods: Sequence[str]) -> str:
    listed = ", ".join(f"{number} {name}" for number, name in enumerate(methods, start=1))
    return (
        f"{listed}. Bars: 95 % intervals over patients and seeds. "
        f"Without training: drawn at {NOTHING} s. Cached features of frozen layers cost extra, the "
        "frozen encoder's pre-training too; no cost of reports, films or labels is in it. Clock "
        "times, other notebooks running beside: magnitudes, not benchmarks."
    )
