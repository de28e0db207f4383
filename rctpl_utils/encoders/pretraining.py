"""Pre-training the stand-in on image-report pairs with semantic matching (MedCLIP's objective).

This is not part of RC-TPL: the paper takes a pre-trained MedCLIP. It exists since MedCLIP's weights
cannot be shipped; it makes an encoder of the same kind, from the same kind of data. All randomness
of a step comes from (seed, step), so a training that was killed goes on from its checkpoint as if
nothing had happened.

What a text says, or an image shows, is a label vector: for each concept one entry for its presence,
two for its side and three for its zone; then one for each visual attribute; a last entry says
"nothing found". Absent concepts count negatively. Cosines of such vectors are the soft targets of
MedCLIP's semantic matching (Wang et al. 2022, section 3.3), extended from labels to places so that
a sentence about a left lung matches left lungs best.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.encoders.base import autocast
from rctpl_utils.encoders.standin import DIMENSION, ImageTower, square_of, standardize
from rctpl_utils.files import atomic_path
from rctpl_utils.profiles import Pretraining
from rctpl_utils.scoring import aggregate
from rctpl_utils.vocabulary import TRAINING_CONCEPTS, prompt_name, split_location, with_parents

TARGET_TEMPERATURE = 0.1  # of the soft targets
TEXTS_PER_IMAGE = 3
WEIGHT_DECAY = 1e-2
WARM_UP = 0.05  # of the steps
RECORDS = 40  # rows of the learning curve
CHECKPOINT_SECONDS = 60.0
PLACES = ("left", "right", "upper", "middle", "lower")
_ZONES_IN = {
    "upper": ("apex", "upper"),
    "middle": ("middle", "hilum", "perihilar"),
    "lower": ("lower", "base", "costophrenic", "retrocardiac"),
}
ZONES = {zone: place for place, zones in _ZONES_IN.items() for zone in zones}
PLACE_WEIGHT = 0.5
ENTRIES = 1 + len(PLACES)  # a concept's entries: presence, then places
# How findings look and spread: `simulation.stand_ins` alone makes sentences of it.
ATTRIBUTES = (
    "hazy", "patchy", "dense", "streaky", "reticular", "linear", "round", "fluid", "lucent",
    "mild", "gross", "bilateral", "peripheral", "central",
)  # fmt: skip
ATTRIBUTE_WEIGHT = 0.7
WIDTH = len(TRAINING_CONCEPTS) * ENTRIES + len(ATTRIBUTES) + 1
ATTRIBUTE_ENTRIES = np.arange(WIDTH) >= len(TRAINING_CONCEPTS) * ENTRIES
ATTRIBUTE_ENTRIES[-1] = False
Row = dict[str, float]  # of a learning curve


def label_vector(findings: Sequence[tuple[str, str | None, str]]) -> np.ndarray:
    """(concept, location, positive) triplets to one label vector, (WIDTH,) float32."""
    vector = np.zeros(WIDTH, np.float32)
    for concept, _, positive in findings:
        if positive == "absent":
            vector[TRAINING_CONCEPTS.index(concept) * ENTRIES] = -1
    present = [(concept, place) for concept, place, positive in findings if positive == "present"]
    for concept, location in present:
        _mark(vector, concept, *(split_location(location) if location else (None, None)))
    vector[-1] = float(not present)
    return vector


def attribute_vector(
    concept: str, side: str | None, zone: str | None, attributes: Iterable[str]
) -> np.ndarray:
    """What a sentence about looks says, (WIDTH,): its concept, with its parents, at side and zone,
    and `ATTRIBUTES`.
    """
    vector = np.zeros(WIDTH, np.float32)
    _mark(vector, concept, side, zone)
    for each in attributes:
        vector[len(TRAINING_CONCEPTS) * ENTRIES + ATTRIBUTES.index(each)] = ATTRIBUTE_WEIGHT
    return vector


def _mark(vector: np.ndarray, concept: str, side: str | None, zone: str | None) -> None:
    sides = ("left", "right") if side == "bilateral" else (side,)
    places = [PLACES.index(p) for p in (*sides, ZONES.get(zone)) if p in PLACES]
    for each in with_parents([concept]):
        start = TRAINING_CONCEPTS.index(each) * ENTRIES
        vector[start] = 1
        for place in places:
            vector[start + 1 + place] = PLACE_WEIGHT


@dataclass(frozen=True)
class TextBank:
    """Distinct texts of the training reports."""

    texts: list[str]
    vectors: np.ndarray  # what each text says, (n, WIDTH)
    rows: list[np.ndarray]  # for each report, of all its texts (the whole report first)
    finding_rows: list[np.ndarray]  # for each report, of its texts that name a present finding
    report_vectors: np.ndarray  # what each report says, (reports, WIDTH)


def build_text_bank(
    report_ids: list[str], report_texts: list[str], triplets: pd.DataFrame
) -> TextBank:
    """Whole reports, their sentences with a concept, and one phrase a triplet.

    No knowledge description is among them: the encoder meets those for the first time when the
    prompts are trained, as MedCLIP does.
    """
    known = triplets[triplets["concept"].isin(TRAINING_CONCEPTS)]
    groups = dict(iter(known.groupby("report_id", sort=False)))
    index: dict[tuple[str, bytes], int] = {}
    vectors, rows, finding_rows, report_vectors = [], [], [], []

    def add(text: str, vector: np.ndarray) -> int:
        row = index.setdefault((text, vector.tobytes()), len(index))
        if row == len(vectors):
            vectors.append(vector)
        return row

    for report_id, text in zip(report_ids, report_texts, strict=True):
        group = groups.get(report_id)
        whole = label_vector(_findings(group))
        report_vectors.append(whole)
        mine = [add(text, whole)]
        if group is not None:
            for sentence, part in group.groupby("sentence", sort=False):
                mine.append(add(str(sentence), label_vector(_findings(part))))
            for concept, location, positive in dict.fromkeys(_findings(group)):
                if positive != "uncertain":
                    name = prompt_name(concept)
                    placed = f"{name}, {location}" if location else name
                    phrase = f"no {name}" if positive == "absent" else placed
                    mine.append(add(phrase, label_vector([(concept, location, positive)])))
        rows.append(np.array(list(dict.fromkeys(mine))))
        finding_rows.append(np.array([r for r in rows[-1] if (vectors[r][:-1] > 0).any()], int))
    texts = [text for text, _ in index]
    return TextBank(texts, np.stack(vectors), rows, finding_rows, np.stack(report_vectors))


def training_texts(bank: TextBank, impressions: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """All texts that anything learns from, in one order: the bank's, then the impressions.

    And for each report the row of its impression, of the whole report where that is empty.
    """
    texts, rows = list(bank.texts), []
    for own, impression in zip(bank.rows, impressions, strict=True):
        rows.append(len(texts) if impression else own[0])
        if impression:
            texts.append(impression)
    return texts, np.array(rows)


def _findings(group: pd.DataFrame | None) -> list[tuple[str, str | None, str]]:
    if group is None:
        return []
    locations = group["location"].astype(object).where(group["location"].notna(), None)
    return list(zip(group["concept"], locations, group["positive"], strict=True))


@dataclass(frozen=True)
class TextLists:
    """For each of n things some of the texts, as one table that whole batches are drawn from."""

    rows: np.ndarray  # (n, m), of the texts, each list padded to the longest
    counts: np.ndarray  # (n,), how many there are; none is allowed

    @classmethod
    def of(cls, lists: list[np.ndarray]) -> "TextLists":
        """From n lists of rows."""
        counts = np.array([len(each) for each in lists])
        rows = np.zeros((len(lists), max(counts.max(initial=0), 1)), np.int64)
        for place, each in enumerate(lists):
            rows[place, : len(each)] = each
        return cls(rows, counts)

    def draw(self, which: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
        """`count` random texts, with replacement, of each named thing that has any, in order."""
        places = (generator.random((len(which), count)) * self.counts[which, None]).astype(int)
        drawn = self.rows[which[:, None], places]
        return drawn[self.counts[which] > 0].ravel()


@dataclass(frozen=True)
class Pairs:
    """Training images with what is said of each."""

    images: np.ndarray  # (n, S, S) uint8
    reports: np.ndarray  # (n,), row of the image's report
    image_vectors: np.ndarray  # what each image shows, (n, WIDTH)
    pooled: np.ndarray  # the texts before the projection, which MiniLM gives once, (t, W) float16
    vectors: np.ndarray  # what each text says, (t, WIDTH)
    texts: TextLists  # of each report
    findings: TextLists  # those of each report's texts that name a present finding
    looks: TextLists  # of each image, the attribute sentences of what is drawn

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)


class Learned(nn.Module):
    """What pre-training learns of a `StandIn`, under the same names; MiniLM stays frozen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.image = ImageTower().to(memory_format=torch.channels_last)
        self.text = nn.ModuleDict({"projection": nn.Linear(width, DIMENSION, bias=False)})
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def project(self, pooled: Tensor) -> Tensor:
        """Pooled texts (t, W) to (t, d) unit vectors."""
        return functional.normalize(self.text["projection"](pooled), dim=-1)


def pretrain(
    pairs: Pairs,
    settings: Pretraining,
    seed: int,
    device: torch.device,
    checkpoint: Path | None = None,
) -> tuple[dict[str, Tensor], list[Row]]:
    """Train the image tower and the text projection (`fit`).

    To the learned weights by their names in `StandIn`, on the CPU, and the learning curve: views,
    seconds, global_loss, local_loss.
    """
    torch.manual_seed(seed)
    data = _Data(pairs, device)
    model = Learned(pairs.pooled.shape[1])
    spread_texts(model.text["projection"], pairs.pooled.astype(np.float32))
    model.to(device).train()
    steps = math.ceil(settings.views / settings.batch_size)
    row_every, both = max(steps // RECORDS, 1), []

    def loss(step: int) -> Tensor:
        found = data.losses(model, settings, np.random.default_rng([seed, step]))
        both.append(found.detach())
        return found[0] + settings.local_weight * found[1]

    def look(step: int, _history: Sequence[Row]) -> Row | None:
        if step % row_every and step < steps:
            return None
        means = torch.stack(both).mean(dim=0).tolist()
        both.clear()
        return dict(zip(("global_loss", "local_loss"), means, strict=True))

    history = fit(
        model, loss, settings.learning_rate,
        lambda step, _: rate_at(step, steps) if step < steps else None,
        look, settings.batch_size, steps * settings.batch_size, device, checkpoint,
        f"stand-in {seed}",
    )  # fmt: skip
    names = ("views", "seconds", "global_loss", "local_loss")
    curve = [{name: row[name] for name in names} for row in history]
    for row in curve:  # the last step may go beyond
        row["views"] = min(row["views"], settings.views)
    return {name: value.detach().cpu() for name, value in model.state_dict().items()}, curve


def fit(
    module: nn.Module,
    loss: Callable[[int], Tensor],
    rate: float,
    share: Callable[[int, Sequence[Row]], float | None],
    look: Callable[[int, Sequence[Row]], Row | None],
    size: int,
    views: int,
    device: torch.device,
    checkpoint: Path | None,
    label: str,
) -> list[Row]:
    """AdamW, step after step, with a curve and a checkpoint.

    `module` is all that learns and all that a checkpoint keeps. From the step's number, `loss`
    gives a scalar; from it and the curve, `share` the share of `rate` (None at the end) and `look`
    what a row holds besides (None where no row is due). `size` views are in a step; `views` and
    `label` are for the progress bar. `checkpoint`, the state of a training that may be killed, is
    deleted at the end. Returns rows of views, the mean loss since the last row, seconds, and what
    `look` gives.
    """
    learning = [each for each in module.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(
        learning, rate, weight_decay=WEIGHT_DECAY, fused=device.type == "cuda"
    )
    step, history = 0, []
    if checkpoint is not None and checkpoint.exists():
        stored = torch.load(checkpoint, map_location=device, weights_only=True)
        module.load_state_dict(stored["model"])
        optimizer.load_state_dict(stored["optimizer"])
        step, history = stored["step"], stored["history"]
    earlier = history[-1]["seconds"] if history else 0.0
    begun, saved, losses = time.perf_counter(), 0.0, []
    with tqdm(total=views, initial=step * size, desc=label, unit="view", mininterval=2) as bar:
        while (factor := share(step, history)) is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            value = loss(step)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            losses.append(value.detach())
            step += 1
            bar.update(size)
            if (more := look(step, history)) is None:
                continue
            seconds = round(earlier + time.perf_counter() - begun, 1)
            mean = torch.stack(losses).mean().item()
            history.append({"views": step * size, "loss": mean, "seconds": seconds, **more})
            bar.set_postfix(loss=f"{mean:.3f}")
            losses = []
            if checkpoint is not None and seconds - saved > CHECKPOINT_SECONDS:
                # at rows of the curve, so that no sum is lost
                state = {"model": module.state_dict(), "optimizer": optimizer.state_dict()}
                store(checkpoint, state | {"step": step, "history": history})
                saved = seconds
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return history


def store(checkpoint: Path, state: dict[str, Any]) -> None:
    """Write everything that the next step depends on, atomically."""
    with atomic_path(checkpoint) as temporary:
        torch.save(state, temporary)


def rate_at(step: int, steps: int) -> float:
    """The share of the learning rate at a step: a linear warm-up, then a cosine to zero."""
    begin = max(round(WARM_UP * steps), 1)
    if step < begin:
        return (step + 1) / begin
    return 0.5 * (1 + math.cos(math.pi * (step - begin) / max(steps - begin, 1)))


class _Data:
    """The pairs where a step needs them: on a GPU they all fit into its memory."""

    def __init__(self, pairs: Pairs, device: torch.device) -> None:
        self.pairs, self.device = pairs, device
        images = torch.from_numpy(pairs.images)
        self.images = images.to(device) if device.type == "cuda" else images
        self.pooled = torch.from_numpy(pairs.pooled.astype(np.float32)).to(device)
        self.vectors = functional.normalize(torch.from_numpy(pairs.vectors).to(device), dim=1)
        shown = torch.from_numpy(pairs.image_vectors).to(device)
        self.image_vectors = functional.normalize(shown, dim=1)
        self.up_to = np.cumsum(balanced_chances(pairs.image_vectors))

    def losses(
        self, model: Learned, settings: Pretraining, generator: np.random.Generator
    ) -> Tensor:
        """The global and the local loss of one random batch: (2,)."""
        pairs, device = self.pairs, self.device
        rows = np.searchsorted(self.up_to, generator.random(settings.batch_size))
        rows = np.minimum(rows, len(pairs) - 1)
        reports = pairs.reports[rows]
        looks = pairs.looks.draw(rows, settings.looks, generator)
        texts = pairs.texts.draw(reports, TEXTS_PER_IMAGE, generator)
        found = pairs.findings.draw(reports, TEXTS_PER_IMAGE, generator)
        texts, found = (torch.from_numpy(np.unique(np.r_[t, looks])) for t in (texts, found))
        texts, found, rows = (each.to(device) for each in (texts, found, torch.from_numpy(rows)))
        images = self.images[rows.to(self.images.device)].to(device)
        images = augment(images, generator)
        with autocast(device):
            features = model.image(images.to(memory_format=torch.channels_last))
        shown = self.image_vectors[rows]
        scale = model.logit_scale.exp().clamp(max=100)
        whole = scale * features.global_features @ model.project(self.pooled[texts]).T
        cells = features.dense_features.flatten(1, 2)  # (B, h * w, d)
        near = cells @ model.project(self.pooled[found]).T  # (B, h * w, T)
        local = scale * aggregate(near, settings.local_temperature)
        return torch.stack(
            [
                semantic_matching(whole, shown @ self.vectors[texts].T / TARGET_TEMPERATURE),
                semantic_matching(local, shown @ self.vectors[found].T / TARGET_TEMPERATURE),
            ]
        )


def balanced_chances(vectors: np.ndarray) -> np.ndarray:
    """How often to draw each of n: more often, the rarer its rarest entry (square root); sum 1.

    `vectors`: what each shows, or its report says, (n, WIDTH).
    """
    said = vectors > 0
    rarity = np.where(said, 1 / np.maximum(said.sum(axis=0), 1), 0).max(axis=1)
    return np.sqrt(rarity) / np.sqrt(rarity).sum()


@torch.no_grad()
def spread_texts(projection: nn.Linear, pooled: np.ndarray) -> None:
    """Start from a projection in which the texts already differ in all directions (whitening).

    Mean-pooled sentence features share a large common part; from random weights the text tower
    would give nearly one point, and the images nothing to aim at.
    """
    values, directions = np.linalg.eigh(pooled.T @ pooled / len(pooled))
    top = slice(-projection.out_features, None)
    weight = directions[:, top].T / np.sqrt(values[top, None])
    projection.weight.copy_(torch.from_numpy(weight).to(projection.weight))


def semantic_matching(logits: Tensor, targets: Tensor) -> Tensor:
    """Soft cross-entropy in both directions (MedCLIP, Eq. 5 and 6).

    Of scaled cosines of B images and T texts and label similarities over a temperature, (B, T).
    """
    by_image = -(targets.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1).mean()
    by_text = -(targets.softmax(dim=0) * logits.log_softmax(dim=0)).sum(dim=0).mean()
    return (by_image + by_text) / 2


def augment(images: Tensor, generator: np.random.Generator) -> Tensor:
    """(B, S, S) uint8 to standardized (B, 1, S, S): small affine moves, gamma, noise.

    Never a mirror image: left and right mean something.
    """
    count, device = len(images), images.device
    angle = generator.uniform(-0.09, 0.09, count)  # radians
    zoom = generator.uniform(0.92, 1.08, (count, 1, 1))
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1)
    shift = generator.uniform(-0.06, 0.06, (count, 2, 1))
    moves = np.concatenate([zoom * turn.reshape(count, 2, 2), shift], axis=2).astype(np.float32)
    gamma = np.exp(generator.uniform(-0.35, 0.35, (count, 1, 1, 1))).astype(np.float32)
    noise = generator.uniform(0, 0.03, (count, 1, 1, 1)).astype(np.float32)
    x = images.float().unsqueeze(1) / 255
    grid = functional.affine_grid(
        torch.from_numpy(moves).to(device), list(x.shape), align_corners=False
    )
    x = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    x = x.clamp(1e-4, 1) ** torch.from_numpy(gamma).to(device)
    grain = torch.Generator(device).manual_seed(int(generator.integers(2**62)))
    grain = torch.randn(x.shape, generator=grain, device=device)
    return standardize(x + torch.from_numpy(noise).to(device) * grain)


def load_images(dataset: ChestXrayDataset, rows: np.ndarray, size: int) -> np.ndarray:
    """Some images, padded to a square and resized: (n, S, S) uint8."""
    images = np.empty((len(rows), size, size), np.uint8)
    for place, row in enumerate(tqdm(rows, desc=f"reading {dataset.name}", unit="image")):
        images[place] = np.rint(square_of(dataset.pixels(row), size) * 255)
    return images
