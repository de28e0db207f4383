"""The modality gap (Liang et al., NeurIPS 2022): where texts, films and class vectors lie."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import image_features
from rctpl_utils.evaluation.results import data_note
from rctpl_utils.plots import COLUMN_WIDTH, TEXT, caption, save_figure
from rctpl_utils.prompts import handwritten
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.prompts.training import TextCorpus
from rctpl_utils.vocabulary import TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

DATASET = "chestxray14"
CELLS = 4000  # cells of films that are looked at
DIRECTIONS = 10  # the cells' main directions
Clouds = dict[str, np.ndarray]


def clouds(workspace: Workspace, encoder: Encoder, corpus: TextCorpus) -> Clouds:
    """Features by kind, (n, d) each: films, their cells, reports, descriptions."""
    file = image_features(encoder, open_split(workspace, DATASET, "validation"), workspace.features)
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
    """The share of the squared length of vectors (L, d), without their mean, in the main directions
    of the centered cells (n, d).
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
