"""Pre-training the stand-in on image-report pairs with semantic matching (MedCLIP's objective).

This is not part of RC-TPL: the paper takes a pre-trained MedCLIP. It exists since MedCLIP's weights
cannot be shipped; it makes an encoder of the same kind, from the same kind of data.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.standin import StandIn, standardize
from rctpl_utils.precision import autocast
from rctpl_utils.pretraining_texts import TextBank
from rctpl_utils.profiles import Pretraining
from rctpl_utils.scoring import aggregate
from rctpl_utils.word_states import word_states

TARGET_TEMPERATURE = 0.1  # of the soft targets
LOCAL_TEMPERATURE = 0.03  # tau of the spatial softmax while pre-training
LOCAL_WEIGHT = 0.5
TEXTS_PER_IMAGE = 3
WEIGHT_DECAY = 1e-2


@dataclass(frozen=True)
class Pairs:
    """Training images with the report of each.

    Attributes:
        images: (n, S, S) uint8.
        reports: (n,) row of the image's report in `bank`.
        bank: what the reports say.
        texts: all training texts, the bank's first (`pretraining_texts.training_texts`).
    """

    images: np.ndarray
    reports: np.ndarray
    bank: TextBank
    texts: list[str]


def pretrain(
    pairs: Pairs, image_size: int, settings: Pretraining, features: Path, device: torch.device
) -> tuple[StandIn, list[dict[str, float]]]:
    """Train the image tower and the text projection; MiniLM stays frozen.

    Args:
        features: the feature cache, which keeps the texts' word states.

    Returns:
        the frozen encoder and one row an epoch with its losses.
    """
    torch.manual_seed(settings.seed)
    generator = np.random.default_rng(settings.seed)
    model = StandIn(image_size).to(device)
    pooled = _pooled(model, pairs, features)
    spread_texts(model.text.projection, pooled)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, settings.learning_rate, weight_decay=WEIGHT_DECAY)
    steps = settings.epochs * math.ceil(len(pairs.images) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps, pct_start=0.15
    )
    chances = balanced_chances(pairs.bank.report_vectors[pairs.reports])
    history = []
    model.train()
    with tqdm(total=len(pairs.images) * settings.epochs, desc="pre-training", unit="image") as bar:
        for epoch in range(settings.epochs):
            losses = []
            order = generator.choice(len(pairs.images), len(pairs.images), p=chances)
            for start in range(0, len(order), settings.batch_size):
                rows = order[start : start + settings.batch_size]
                both = _losses(model, pairs, pooled, rows, generator)
                loss = both[0] + LOCAL_WEIGHT * both[1]
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append([each.item() for each in both])
                bar.update(len(rows))
            means = np.mean(losses, axis=0)
            history.append({"epoch": epoch + 1, "global_loss": means[0], "local_loss": means[1]})
            bar.set_postfix(loss=f"{means.sum():.3f}")
    return freeze(model), history


def _pooled(model: StandIn, pairs: Pairs, features: Path) -> np.ndarray:
    """The bank's texts before the projection, which MiniLM gives once: (n, W) float32.

    The texts that only baselines read go through MiniLM with them: both then find one file.
    """
    words, _ = word_states(model.text, pairs.texts, features)
    return words.means(np.arange(len(pairs.bank.texts)))


def _losses(
    model: StandIn,
    pairs: Pairs,
    pooled: np.ndarray,
    rows: np.ndarray,
    generator: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    device = model.device
    reports = pairs.reports[rows]
    images = torch.from_numpy(pairs.images[rows]).to(device)
    with autocast(device):
        features = model.image(augment(images).to(memory_format=torch.channels_last))
    seen = pairs.bank.report_vectors[reports]
    scale = model.logit_scale.exp().clamp(max=100)
    texts = _draw(pairs.bank.rows, reports, generator)
    whole = scale * features.global_features @ _project(model, pooled[texts]).T
    findings = _draw(pairs.bank.finding_rows, reports, generator)
    cells = features.dense_features.flatten(1, 2)  # (B, h * w, d)
    local = scale * aggregate(cells @ _project(model, pooled[findings]).T, LOCAL_TEMPERATURE)
    vectors = pairs.bank.vectors
    return (
        semantic_matching(whole, soft_targets(seen, vectors[texts], device)),
        semantic_matching(local, soft_targets(seen, vectors[findings], device)),
    )


def _draw(
    rows: list[np.ndarray], reports: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Up to `TEXTS_PER_IMAGE` of each report's texts."""
    drawn = [generator.permutation(rows[report])[:TEXTS_PER_IMAGE] for report in reports]
    return np.unique(np.concatenate(drawn))


def balanced_chances(vectors: np.ndarray) -> np.ndarray:
    """How often to draw each image: more often, the rarer its rarest entry (square root).

    Args:
        vectors: what each image's report says, (n, WIDTH).

    Returns:
        (n,), summing to one.
    """
    said = vectors > 0
    rarity = np.where(said, 1 / np.maximum(said.sum(axis=0), 1), 0).max(axis=1)
    return np.sqrt(rarity) / np.sqrt(rarity).sum()


@torch.no_grad()
def spread_texts(projection: torch.nn.Linear, pooled: np.ndarray) -> None:
    """Start from a projection in which the texts already differ in all directions (whitening).

    Mean-pooled sentence features share a large common part; from random weights the text tower
    would give nearly one point, and the images nothing to aim at.
    """
    values, directions = np.linalg.eigh(pooled.T @ pooled / len(pooled))
    top = slice(-projection.out_features, None)
    weight = directions[:, top].T / np.sqrt(values[top, None])
    projection.weight.copy_(torch.from_numpy(weight).to(projection.weight))


def _project(model: StandIn, pooled: np.ndarray) -> Tensor:
    return model.text.project(torch.from_numpy(pooled).to(model.device))


def soft_targets(images: np.ndarray, texts: np.ndarray, device: torch.device) -> Tensor:
    """Cosines of label vectors, (B, WIDTH) and (T, WIDTH), over a temperature: (B, T) logits."""
    seen, said = (torch.from_numpy(each).to(device) for each in (images, texts))
    cosines = functional.normalize(seen, dim=1) @ functional.normalize(said, dim=1).T
    return cosines / TARGET_TEMPERATURE


def semantic_matching(logits: Tensor, targets: Tensor) -> Tensor:
    """Soft cross-entropy in both directions (MedCLIP, Eq. 5 and 6).

    Args:
        logits: scaled cosines of B images and T texts, (B, T).
        targets: label similarities over their temperature, (B, T).
    """
    by_image = -(targets.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1).mean()
    by_text = -(targets.softmax(dim=0) * logits.log_softmax(dim=0)).sum(dim=0).mean()
    return (by_image + by_text) / 2


def augment(images: Tensor) -> Tensor:
    """(B, S, S) uint8 to standardized (B, 1, S, S): small affine moves, gamma, noise.

    Never a mirror image: left and right mean something.
    """
    x = images.float().unsqueeze(1) / 255
    count = len(x)
    angle = torch.empty(count).uniform_(-0.09, 0.09)  # radians
    zoom = torch.empty(count, 1, 1).uniform_(0.92, 1.08)
    turn = torch.stack(
        [torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)],
        1,
    )
    shift = torch.empty(count, 2, 1).uniform_(-0.06, 0.06)
    grid = functional.affine_grid(
        torch.cat([zoom * turn, shift], -1).to(x.device), list(x.shape), align_corners=False
    )
    x = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    gamma = torch.empty(count, 1, 1, 1, device=x.device).uniform_(-0.35, 0.35).exp()
    noise = torch.empty(count, 1, 1, 1, device=x.device).uniform_(0, 0.03)
    x = x.clamp(1e-4, 1) ** gamma
    return standardize(x + noise * torch.randn_like(x))
