"""One loop for all that trains on films: the same batches, seeds, schedule and grid of rates.

A baseline trains at a constant rate (after a warm-up) until its AUC on validation films has stopped
improving, then cools down to a rate of zero; the model at the end stays. Where that is worse than
an earlier look by more than looks differ by chance, the method has overfitted, and the model of the
best look stays (`kept_look`). All randomness of a step comes from (seed, step), so
that a training that was killed goes on from its checkpoint as if nothing had happened.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rctpl_utils.baselines.model import Baseline, MakeBaseline, Setup
from rctpl_utils.baselines.training_data import Material, draw_batch
from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.encoders.features import WordFile, Words, gather
from rctpl_utils.encoders.pretraining import Row, fit
from rctpl_utils.evaluation.metrics import macro_auc
from rctpl_utils.profiles import BaselineTraining

SCORED = 256  # films scored at once


@dataclass(frozen=True)
class Validation:
    """Films that tell when to stop and which rate to take: maps (n, h, w, c) and labels (n, L)."""

    maps: np.ndarray | Tensor
    labels: np.ndarray
    concepts: tuple[str, ...]

    @classmethod
    def of(cls, dataset: ChestXrayDataset, maps: np.ndarray) -> "Validation":
        """From a data set and its maps."""
        concepts = dataset.concepts
        return cls(maps, dataset.records[list(concepts)].to_numpy(float), concepts)


@dataclass(frozen=True)
class CountedWords(WordFile):
    """Word states that count the tokens read from them, in `read`."""

    read: list[int]

    @classmethod
    def of(cls, file: WordFile, read: list[int]) -> "CountedWords":
        """The same file, counted."""
        return cls(file.states, file.ids, file.lengths, read)

    def batch(self, rows: np.ndarray, device: torch.device) -> Words:
        """Some texts, by row."""
        self.read.append(int(self.lengths[rows].sum()))
        return super().batch(rows, device)


class Trained(NamedTuple):
    """A trained baseline, frozen.

    `history` has rows of views, tokens, loss, auc (on the validation films), seconds; `kept` is the
    row whose model this is; `plateau`: whether the AUC stopped improving before the limit of views.
    """

    model: Baseline
    history: list[Row]
    plateau: bool
    kept: int


def train_best_rate(
    make: MakeBaseline,
    material: Material,
    setup: Setup,
    validation: Validation,
    settings: BaselineTraining,
    seed: int,
    device: torch.device,
    folder: Path | None = None,
) -> tuple[float, list[Row], Trained]:
    """Train one seed in full at every rate; the model with the best validation AUC stays.

    `folder` takes checkpoints of trainings that may be killed. Returns the chosen rate, rows of
    learning_rate and auc, and the model trained with it.
    """
    tried = []
    for rate in settings.rates:
        file = folder and folder / f"{file_stem(make.name)}-{seed}-{rate:g}.part"
        trained = train(make, material, setup, validation, settings, rate, seed, device, file)
        tried.append((trained.history[trained.kept]["auc"], rate, trained))
    _, rate, best = max(tried, key=lambda each: each[0])
    return rate, [{"learning_rate": each, "auc": auc} for auc, each, _ in tried], best


def train(
    make: MakeBaseline,
    material: Material,
    setup: Setup,
    validation: Validation,
    settings: BaselineTraining,
    rate: float,
    seed: int,
    device: torch.device,
    checkpoint: Path | None = None,
) -> Trained:
    """`fit` until the plateau or the limit of views, then the cool-down."""
    torch.manual_seed(seed)
    model = make(setup).to(device).train()
    best = make(setup).to(device).requires_grad_(False)  # as it was at the best look
    read: list[int] = []
    words, masked = (CountedWords.of(each, read) for each in (material.words, material.masked))
    material = replace(material, words=words, masked=masked)
    up_to, size = np.cumsum(material.chances), settings.batch_size

    def loss(step: int) -> Tensor:
        generator = np.random.default_rng([seed, step])
        films = np.minimum(np.searchsorted(up_to, generator.random(size)), len(up_to) - 1)
        return model.loss(draw_batch(material, films, generator, device))

    def share(step: int, history: Sequence[Row]) -> float | None:
        return None if finished(history, settings) else rate_factor(step * size, history, settings)

    def look(step: int, history: Sequence[Row]) -> Row | None:
        if step * size % settings.look_every:
            return None
        tokens = sum(read) + (history[-1]["tokens"] if history else 0)
        read.clear()
        model.eval()
        auc = validation_auc(model, validation, device)
        model.train()
        if auc >= max((row["auc"] for row in history), default=0):
            best.load_state_dict(model.state_dict())
        return {"tokens": tokens, "auc": auc}

    history = fit(
        nn.ModuleList([model, best]), loss, rate, share, look, size, settings.views, device,
        checkpoint, f"{model.name}, seed {seed}, rate {rate:g}",
    )  # fmt: skip
    kept = kept_look(history, settings)
    if kept < len(history) - 1:
        model.load_state_dict(best.state_dict())
    plateau = cool_down_begins(history, settings) < settings.views
    return Trained(model.eval().requires_grad_(False), history, plateau, kept)


def kept_look(history: Sequence[Row], settings: BaselineTraining) -> int:
    """The look whose model stays: the last, unless the best is better by `overfit` (see above)."""
    values = [row["auc"] for row in history]
    best = int(np.argmax(values))
    return best if values[best] - values[-1] > settings.overfit else len(values) - 1


def cool_down_begins(history: Sequence[Row], settings: BaselineTraining) -> float:
    """The views at which the rate begins to fall: the plateau, or the limit; inf before either.

    The plateau is the first look after which `patience` looks in a row were no better than the
    best before them by `tolerance`.
    """
    best, stale = -np.inf, 0
    for row in history:
        better = row["auc"] > best + settings.tolerance
        best, stale = (row["auc"], 0) if better else (best, stale + 1)
        if stale >= settings.patience or row["views"] >= settings.views:
            return row["views"]
    return np.inf


def finished(history: Sequence[Row], settings: BaselineTraining) -> bool:
    """Whether the cool-down is over."""
    begin = cool_down_begins(history, settings)
    return bool(history) and history[-1]["views"] >= begin + settings.cool_down


def rate_factor(views: int, history: Sequence[Row], settings: BaselineTraining) -> float:
    """The share of the learning rate after so many views: warm-up, one, then down to zero."""
    begin = cool_down_begins(history, settings)
    if views >= begin:
        return max(1 - (views - begin) / settings.cool_down, 0.0)
    return min((views + settings.batch_size) / settings.look_every, 1.0)


def validation_auc(model: Baseline, validation: Validation, device: torch.device) -> float:
    """Macro AUC of zero-shot scores on the validation films, without an interval."""
    scores = score_maps(model, validation.maps, validation.concepts, device)
    return macro_auc(validation.labels, scores)


def score_maps(
    model: Baseline, maps: np.ndarray | Tensor, concepts: Sequence[str], device: torch.device
) -> np.ndarray:
    """Scores of n films, a part at a time: (n, L)."""
    parts = []
    for start in range(0, len(maps), SCORED):
        rows = np.arange(start, min(start + SCORED, len(maps)))
        parts.append(model.classify(gather(maps, rows).to(device), concepts).cpu().numpy())
    return np.concatenate(parts)


def file_stem(name: str) -> str:
    """A method's name as files carry it."""
    return name.lower().replace(" ", "-")
