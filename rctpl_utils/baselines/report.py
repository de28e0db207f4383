"""What notebooks 04b and 04c show: curves, chosen rates, and what every method cost to train.

The two may run at the same time, so each writes its costs to a file of its own;
`method_map.training_costs` puts them together.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rctpl_utils.evaluation.results import data_note, write_csv
from rctpl_utils.plots import COLUMN_WIDTH, TEXT, caption, save_figure
from rctpl_utils.workspace import Workspace

COSTS = {"baselines": "04b", "prompt_learners": "04c"}  # a file's part, and who writes it
COLUMNS = ("method", "parameters", "views", "tokens", "labeled images a class", "seconds")
PANELS = 4  # side by side
Run = Mapping[str, Any]  # what is kept of a method's training: history, rate, rates


def curve(runs: Mapping[str, Run], name: str) -> Figure | None:
    """Draw one method's training loss, a line a seed; nothing for a method not trained here."""
    if name not in runs:
        return None
    figure, axis = plt.subplots(figsize=(3.2, 1.7), layout="constrained")
    _draw(axis, name, runs[name])
    axis.set_ylabel("training loss", fontsize=TEXT)
    axis.legend(fontsize=TEXT, frameon=False)
    return figure


def save_curves(workspace: Workspace, runs: Mapping[str, Run], stem: str) -> Figure | None:
    """Draw all training losses, one panel a method, and save `stem`; nothing without runs."""
    if not runs:
        return None
    lines = -(-len(runs) // PANELS)
    size = (COLUMN_WIDTH, 1.35 * lines + 0.4)
    figure, axes = plt.subplots(lines, PANELS, figsize=size, layout="constrained", squeeze=False)
    for axis, (name, run) in zip(axes.flat, runs.items(), strict=False):
        _draw(axis, name, run)
    for axis in axes.flat[len(runs) :]:
        axis.axis("off")
    for line in axes:
        line[0].set_ylabel("training loss", fontsize=TEXT)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=TEXT)
    words = "Does training level off? Compare seeds, not panels: each loss has a unit of its own."
    caption(figure, f"{data_note(workspace)} {words}")
    save_figure(figure, workspace.figures / stem)
    return figure


def _draw(axis: Axes, name: str, run: Run) -> None:
    history, unit = pd.DataFrame(run["history"]), run["unit"]
    colors = sns.color_palette("colorblind")
    for color, (seed, part) in zip(colors, history.groupby("seed"), strict=False):
        how = {"color": color, "lw": 1, "marker": ".", "ms": 3, "label": f"seed {seed}"}
        axis.plot(part[unit], part["loss"], **how)
    axis.set_title(f"{name}\nlearning rate {run['rate']:g}", fontsize=TEXT)
    axis.tick_params(labelsize=TEXT)
    axis.set_xlabel("film views" if unit == "views" else "steps", fontsize=TEXT)


def rate_table(runs: Mapping[str, Run]) -> pd.DataFrame:
    """Validation AUC of the first seed's runs by learning rate; the best of each row was taken."""
    rows = [{"method": name, **rate} for name, run in runs.items() for rate in run["rates"]]
    table = pd.DataFrame(rows, columns=["method", "learning_rate", "auc"])
    return table.pivot(index="method", columns="learning_rate", values="auc")


def stop_table(runs: Mapping[str, Run]) -> pd.DataFrame:
    """Where each prompt learner's run ended, by `prompt_learners.stop`."""
    columns = ["method", "seed", "steps", "best_step", "validation_auc", "plateau"]
    rows = [{"method": name, **each} for name, run in runs.items() for each in run["stops"]]
    return pd.DataFrame(rows, columns=columns)


def cost_file(workspace: Workspace, part: str) -> Path:
    """Where the costs of a part of `COSTS` lie."""
    return workspace.results / f"training_cost_{part}.csv"


def save_costs(
    workspace: Workspace,
    part: str,
    runs: Mapping[str, Run],
    labeled: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """Write, for a part of `COSTS`, what methods learned from and how long a seed took; return it.

    `labeled` counts the labeled images a class of methods that used labels. Seconds are by the
    clock on this machine, with the threads of this notebook and perhaps another beside it
    (features of frozen layers cached, their own cost not in it).
    """
    rows = []
    for name, run in runs.items():
        last = pd.DataFrame(run["history"]).groupby("seed").last()
        seen = [int(last[each].mean()) if each in last else 0 for each in ("views", "tokens")]
        images = (labeled or {}).get(name, 0)
        rows.append((name, run["parameters"], *seen, images, last["seconds"].mean()))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    write_csv(cost_file(workspace, part), table)
    return table.set_index("method")
