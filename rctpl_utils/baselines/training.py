"""One loop for all baselines: the same views, batches, seeds, schedule and grid of rates."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from rctpl_utils.baselines.material import Material, draw_batch
from rctpl_utils.baselines.towers import Baseline, MakeBaseline, Setup
from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.files import atomic_path, hash_of, read_json, sha256_file, write_json
from rctpl_utils.metrics import macro_auc
from rctpl_utils.profiles import BaselineTraining
from rctpl_utils.word_states import WordFile, Words
from rctpl_utils.workspace import PACKAGE_DATA, PROJECT

WEIGHT_DECAY = 1e-2
WARM_UP = 0.1  # of the steps
SCORED = 256  # films scored at once
_CODE = (
    "base", "material", "queries", "towers", "training", "trunk", "word_attention", "words",
)  # fmt: skip
_SHARED = ("pretraining", "word_states")  # MedCLIP's soft cross-entropy; the states of the texts


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
class CountedWords(WordFile):
    """Word states that count the tokens read from them."""

    read: list[int] = field(default_factory=list)

    def batch(self, rows: np.ndarray, device: torch.device) -> Words:
        """Some texts, by row."""
        words = super().batch(rows, device)
        self.read.append(int(words.seen.sum()))
        return words


def train_baseline(
    make: MakeBaseline,
    material: Material,
    setup: Setup,
    validation: Validation,
    settings: BaselineTraining,
    folder: Path,
    device: torch.device,
) -> dict[str, Any]:
    """Choose a learning rate, then train every seed; or find all current.

    The first seed is trained in full at every rate; the model with the best AUC on the validation
    films stays, and the other seeds take its rate.

    Args:
        make: from a set-up to an untrained model.
        folder: keeps weights, curves and the chosen rate by content.

    Returns:
        name, unit ("views"), parameters, rates (learning_rate and the validation AUC of the first
        seed's run with it), rate (the chosen one) and history (seed, views, tokens, loss, seconds).
    """
    name = make(setup).name
    slug = file_stem(name)
    code = [*_CODE, make.__module__.rsplit(".", 1)[-1]]
    files = [PROJECT / "rctpl_utils" / "baselines" / f"{each}.py" for each in code]
    files += [PROJECT / "rctpl_utils" / f"{each}.py" for each in _SHARED]
    files.append(PACKAGE_DATA / "knowledge.json")  # the queries' texts
    key = hash_of(material.key, settings, [sha256_file(file) for file in files])
    record = folder / f"{slug}.json"
    weights = [folder / f"{slug}-{seed}.safetensors" for seed in settings.seeds]
    if not record.exists() or read_json(record)["key"] != key or not _all(weights):
        first, *others = settings.seeds
        tried = []
        for rate in settings.rates:
            model, curve = train(make, material, setup, settings, rate, first, device)
            tried.append((validation_auc(model, validation, device), rate, model, curve))
        _, rate, *best = max(tried, key=lambda each: each[0])
        runs = [best, *(train(make, material, setup, settings, rate, s, device) for s in others)]
        history = []
        for seed, path, (model, curve) in zip(settings.seeds, weights, runs, strict=True):
            history += [{"seed": seed, **row} for row in curve]
            with atomic_path(path) as temporary:
                save_file(_state(model), temporary, {"key": key})
        rates = [{"learning_rate": rate, "auc": auc} for auc, rate, *_ in tried]
        count = sum(each.numel() for each in make(setup).parameters())
        write_json(
            record,
            {
                "name": name,
                "key": key,
                "unit": "views",
                "parameters": count,
                "rate": rate,
                "rates": rates,
                "history": history,
            },
        )
    return read_json(record)


def train(
    make: MakeBaseline,
    material: Material,
    setup: Setup,
    settings: BaselineTraining,
    rate: float,
    seed: int,
    device: torch.device,
) -> tuple[Baseline, list[dict[str, float]]]:
    """AdamW with a warm-up and a cosine over the profile's film views."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    model = make(setup).to(device).train()
    words = CountedWords(*_fields(material.words))
    masked = CountedWords(*_fields(material.masked))
    material = replace(material, words=words, masked=masked)
    steps = math.ceil(settings.views / settings.batch_size)
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
                        "tokens": sum(words.read) + sum(masked.read),
                        "loss": float(np.mean(recent)),
                        "seconds": time.perf_counter() - start,
                    }
                )
                recent = []
    return model.eval().requires_grad_(False), history


def validation_auc(model: Baseline, validation: Validation, device: torch.device) -> float:
    """Macro AUC of zero-shot scores on the validation films, without an interval."""
    scores = score_maps(model, validation.maps, validation.concepts, device)
    return macro_auc(validation.labels, scores)


def score_maps(
    model: Baseline, maps: np.ndarray, concepts: Sequence[str], device: torch.device
) -> np.ndarray:
    """Scores of n films, a part at a time: (n, L)."""
    parts = []
    for start in range(0, len(maps), SCORED):
        films = torch.from_numpy(np.array(maps[start : start + SCORED])).to(device)
        parts.append(model.classify(films, concepts).cpu().numpy())
    return np.concatenate(parts)


def file_stem(name: str) -> str:
    """A method's name as files carry it."""
    return name.lower().replace(" ", "-")


def _state(model: Baseline) -> dict[str, torch.Tensor]:
    return {name: value.cpu().contiguous() for name, value in model.state_dict().items()}


def _fields(file: WordFile) -> tuple[np.ndarray, ...]:
    return file.states, file.ids, file.lengths


def _all(paths: Sequence[Path]) -> bool:
    return all(path.exists() for path in paths)
