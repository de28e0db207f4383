"""What keeps prompts that learn from text on the image (notebook 08), on validation films.

RC-TPL changed in one thing an arm, RC-TPL+ without one, what a person writes, contexts without a
step, and a text memory at test time; last the modality gap that all of them face. No test film is
looked at: RC-TPL+ was chosen here.
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
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import image_features
from rctpl_utils.evaluation import ablations
from rctpl_utils.evaluation.ablations import Arm, Reader, Runs, Trial, asked
from rctpl_utils.evaluation.metrics import named_interval
from rctpl_utils.evaluation.results import data_note, write_csv
from rctpl_utils.plots import COLUMN_WIDTH, TEXT, caption, save_figure, spread
from rctpl_utils.profiles import PromptLearning
from rctpl_utils.prompts import handwritten
from rctpl_utils.prompts.handwritten import PULL
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.prompts.training import BRANCHES, TextCorpus, word_context
from rctpl_utils.prompts.variants import UNTRAINED, WRITTEN, untrained
from rctpl_utils.scoring import no_ranking, ranking_loss, report_ranking_loss
from rctpl_utils.text.triplets import merge_mentions
from rctpl_utils.vocabulary import TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

RCTPL, PLUS = "RC-TPL", "RC-TPL+"
GROUNDED = ("rsna", "siim", "covid-rural")
MEMORY = ", text memory"
SHARPNESS = 20.0  # of the memory's softmax; 10 and 50 were tried on validation films
GAP_DATASET = "chestxray14"
CELLS = 4000  # cells of films that are looked at
DIRECTIONS = 10  # the cells' main directions
Clouds = dict[str, np.ndarray]


def own_labels(
    triplets: pd.DataFrame, report_ids: Sequence[str], concepts: Sequence[str]
) -> pd.DataFrame:
    """As `triplets.report_labels`, but a label needs a mention of its own: parents of what is
    present get none, and what is denied is neither positive nor negative.
    """
    merged = merge_mentions(triplets).unstack()
    merged = merged.reindex(index=list(report_ids), columns=list(concepts))
    return (merged == "present").astype(float).mask(merged.isin(["absent", "uncertain"]))


def bridge_arms(settings: PromptLearning) -> list[Arm]:
    """RC-TPL changed in one thing an arm, RC-TPL+ without one."""
    both, own = ("report", "concept"), ("concept",)
    paper = Arm(RCTPL, settings, source="the paper", base=RCTPL)
    plus = Arm(
        PLUS, settings, described_absent=False, start="words", ranking=report_ranking_loss,
        pull=(PULL, own), base=PLUS, unseen="looks", source="all of the above",
    )  # fmt: skip
    slower = replace(settings, learning_rate=settings.learning_rate / 10)
    changed = (
        ("start: words", "CoOp, Zhou 2022", dict(start="words")),
        ("rate: a tenth", "fewer, smaller steps", dict(settings=slower)),
        ("H: present findings only", "labels and H agree",
         dict(branches=own, described_absent=False)),
        ("labels: own mentions only", "labels and H agree", dict(labeled=own_labels)),
        ("pull to the ensemble", "prompt ensembles, Radford 2021",
         dict(pull=(20.0, both), anchor=handwritten.prompt_ensemble)),
        ("pull to names, both branches", "KgCoOp, Yao 2023",
         dict(pull=(20.0, both), anchor=handwritten.class_names)),
        ("pull to a pruned ensemble", "BiomedCoOp, Koleilat 2025",
         dict(pull=(20.0, both), anchor=handwritten.pruned_ensemble)),
        ("names mapped onto descriptions", "ProText, Khattak 2025",
         dict(pull=(1.0, both), anchor=handwritten.descriptions, ranking=no_ranking)),
        ("start: names", "the names' own words", dict(start="names")),
        ("mean of all steps", "Polyak and Juditsky 1992", dict(kept="mean")),
        ("step nearest to names", "stop by cosine", dict(kept="nearest")),
        ("rank reports within a class", "what AUC measures", dict(ranking=report_ranking_loss)),
    )  # fmt: skip
    lacking = {
        "start: random": dict(start="gaussian"),
        "rank classes": dict(ranking=ranking_loss),
        "no pull": dict(branches=own, pull=None),
        "pull 0.3": dict(branches=own, pull=(0.3, own)),
        "pull 30": dict(branches=own, pull=(30.0, own)),
        "pull on both": dict(branches=("report",), pull=(PULL, ("report",))),
        "H: absent too": dict(branches=own, described_absent=True),
    }
    return [
        paper,
        *(replace(paper, label=name, source=of, **change) for name, of, change in changed),
        plus,
        *(replace(plus, label=f"{PLUS}, {name}", source="", **c) for name, c in lacking.items()),
    ]


def bridge_trials(
    encoders: Sequence[Encoder], learned: Mapping[str, Runs], corpora: Sequence[TextCorpus]
) -> dict[str, Trial]:
    """All rows, written prompts first; the memory holds the `corpora`, one an encoder (a seed)."""
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
    """Score all rows on validation films and write `bridges.csv`."""
    asked_of = (tuple(QUESTIONS), GROUNDED)
    draws = ablations.score_trials(workspace, encoders, trials, "validation", *asked_of)
    sources = {arm.label: arm.source for arm in bridge_arms(workspace.profile.ablations)}
    order = {label: k for k, label in enumerate(trials)}
    rows = [
        {
            "arm": label, "source": sources.get(label, ""), "dataset": dataset, "metric": metric,
            **named_interval(series), "seeds": len(series),
        }
        for (dataset, label, metric), series in draws.items()
    ]  # fmt: skip
    columns = ["arm", "source", "dataset", "metric", "value", "ci_low", "ci_high", "seeds"]
    table = pd.DataFrame(rows, columns=columns)
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
        look = {"xerr": spread(part), "fmt": "o", "ms": 3, "lw": 1, "color": color}
        axis.errorbar(part["value"], range(len(arms)), **look)
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


def clouds(workspace: Workspace, encoder: Encoder, corpus: TextCorpus) -> Clouds:
    """Features by kind, (n, d) each: films, their cells, reports, descriptions."""
    file = image_features(
        encoder, open_split(workspace, GAP_DATASET, "validation"), workspace.features
    )
    cells = np.asarray(file.dense_features).reshape(-1, encoder.dimension)
    rows = np.random.default_rng(0).choice(len(cells), min(CELLS, len(cells)), replace=False)
    return {
        "films (f)": np.asarray(file.global_features),
        "cells (F)": cells[np.sort(rows)].astype(np.float32),
        "reports (h)": corpus.report_features,
        "descriptions (H)": corpus.description_features,
    }


def class_vectors(
    encoder: Encoder, prompts: Mapping[str, Prompts], generator: np.random.Generator
) -> Clouds:
    """The concept branch's class embeddings, (L, d) each: of names, of prompts, and random ones."""
    found = {"class names": handwritten.class_names(encoder, TRAINING_CONCEPTS).concept}
    found |= {
        name: each.embed(encoder, TRAINING_CONCEPTS).concept for name, each in prompts.items()
    }
    vectors = {name: each.cpu().numpy() for name, each in found.items()}
    drawn = generator.normal(size=vectors["class names"].shape)
    return vectors | {"random": drawn / np.linalg.norm(drawn, axis=1, keepdims=True)}


def energy(vectors: np.ndarray, cells: np.ndarray, count: int = DIRECTIONS) -> float:
    """The share of the centered vectors' (L, d) squared length in the main directions of cells (n,
    d).
    """
    main = np.linalg.svd(cells - cells.mean(axis=0), full_matrices=False)[2][:count]  # (count, d)
    centered = vectors - vectors.mean(axis=0)
    return float(((centered @ main.T) ** 2).sum() / (centered**2).sum())


def gap_table(seeds: Sequence[tuple[Clouds, Clouds]]) -> pd.DataFrame:
    """Energies of class vectors and cosines between the clouds' means: one column a seed."""
    columns = {}
    for k, (kinds, vectors) in enumerate(seeds):
        means = {name: each.mean(axis=0) for name, each in kinds.items()}
        first, *others = means
        columns[f"seed {k}"] = {
            f"energy in the cells' main directions, {name}": energy(each, kinds["cells (F)"])
            for name, each in vectors.items()
        } | {
            f"cosine of means: {first}, {name}": float(
                means[first] @ means[name]
                / (np.linalg.norm(means[first]) * np.linalg.norm(means[name]))
            )
            for name in others
        }  # fmt: skip
    return pd.DataFrame(columns)


def gap_figure(workspace: Workspace, kinds: Clouds, vectors: Clouds) -> Figure:
    """One seed: all clouds on their two main directions (left), class vectors among the cells."""
    figure, axes = plt.subplots(1, 2, figsize=(COLUMN_WIDTH, 2.9), layout="constrained")
    colors = sns.color_palette("colorblind", len(kinds) + len(vectors))
    together = np.concatenate([each[:500] for each in kinds.values()])
    everything = np.linalg.svd(together - together.mean(axis=0), full_matrices=False)[2][:2]
    for color, (name, each) in zip(colors, kinds.items(), strict=False):
        x, y = everything @ (each[:500] - together.mean(axis=0)).T
        axes[0].plot(x, y, ".", ms=2, color=color, label=name, rasterized=True)
    cells = kinds["cells (F)"]
    main = np.linalg.svd(cells - cells.mean(axis=0), full_matrices=False)[2][:2]
    x, y = main @ (cells - cells.mean(axis=0)).T
    axes[1].plot(x, y, ".", ms=1, color="0.75", label="cells (F)", rasterized=True)
    shapes = zip(colors[len(kinds) :], "osD^v", vectors.items(), strict=False)
    for color, marker, (name, each) in shapes:
        x, y = main @ (each - each.mean(axis=0)).T
        axes[1].plot(x, y, marker, ms=3.5, mfc="none", color=color, label=name)
    titles = ("main directions of all", "main directions of the cells")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_xlabel("first (cosine)", fontsize=TEXT)
        axis.set_ylabel("second (cosine)", fontsize=TEXT)
        axis.set_title(title, fontsize=8)
        axis.tick_params(labelsize=TEXT)
        axis.legend(fontsize=TEXT, frameon=False, markerscale=1.5)
    caption(
        figure,
        f"{data_note(workspace)} Do films and texts lie apart (left), and class vectors among the "
        "cells that they look for (right)? Stand-in 0, ChestX-ray14's validation films and "
        "training reports.",
    )
    save_figure(figure, workspace.figures / "modality_gap")
    return figure
