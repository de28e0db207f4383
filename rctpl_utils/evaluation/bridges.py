"""What keeps prompts that learn from text on the image (notebook 08), on validation films.

RC-TPL changed in one thing an arm, RC-TPL+ without one, what a person writes, contexts without a
step, and a text memory at test time. No test film is looked at: RC-TPL+ was chosen here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure

from rctpl_utils.datasets.questions import QUESTIONS
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.evaluation.ablation_arms import RCTPL
from rctpl_utils.evaluation.ablations import Reader, Runs, Trial, asked, learn_arms, score_trials
from rctpl_utils.evaluation.bridges import PLUS, bridge_arms
from rctpl_utils.evaluation.metrics import named_interval
from rctpl_utils.evaluation.results import Draws, data_note, write_csv
from rctpl_utils.plots import COLUMN_WIDTH, TEXT, caption, save_figure
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.prompts.training import BRANCHES, TextCorpus, word_context
from rctpl_utils.prompts.variants import UNTRAINED, WRITTEN, untrained
from rctpl_utils.text.reports import Report
from rctpl_utils.workspace import Workspace

GROUNDED = ("rsna", "siim", "covid-rural")
MEMORY = ", text memory"
SHARPNESS = 20.0  # of the memory's softmax; 10 and 50 were tried on validation films
_COLUMNS = ("arm", "source", "dataset", "metric", "value", "ci_low", "ci_high", "seeds")


def learn_bridges(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    reports: list[Report],
    triplets: pd.DataFrame,
) -> dict[str, Runs]:
    """Train every arm with every seed, or read those that are current: arm -> seed -> prompts."""
    arms = bridge_arms(workspace.profile.ablations)
    return learn_arms(workspace, encoders, reports, triplets, arms)[0]


def bridge_trials(
    encoders: Sequence[Encoder], learned: Mapping[str, Runs], corpora: Sequence[TextCorpus]
) -> dict[str, Trial]:
    """All rows, written prompts first; the memory holds the training `corpora`, one an encoder (a
    seed).
    """
    drawn = [untrained(seed, run) for seed, run in learned[RCTPL].items()]
    length = len(drawn[0].report)
    words = [
        Prompts(**dict.fromkeys(BRANCHES, word_context(each, length)), metadata={})
        for each in encoders
    ]
    by_name = [replace(each, metadata={}) for each in learned[PLUS].values()]
    trials = {
        name: Trial(tuple(partial(written, each) for each in encoders))
        for name, written in WRITTEN.items()
    }
    for label, runs in {UNTRAINED: drawn, "words, no step": words}.items():
        trials[label] = asked(encoders, runs)
    trials |= {label: asked(encoders, runs.values()) for label, runs in learned.items()}
    trials["RC-TPL+, unseen by name"] = asked(encoders, by_name)
    reader = memory_reader(dict(zip(encoders, corpora, strict=True)))
    for label in ("class names", RCTPL, PLUS):
        trials[label + MEMORY] = replace(trials[label], reader=reader)
    return trials


def memory_reader(corpora: Mapping[Encoder, TextCorpus]) -> Callable[[Reader], Reader]:
    """A film's global feature becomes a mix of the training texts near to it (DeCap, Li et al.
    2023): softmax(`SHARPNESS` * <f, t>) over the reports' and descriptions' features t.
    """

    def reader(files: Reader) -> Reader:
        @cache
        def read(encoder: Encoder):
            file, corpus = files(encoder), corpora[encoder]
            texts = np.concatenate([corpus.report_features, corpus.description_features])
            memory = torch.from_numpy(texts)
            near = torch.from_numpy(np.array(file.global_features, np.float32)) @ memory.T
            mixed = (SHARPNESS * near).softmax(dim=1) @ memory
            unit = torch.nn.functional.normalize(mixed, dim=-1)
            return replace(file, global_features=unit.numpy())

        return read

    return reader


def save_bridges(
    workspace: Workspace, encoders: Sequence[Encoder], trials: Mapping[str, Trial]
) -> pd.DataFrame:
    """Score all rows on validation films; write `bridges.csv`: arm, source, dataset, metric, value
    with interval, seeds.
    """
    draws: Draws = score_trials(
        workspace, encoders, trials, "validation", tuple(QUESTIONS), GROUNDED
    )
    sources = {arm.label: arm.source for arm in bridge_arms(workspace.profile.ablations)}
    order = {label: k for k, label in enumerate(trials)}
    rows = [
        {
            "arm": label, "source": sources.get(label, ""), "dataset": dataset, "metric": metric,
            **named_interval(series), "seeds": len(series),
        }
        for (dataset, label, metric), series in draws.items()
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    table = table.sort_values("arm", key=lambda each: each.map(order), kind="stable")
    write_csv(workspace.figures / "bridges.csv", table)
    return table


def wide_bridges(table: pd.DataFrame) -> pd.DataFrame:
    """One row an arm, AUC and pointing game beside each other."""
    short = {"auc": "AUC", "pointing_game": "pointing"}
    columns = table["metric"].map(short) + " " + table["dataset"]
    wide = table.assign(column=columns).pivot(index="arm", columns="column", values="value")
    wide = wide.loc[table["arm"].unique(), columns.unique()]
    wide.insert(0, "source", table.groupby("arm")["source"].first())
    return wide


def figure_bridges(workspace: Workspace, table: pd.DataFrame) -> Figure:
    """Each arm on three measures: AUC of ChestX-ray14, pointing on RSNA and on COVID Rural."""
    shown = (
        ("chestxray14", "auc", "ChestX-ray14,\nmacro AUC"),
        ("rsna", "pointing_game", "RSNA,\npointing game"),
        ("covid-rural", "pointing_game", "COVID Rural,\npointing game"),
    )
    arms = list(table["arm"].unique())
    figure, axes = plt.subplots(
        1, 3, figsize=(COLUMN_WIDTH, 0.17 * len(arms) + 1), layout="constrained", sharey=True
    )
    color = sns.color_palette("colorblind", 1)[0]
    for axis, (dataset, metric, title) in zip(axes, shown, strict=True):
        part = table[(table["dataset"] == dataset) & (table["metric"] == metric)]
        part = part.set_index("arm").reindex(arms)
        ends = np.abs(part[["ci_low", "ci_high"]].sub(part["value"], axis=0).to_numpy(float).T)
        axis.errorbar(part["value"], range(len(arms)), xerr=ends, fmt="o", ms=3, lw=1, color=color)
        best = part["value"].reindex(list(WRITTEN)).max()
        axis.axvline(best, color="0.6", lw=0.7, ls="--")
        axis.set_xlabel(title, fontsize=TEXT)
        axis.tick_params(axis="x", labelsize=TEXT)
    axes[0].set_yticks(range(len(arms)), arms, fontsize=TEXT)
    axes[0].invert_yaxis()
    caption(
        figure,
        f"{data_note(workspace)} Validation films. Right of the dashed line: above the best "
        "written prompt. Bars: 95 % intervals over patients and seeds.",
    )
    save_figure(figure, workspace.figures / "bridges")
    return figure
