"""How baselines train (`pretraining.fit`): the same batches, seeds, schedule and grid of rates.

A baseline trains at a constant rate (after a warm-up) until its AUC on validation films has stopped
improving, then cools down to a rate of zero; the model at the end stays, or that of an earlier look
where it is better by more than looks differ by chance: the method has overfitted (`kept_look`). All
randomness of a step comes from (seed, step), so that a killed training goes on as if nothing had
happened.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rctpl_utils.baselines.model import Baseline, Setup
from rctpl_utils.baselines.training_data import Material, draw_batch, in_batches
from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.pretraining import Row, fit
from rctpl_utils.evaluation.metrics import macro_auc
from rctpl_utils.profiles import BaselineTraining

SCORED = 256  # films scored at once


class Validation(NamedTuple):
    """Films that tell when to stop and which rate to take: maps (n, h, w, c) and labels (n, L)."""

    maps: np.ndarray
    labels: np.ndarray
    concepts: tuple[str, ...]


class Trained(NamedTuple):
    """A trained baseline, frozen."""

    model: Baseline
    history: list[Row]  # views, tokens, loss, auc (on the validation films), seconds
    plateau: bool  # whether the AUC stopped improving before the limit of views
    kept: int  # the row whose model this is

    @property
    def auc(self) -> float:
        """The model's own, on the validation films."""
        return self.history[self.kept]["auc"]


def on_drawn_films(
    loss: Callable[[np.ndarray, np.random.Generator], Tensor],
    chances: np.ndarray,
    seed: int,
    size: int,
) -> Callable[[int], Tensor]:
    """A step's loss for `fit`: `size` films are drawn with `chances`, by (seed, step).

    `loss` gets their rows and the step's generator.
    """
    up_to = np.cumsum(chances)

    def of_step(step: int) -> Tensor:
        generator = np.random.default_rng([seed, step])
        rows = np.minimum(np.searchsorted(up_to, generator.random(size)), len(up_to) - 1)
        return loss(rows, generator)

    return of_step


def train(
    make: type[Baseline],
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
    size, tokens = settings.batch_size, []

    def loss(films: np.ndarray, generator: np.random.Generator) -> Tensor:
        batch = draw_batch(material, films, generator, device)
        value = model.loss(batch)
        tokens.extend(batch.tokens)
        return value

    def look(step: int, history: Sequence[Row]) -> Row | None:
        if step * size % settings.look_every:
            return None
        read = sum(tokens) + (history[-1]["tokens"] if history else 0)
        tokens.clear()
        model.eval()
        auc = validation_auc(model, validation, device)
        model.train()
        if auc >= max((row["auc"] for row in history), default=0):
            best.load_state_dict(model.state_dict())
        return {"tokens": read, "auc": auc}

    history = fit(
        nn.ModuleList([model, best]), on_drawn_films(loss, material.chances, seed, size), rate,
        lambda step, history: rate_share(step * size, history, settings), look, size,
        settings.views, device, checkpoint, f"{model.name}, seed {seed}, rate {rate:g}",
    )  # fmt: skip
    kept = kept_look(history, settings)
    if kept < len(history) - 1:
        model.load_state_dict(best.state_dict())
    plateau = cool_down_begins(history, settings) < settings.views
    return Trained(freeze(model), history, plateau, kept)


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


def rate_share(views: int, history: Sequence[Row], settings: BaselineTraining) -> float | None:
    """The share of the learning rate after so many views: warm-up, one, down to zero, then None."""
    begin = cool_down_begins(history, settings)
    if history and history[-1]["views"] >= begin + settings.cool_down:
        return None
    if views >= begin:
        return max(1 - (views - begin) / settings.cool_down, 0.0)
    return min((views + settings.batch_size) / settings.look_every, 1.0)


def validation_auc(model: Baseline, validation: Validation, device: torch.device) -> float:
    """Macro AUC of zero-shot scores on the validation films, without an interval."""
    maps, labels, concepts = validation

    def scores(rows: np.ndarray) -> Tensor:
        return model.classify(torch.from_numpy(maps[rows]).to(device), concepts)

    return macro_auc(labels, in_batches(scores, len(maps), SCORED))
