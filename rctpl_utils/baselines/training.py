"""One loop for all baselines: the same views, batches, seeds, schedule and grid of rates."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from rctpl_utils.baselines.material import Material, draw_batch
from rctpl_utils.baselines.towers import Baseline, MakeBaseline, Setup
from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.files import atomic_path, hash_of, read_json, sha256_file, write_json
from rctpl_utils.metrics import scorable, weighted_auc
from rctpl_utils.profiles import BaselineTraining
from rctpl_utils.workspace import PROJECT

WEIGHT_DECAY = 1e-2
WARM_UP = 0.1  # of the steps
SCORED = 256  # films scored at once
_CODE = ("base", "material", "towers", "training", "trunk", "words")


@dataclass(frozen=True)
class Validation:
    """Films that choose the learning rates: maps (n, h, w, c) and labels (n, L)."""

    maps: np.ndarray
    labels: np.ndarray
    concepts: tuple[str, ...]

    @classmethod
    def of(cls, dataset: ChestXrayDataset, maps: np.ndarray) -> "Validation":
        """From a data set and its trunk maps."""
        concepts = dataset.concepts
        return cls(maps, dataset.records[list(concepts)].to_numpy(float), concepts)


@dataclass(frozen=True)
class Trained:
    """A method's runs.

    Attributes:
        models: one a seed, frozen.
        history: seed, views, loss, seconds since the start.
        rates: learning_rate, validation AUC of the short runs that chose it.
        rate: the chosen one.
    """

    models: tuple[Baseline, ...]
    history: list[dict[str, float]]
    rates: list[dict[str, float]]
    rate: float


def train_baseline(
    make: MakeBaseline,
    material: Material,
    setup: Setup,
    validation: Validation,
    settings: BaselineTraining,
    folder: Path,
    device: torch.device,
) -> Trained:
    """Choose a learning rate, then train every seed; or read what is current.

    Args:
        make: from a set-up to an untrained model.
        folder: keeps weights, curves and the chosen rate by content.
    """
    name = make(setup).name
    slug = name.lower().replace(" ", "-")
    code = [*_CODE, make.__module__.rsplit(".", 1)[-1]]
    files = [PROJECT / "rctpl_utils" / "baselines" / f"{each}.py" for each in code]
    key = hash_of(material.key, settings, [sha256_file(file) for file in files])
    record = folder / f"{slug}.json"
    weights = [folder / f"{slug}-{seed}.safetensors" for seed in settings.seeds]
    if not record.exists() or read_json(record)["key"] != key or not _all(weights):
        rates = [
            {"learning_rate": rate, "auc": auc}
            for rate in settings.rates
            for auc in [_trial(make, material, setup, validation, settings, rate, device)]
        ]
        rate = max(rates, key=lambda each: each["auc"])["learning_rate"]
        history = []
        for seed, path in zip(settings.seeds, weights, strict=True):
            model, curve = train(make, material, setup, settings, rate, seed, device)
            history += [{"seed": seed, **row} for row in curve]
            with atomic_path(path) as temporary:
                save_file(_state(model), temporary, {"key": key})
        write_json(record, {"key": key, "rate": rate, "rates": rates, "history": history})
    stored = read_json(record)
    models = tuple(_load(make(setup), path, device) for path in weights)
    return Trained(models, stored["history"], stored["rates"], stored["rate"])


def train(
    make: MakeBaseline,
    material: Material,
    setup: Setup,
    settings: BaselineTraining,
    rate: float,
    seed: int,
    device: torch.device,
    views: int | None = None,
) -> tuple[Baseline, list[dict[str, float]]]:
    """AdamW with a warm-up and a cosine, `views` film views in all (the profile's by default)."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    model = make(setup).to(device).train()
    steps = math.ceil((views or settings.views) / settings.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=WARM_UP
    )
    history, start = [], time.perf_counter()
    recent: list[float] = []
    with tqdm(
        total=steps * settings.batch_size, desc=f"{model.name}, seed {seed}", unit="view"
    ) as bar:
        for step in range(1, steps + 1):
            films = generator.choice(len(material.maps), settings.batch_size, p=material.chances)
            loss = model.loss(draw_batch(material, films, generator, device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            recent.append(loss.item())
            bar.update(settings.batch_size)
            if step % max(steps // 20, 1) == 0 or step == steps:
                history.append(
                    {
                        "views": step * settings.batch_size,
                        "loss": float(np.mean(recent)),
                        "seconds": time.perf_counter() - start,
                    }
                )
                recent = []
    return model.eval().requires_grad_(False), history


def validation_auc(model: Baseline, validation: Validation, device: torch.device) -> float:
    """Macro AUC of zero-shot scores on the validation films, without an interval."""
    scores = score_maps(model, validation.maps, validation.concepts, device)
    ones = np.ones((1, len(scores)), np.float32)
    values = [
        weighted_auc(labels, scored, ones)[0]
        for labels, scored in zip(validation.labels.T, scores.T, strict=True)
        if scorable(labels)
    ]
    return float(np.mean(values))


def score_maps(
    model: Baseline, maps: np.ndarray, concepts: Sequence[str], device: torch.device
) -> np.ndarray:
    """Scores of n films, a part at a time: (n, L)."""
    parts = []
    for start in range(0, len(maps), SCORED):
        films = torch.from_numpy(np.array(maps[start : start + SCORED])).to(device)
        parts.append(model.classify(films, concepts).cpu().numpy())
    return np.concatenate(parts)


def _trial(
    make: MakeBaseline,
    material: Material,
    setup: Setup,
    validation: Validation,
    settings: BaselineTraining,
    rate: float,
    device: torch.device,
) -> float:
    seed = settings.seeds[0]
    model, _ = train(make, material, setup, settings, rate, seed, device, settings.trial_views)
    return validation_auc(model, validation, device)


def _state(model: Baseline) -> dict[str, torch.Tensor]:
    return {name: value.cpu().contiguous() for name, value in model.state_dict().items()}


def _load(model: Baseline, path: Path, device: torch.device) -> Baseline:
    model.load_state_dict(load_file(path))
    return model.to(device).eval().requires_grad_(False)


def _all(paths: Sequence[Path]) -> bool:
    return all(path.exists() for path in paths)
