"""Every method in one picture: AUC, pointing game and what its training cost."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from rctpl_utils.baselines.report import COSTS, cost_file
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.metrics import named_interval
from rctpl_utils.evaluation.results import BASELINES, Draws, load_draws, write_csv
from rctpl_utils.evaluation.retrieval import OURS
from rctpl_utils.files import read_json
from rctpl_utils.plots import MARKERS, NAMES, TEXT, legend_above, panels, rule_lines, spread
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.prompts.variants import HANDWRITTEN, VARIANTS
from rctpl_utils.reporting.claims import invalid_instrument
from rctpl_utils.reporting.common import finished
from rctpl_utils.workspace import Workspace

GROUPS = ("learned from text alone", "films with reports", "labeled films", "written by hand")
AXES = {"auc": "table1", "pointing_game": "grounding"}  # metric -> its file of draws


def method_map(workspace: Workspace) -> pd.DataFrame:
    """For each method its mean AUC and pointing game over the valid data sets, and its cost.

    A resample of the mean takes one resample of each data set; their patients differ, so the sets
    are independent. Seconds are a seed's, 0 without training; NaN: no such row. An `InputError`
    where a notebook that leaves draws or costs has not run.
    """
    costs = training_costs(workspace)
    names = [*HANDWRITTEN, *OURS, *(name for name in costs.index if name not in OURS)]
    draws, rows = valid_draws(workspace), []
    for name in names:
        seconds = costs["seconds"].get(name, 0.0)
        row = {"method": name, "group": _group(name, costs), "seconds": seconds}
        for metric in AXES:
            found = _mean_over_sets(draws[metric], name, metric)
            row |= {f"{metric}_{part}": value for part, value in found.items()}
        rows.append(row)
    table = pd.DataFrame(rows)
    write_csv(workspace.figures / "method_map.csv", table)
    return table


def valid_draws(workspace: Workspace) -> dict[str, Draws]:
    """For each of `AXES` the draws of its metric on the data sets that can tell methods apart."""
    loaded = {file: load_draws(workspace.results, file) for file in AXES.values()}
    return {
        metric: {
            key: series
            for key, series in loaded[file].items()
            if key[2] == metric and not invalid_instrument(key[0], metric, loaded)
        }
        for metric, file in AXES.items()
    }


def training_costs(workspace: Workspace) -> pd.DataFrame:
    """The costs (`baselines.report.save_costs`) of all trained methods, RC-TPL's last."""
    rows = []
    for part, notebook in COSTS.items():
        path = cost_file(workspace, part)
        if not path.exists():
            cure = f"Run notebook {notebook} first."
            raise InputError("no training costs there", cure, file=path)
        rows += pd.read_csv(path).to_dict("records")
    for name, variant in zip(OURS, VARIANTS, strict=True):
        files = [workspace.prompts / f"{variant}-{seed}" for seed in workspace.profile.seeds]
        histories = [read_json(f"{file}.history.json")["history"] for file in files]
        row = dict.fromkeys(("views", "tokens", "labeled images a class"), 0)
        row |= {"method": name, "parameters": Prompts.load(f"{files[0]}.safetensors").parameters}
        row["seconds"] = float(np.mean([history[-1]["seconds"] for history in histories]))
        rows.append(row)
    return pd.DataFrame(rows).set_index("method")


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
    """Draw `method_map`: a line a method, grouped by what it learns from, the best AUC first; of a
    learner's rows with different numbers of labels, that with the most (the last) is drawn.
    """
    learner = table["method"].str.replace(r", \d+ labels? a class$", "", regex=True)
    shown = table[~learner.duplicated(keep="last")]
    rank = shown["group"].map(GROUPS.index)
    order = np.lexsort((-shown["auc_value"].fillna(-1), rank))
    shown = shown.iloc[order].reset_index(drop=True)
    figure, (axes,) = panels(1, 3, 0.2 * len(shown) + 1.6, sharey=True)
    colors = dict(zip(GROUPS, sns.color_palette("colorblind"), strict=False))
    for group, part in shown.groupby("group", sort=False):
        looks = {"color": colors[group], "fmt": MARKERS[GROUPS.index(group)], "ms": 4, "lw": 1}
        for axis, column in zip(axes, AXES, strict=False):
            rows = part.filter(like=column).set_axis(["value", "ci_low", "ci_high"], axis=1)
            axis.errorbar(rows["value"], part.index, xerr=spread(rows), label=group, **looks)
        trained = part[part["seconds"] > 0]
        axes[2].errorbar(trained["seconds"], trained.index, **looks)
    names = ("AUC, mean over sets", "pointing game, mean over sets", "training, s a seed (log)")
    for axis, name in zip(axes, names, strict=True):
        axis.set_xlabel(name)
        rule_lines(axis)
        for place in np.flatnonzero(shown["group"].ne(shown["group"].shift()))[1:]:
            axis.axhline(place - 0.5, color="0.6", lw=0.6)
    axes[0].set_yticks(range(len(shown)), shown["method"])
    axes[0].set_ylim(len(shown) - 0.5, -0.5)
    axes[2].set_xscale("log")
    axes[2].xaxis.set_minor_formatter(NullFormatter())
    seconds = np.log10(shown["seconds"][shown["seconds"] > 0])
    axes[2].set_xlim(10 ** np.floor(seconds.min()), 10 ** np.ceil(seconds.max() + 0.01))
    for place in np.flatnonzero(shown["seconds"] == 0):
        axes[2].text(0.03, place, "no training", transform=axes[2].get_yaxis_transform(),
                     fontsize=TEXT, va="center", color="0.35")  # fmt: skip
    legend_above(figure, axes[0].get_legend_handles_labels()[0], 4)
    sets = "; ".join(
        f"{NAMES[column]} on {', '.join(dict.fromkeys(NAMES[key[0]] for key in draws)) or 'no set'}"
        for column, draws in valid_draws(workspace).items()
    )
    note = (
        f"Look for a method far to the right on the left and far to the left on the right. {sets}: "
        "sets on which the supervised reference cannot tell are left out. Bars: 95 % intervals "
        "over patients and seeds. Seconds by the clock, other notebooks running beside: "
        "magnitudes, not benchmarks; without the encoder's pre-training, cached features, and "
        "the cost of reports, films or labels."
    )
    return finished(workspace, figure, "method_map", note)
