"""One loop for all baselines: the same films, batches, seeds, schedule and grid of rates.

A method trains at a constant rate (after a warm-up) until its AUC on validation films has stopped
improving, then cools down to a rate of zero; the model at the end stays. Where that is worse than
an earlier look by more than looks differ by chance, the method has overfitted, and the model of the
best look stays (`kept_look`). All randomness of a step comes from (seed, step), so
that a training that was killed goes on from its checkpoint as if nothing had happened.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rctpl_utils.baselines.towers import Baseline, MakeBaseline, Setup
from rctpl_utils.baselines.training_data import Batch, Material, draw_batch
from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.encoders.pretraining import CHECKPOINT_SECONDS, WEIGHT_DECAY, Progress
from rctpl_utils.encoders.word_states import WordFile, Words, gather
from rctpl_utils.evaluation.metrics import macro_auc
from rctpl_utils.files import atomic_path
from rctpl_utils.profiles import BaselineTraining

SCORED = 256  # films scored at once
Row = dict[str, float]


@dataclass(frozen=True)
class Validation:
    """Films that tell when to stop and which rate to take: maps (n, h, w, c) and labels (n, L)."""

    maps: np.ndarray | Tensor
    labels: np.ndarray
    concepts: tuple[str, ...]

    @classmethod
    def of(cls, dataset: ChestXrayDataset, maps: np.ndarray) -> "Validation":
        """From a data set and its trunk maps."""
        concepts = dataset.concepts
        return cls(maps, dataset.records[list(concepts)].to_numpy(float), concepts)


@dataclass(frozen=True)
class CountedWords(WordFile):
    """Word states that count the tokens read from them."""

    read: list[int] = field(default_factory=list)

    def batch(self, rows: np.ndarray, device: torch.device) -> Words:
        """Some texts, by row."""
        self.read.append(int(self.lengths[rows].sum()))
        return super().batch(rows, device)


class Trained(NamedTuple):
    """A trained baseline.

    Attributes:
        model: frozen.
        history: rows of views, tokens, loss, auc (on the validation films), seconds.
        plateau: whether the AUC stopped improving before the limit of views.
        kept: the row of the history whose model this is.
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

    Args:
        folder: takes checkpoints of trainings that may be killed.

    Returns:
        the chosen rate, rows of learning_rate and auc, and the model trained with it.
    """
    tried = []
    for rate in settings.rates:
        file = folder and folder / f"{file_stem(make(setup).name)}-{seed}-{rate:g}.part"
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
    """AdamW until the plateau or the limit of views, then the cool-down.

    Args:
        checkpoint: where a training that may be killed keeps its state; deleted at the end.
    """
    torch.manual_seed(seed)
    model = make(setup).to(device).train()
    words, masked = (_counted(each) for each in (material.words, material.masked))
    material = replace(material, words=words, masked=masked)
    chances = np.cumsum(material.chances)
    optimizer = torch.optim.AdamW(
        model.parameters(), rate, weight_decay=WEIGHT_DECAY, fused=device.type == "cuda"
    )
    progress = Progress(model, optimizer, checkpoint)
    step, history = progress.restore(device)
    best = BestLook(checkpoint and checkpoint.with_suffix(".best"))
    earlier = history[-1] if history else {"tokens": 0, "seconds": 0.0}
    begun, saved, losses = time.perf_counter(), 0.0, []
    with tqdm(total=settings.views, initial=step * settings.batch_size, unit="view", mininterval=2,
              desc=f"{model.name}, seed {seed}, rate {rate:g}") as bar:  # fmt: skip
        while not finished(history, settings):
            factor = rate_factor(step * settings.batch_size, history, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            loss = model.loss(_draw(material, chances, settings.batch_size, seed, step, device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            step += 1
            bar.update(settings.batch_size)
            if step * settings.batch_size % settings.look_every == 0:
                seconds = earlier["seconds"] + time.perf_counter() - begun
                history.append(
                    {
                        "views": step * settings.batch_size,
                        "tokens": earlier["tokens"] + sum(words.read) + sum(masked.read),
                        "loss": torch.stack(losses).mean().item(),
                        "auc": _looked_at(model, validation, device),
                        "seconds": round(seconds, 1),
                    }
                )
                losses = []
                best.offer(model, history)
                bar.set_postfix(auc=f"{history[-1]['auc']:.3f}")
                if seconds - saved > CHECKPOINT_SECONDS:  # at looks: no sum is lost
                    progress.store(step, history)
                    saved = seconds
    kept = kept_look(history, settings)
    if kept < len(history) - 1:
        best.give(model)
    best.forget()
    progress.remove()
    plateau = cool_down_begins(history, settings) < settings.views
    return Trained(model.eval().requires_grad_(False), history, plateau, kept)


class BestLook:
    """The weights of the best look so far, in memory and, for resumption, in a file."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.state: dict[str, Tensor] | None = None
        if path is not None and path.exists():
            self.state = torch.load(path, weights_only=True)

    def offer(self, model: Baseline, history: Sequence[Row]) -> None:
        """Take the weights of the last look if its AUC is the highest."""
        if history[-1]["auc"] < max(row["auc"] for row in history):
            return
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        if self.path is not None:
            with atomic_path(self.path) as temporary:
                torch.save(self.state, temporary)

    def give(self, model: Baseline) -> None:
        """Put the weights back."""
        model.load_state_dict(self.state)

    def forget(self) -> None:
        """Delete the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


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


def state_of(model: Baseline) -> dict[str, Tensor]:
    """What inference needs of a trained baseline: all but the layers of `training_only`."""
    return {
        name: value.cpu().contiguous()
        for name, value in model.state_dict().items()
        if not name.startswith(model.training_only)
    }


def _draw(
    material: Material,
    chances: np.ndarray,
    size: int,
    seed: int,
    step: int,
    device: torch.device,
) -> Batch:
    generator = np.random.default_rng([seed, step])
    films = np.minimum(np.searchsorted(chances, generator.random(size)), len(chances) - 1)
    return draw_batch(material, films, generator, device)


def _looked_at(model: Baseline, validation: Validation, device: torch.device) -> float:
    model.eval()
    value = validation_auc(model, validation, device)
    model.train()
    return value


def _counted(file: WordFile) -> CountedWords:
    return CountedWords(file.states, file.ids, file.lengths)
