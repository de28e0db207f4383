"""The supervised reference of Tables 1 to 5: a small network that learned from labels.

Not zero-shot: from the frozen encoder's image model it is trained on the labels of the training
films and of the validation films of Table 1's test sets (so it knows each hospital's style, and
COVID-19). Its logits are its rows in Tables 1 and 5, its class activation maps those in Tables 2 to
4. It shows which concepts are hard to see, but is no strict bound: it can be worse than the frozen
encoder on a rare class. It is for the stand-in only, whose size it shares; beside another encoder
its rows are left out.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from rctpl_utils.baselines import training
from rctpl_utils.baselines.training_data import in_batches
from rctpl_utils.code_hash import code_of
from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.splits import open_split, present
from rctpl_utils.encoders import release
from rctpl_utils.encoders.base import Encoder, autocast, describe_device, freeze
from rctpl_utils.encoders.features import file_stamps
from rctpl_utils.encoders.pretraining import RECORDS, augment, fit, load_images, rate_at
from rctpl_utils.encoders.standin import ImageTower, StandIn
from rctpl_utils.evaluation.grounding import Films
from rctpl_utils.evaluation.table1 import TABLE1_DATASETS
from rctpl_utils.files import hash_of
from rctpl_utils.profiles import ReferenceTraining
from rctpl_utils.text.triplets import report_labels
from rctpl_utils.vocabulary import CONCEPTS
from rctpl_utils.workspace import Workspace

BATCH = 64  # films scored at once


class LabelNetwork(nn.Module):
    """An image tower with one linear layer on the mean and the maximum of its cells."""

    def __init__(self, tower: ImageTower) -> None:
        super().__init__()
        self.tower = deepcopy(tower).requires_grad_(True)
        self.head = nn.Linear(2 * self.tower.projection.in_features, len(CONCEPTS))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, S, S) to logits (n, 21), one a concept, COVID-19 last."""
        flat = self.tower.cells(x.to(memory_format=torch.channels_last)).flatten(1, 2)
        return self.head(torch.cat([flat.mean(dim=1), flat.amax(dim=1)], dim=-1)).float()


@dataclass(frozen=True)
class SupervisedBound:
    """A trained label network beside the encoder that it started from."""

    encoder: StandIn
    network: LabelNetwork

    @torch.no_grad()
    def scores(self, dataset: ChestXrayDataset, concepts: Sequence[str]) -> np.ndarray:
        """Logits of a data set's films for L concepts: (n, L)."""

        def logits(rows: np.ndarray) -> Tensor:
            films = [self.encoder.preprocess(dataset.pixels(row)) for row in rows.tolist()]
            return self.network(torch.stack(films).to(self.encoder.device))

        columns = [CONCEPTS.index(concept) for concept in concepts]
        return in_batches(logits, len(dataset), BATCH)[:, columns]

    @torch.no_grad()
    def activation_map(self, films: Films) -> Tensor:
        """What each cell adds to a concept's logit (class activation map, Zhou et al. 2016).

        The head has a weight for the cells' mean and one for their maximum; their sum is taken.
        Films (n, 1, S, S) to (n, S / 8, S / 8).
        """
        images = films.images.to(self.encoder.device, memory_format=torch.channels_last)
        weight = self.network.head.weight[CONCEPTS.index(films.concept)]
        return self.network.tower.cells(images).float() @ weight.unflatten(0, (2, -1)).sum(dim=0)


def train_reference(
    tower: ImageTower,
    images: np.ndarray,
    labels: np.ndarray,
    chances: np.ndarray,
    settings: ReferenceTraining,
    seed: int,
    device: torch.device,
    checkpoint: Path | None = None,
) -> tuple[LabelNetwork, list[dict[str, float]]]:
    """Train on films (n, S, S) uint8 with labels (n, 21): binary cross-entropy, NaN masked.

    `tower`, where training starts, is left as it is. The rest, and the curve, as `pretraining.fit`
    has it; the network is returned frozen.
    """
    torch.manual_seed(seed)
    network = LabelNetwork(tower).to(device).train()
    steps, size = math.ceil(settings.views / settings.batch_size), settings.batch_size
    every = max(steps // RECORDS, 1)
    films = torch.from_numpy(images)
    films = films.to(device) if device.type == "cuda" else films

    def loss(rows: np.ndarray, generator: np.random.Generator) -> Tensor:
        target = torch.from_numpy(labels[rows].astype(np.float32)).to(device)
        batch = films[torch.from_numpy(rows).to(films.device)].to(device)
        with autocast(device):
            logits = network(augment(batch, generator))
        return functional.binary_cross_entropy_with_logits(
            logits, target.nan_to_num(), weight=(~target.isnan()).float()
        )

    history = fit(
        network, training.on_drawn_films(loss, chances, seed, size), settings.learning_rate,
        lambda step, _: rate_at(step, steps) if step < steps else None,
        lambda step, _: None if step % every and step < steps else {},
        size, steps * size, device, checkpoint, f"supervised reference {seed}",
    )  # fmt: skip
    return freeze(network), history


def labeled_films(
    sets: Sequence[ChestXrayDataset], triplets: pd.DataFrame, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Films of S = `size` pixels (n, S, S) uint8, labels (n, 21) and chances to be drawn (n,).

    The first set is MIMIC-CXR's training films, labeled by triplets: reports tell all concepts, the
    CheXpert table only thirteen. The others are validation films. Half of a batch is of either
    kind, however few films one has.
    """
    films, *others = sets
    by_report = report_labels(triplets, list(films.records["study"].unique()), CONCEPTS)
    labels = [by_report.loc[films.records["study"]].to_numpy(np.float32)]
    labels += [s.records.reindex(columns=list(CONCEPTS)).to_numpy(np.float32) for s in others]
    images = [load_images(each, np.arange(len(each)), size) for each in sets]
    counts = [len(films), sum(map(len, others))]
    chances = np.concatenate([np.full(count, 0.5 / count) for count in counts if count])
    return np.concatenate(images), np.concatenate(labels), chances / chances.sum()


def load_references(
    workspace: Workspace, encoders: Sequence[Encoder]
) -> tuple[SupervisedBound, ...]:
    """The reference of each seed, trained first where a profile says so; none beside a checkpoint.

    An `InputError` tells of weights that are absent, damaged, of other code or architecture.
    """
    if not all(isinstance(each, StandIn) for each in encoders):
        return ()
    if workspace.profile.weights == "self":
        train_references(workspace, encoders, pd.read_parquet(workspace.triplets))
    return tuple(
        load_reference(encoder, seed, workspace.weights)
        for seed, encoder in zip(workspace.profile.seeds, encoders, strict=True)
    )


def load_reference(encoder: StandIn, seed: int, folder: Path) -> SupervisedBound:
    """One seed's reference, verified, frozen, on the encoder's device."""
    path = release.released_file(reference_name(seed), folder)
    network, answer = read_reference(path, encoder.image_size)
    release.check_probe(path.name, answer, folder)
    return SupervisedBound(encoder, network.to(encoder.device))


def train_references(
    workspace: Workspace, encoders: Sequence[StandIn], triplets: pd.DataFrame
) -> None:
    """Train the reference of every seed of the profile that is missing or out of date."""
    settings, device, films = workspace.profile.reference, workspace.device, None
    sets = [open_split(workspace, "mimic-cxr", "train")]
    names = present(workspace, TABLE1_DATASETS)
    sets += [open_split(workspace, name, "validation") for name in names]
    records = triplets[["report_id", "concept", "positive"]].to_csv(index=False)
    key = hash_of([file_stamps(each) for each in sets], records, settings, code_of(train_reference))
    for seed, encoder in zip(workspace.profile.seeds, encoders, strict=True):
        own, name = hash_of(key, seed, encoder.image_key), reference_name(seed)
        if release.is_current(workspace.weights, name, own):
            continue
        films = films or labeled_films(sets, triplets, encoder.image_size)
        part = workspace.build / "checkpoints" / f"{name}-{own[:12]}.part"
        network, curve = train_reference(encoder.image, *films, settings, seed, device, part)
        notes = {
            "kind": "supervised reference",
            "seed": seed,
            "key": own,
            "image_size": encoder.image_size,
            "trained_on": f"{len(sets[0])} labeled training films and "
            f"{sum(map(len, sets[1:]))} validation films",
            "settings": settings,
            "views": curve[-1]["views"],
            "seconds": curve[-1]["seconds"],
            "device": describe_device(device),
            "curve": curve,
        }
        release.add_file(
            workspace.weights, name, network.state_dict(), notes,
            lambda path: read_reference(path, notes["image_size"])[1],  # noqa: B023
        )  # fmt: skip


@torch.no_grad()
def read_reference(path: Path, side: int) -> tuple[LabelNetwork, np.ndarray]:
    """A file's frozen network (`InputError` if it does not fit), and some logits of a probe."""
    network = LabelNetwork(ImageTower())
    release.fit(network, release.read_weights(path), path)
    answer = freeze(network)(release.probe_films(side))
    return network, answer[:, :3].flatten().numpy()


def reference_name(seed: int) -> str:
    """The file of a seed's reference."""
    return f"reference-{seed}.safetensors"
