"""What notebook 04b shows: curves, chosen rates, and what every method cost to train."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rctpl_utils.baselines.rows import Competitor
from rctpl_utils.files import read_json
from rctpl_utils.plots import COLUMN_WIDTH, save_figure
from rctpl_utils.prompts import Prompts
from rctpl_utils.results import data_note, write_csv
from rctpl_utils.variants import VARIANTS
from rctpl_utils.workspace import Workspace

COST = "training_cost.csv"
Run = Mapping[str, object]  # what is kept of a method's training: history, rate, rates


def curve(runs: Mapping[str, Run], name: str) -> Figure | None:
    """Draw one method's training loss, a line a seed; nothing for a method not trained here."""
    if name not in runs:
        return None
    figure, axis = plt.subplots(figsize=(3.2, 1.7), layout="constrained")
    _draw(axis, name, runs[name])
    axis.set_ylabel("training loss", fontsize=7)
    axis.legend(fontsize=6, frameon=False)
    return figure


def save_curves(workspace: Workspace, runs: Mapping[str, Run]) -> Figure:
    """Draw `baseline_curves`: training loss against what was seen, one panel a method."""
    columns = 4
    lines = -(-len(runs) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(COLUMN_WIDTH, 1.35 * lines + 0.4), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axis, (name, run) in zip(axes.flat, runs.items(), strict=False):
        _draw(axis, name, run)
    for axis in list(axes.flat)[len(runs) :]:
        axis.axis("off")
    for line in axes:
        line[0].set_ylabel("training loss", fontsize=7)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=7)
    figure.supxlabel(f"{data_note(workspace)} Each loss has a unit of its own.", fontsize=6)
    save_figure(figure, workspace.figures / "baseline_curves")
    return figure


def _draw(axis: Axes, name: str, run: Run) -> None:
    history, unit = pd.DataFrame(run["history"]), run["unit"]
    colors = sns.color_palette("colorblind")
    for color, (seed, part) in zip(colors, history.groupby("seed"), strict=False):
        axis.plot(
            part[unit], part["loss"], color=color, lw=1, marker=".", ms=3, label=f"seed {seed}"
        )
    axis.set_title(f"{name}\nlearning rate {run['rate']:g}", fontsize=7)
    axis.tick_params(labelsize=6)
    axis.set_xlabel("film views" if unit == "views" else "steps", fontsize=6)


def rate_table(runs: Mapping[str, Run]) -> pd.DataFrame:
    """Validation AUC of the first seed's runs by learning rate; the best of each row was taken."""
    rows = [{"method": name, **rate} for name, run in runs.items() for rate in run["rates"]]
    return pd.DataFrame(rows).pivot(index="method", columns="learning_rate", values="auc")


def save_costs(
    workspace: Workspace, competitors: Sequence[Competitor], runs: Mapping[str, Run]
) -> pd.DataFrame:
    """Write what each method learned from and how long one seed took, RC-TPL among them.

    Returns:
        by method: learned parameters, film views, tokens read, labeled images a class, seconds a
        seed on this machine (features of frozen layers cached, their own cost not in it).
    """
    rows = [_cost(each, runs[each.name]) for each in competitors if each.name in runs]
    rows += [_prompt_cost(workspace, variant) for variant in VARIANTS]
    table = pd.DataFrame(rows).set_index("method")
    write_csv(workspace.results / COST, table.reset_index())
    return table


def _cost(competitor: Competitor, run: Run) -> dict[str, object]:
    last = pd.DataFrame(run["history"]).groupby("seed").last()
    seen = {
        column: int(last[column].mean()) if column in last else 0 for column in ("views", "tokens")
    }
    return {
        "method": competitor.name,
        "parameters": run["parameters"],
        **seen,
        "labeled images a class": competitor.labeled,
        "seconds": last["seconds"].mean(),
    }


def _prompt_cost(workspace: Workspace, variant: str) -> dict[str, object]:
    names = dict(zip(VARIANTS, ("RC-TPL", "RC-TPL+"), strict=True))
    paths = [
        workspace.prompts / f"{variant}-{seed}.history.json"
        for seed in workspace.profile.prompts.seeds
    ]
    seconds = [read_json(path)[-1]["seconds"] for path in paths]
    prompts = workspace.prompts / f"{variant}-{workspace.profile.prompts.seeds[0]}.safetensors"
    return {
        "method": names[variant],
        "parameters": Prompts.load(prompts).parameters,
        "views": 0,
        "tokens": 0,
        "labeled images a class": 0,
        "seconds": float(np.mean(seconds)),
    }
