"""The supervised reference of Tables 1 to 5: a small network that learned from labels.

It is not zero-shot: it starts from the frozen encoder's image model and is trained on the labels of
the training films and of the validation films of Table 1's test sets (so it knows each hospital's
style, and COVID-19). Its logits are its rows in Tables 1 and 5, its class activation maps those in
Tables 2 to 4. It shows which concepts are hard to see. It is no strict bound: it can be worse than
the frozen encoder on a rare class. It is for the stand-in only, whose size it shares: a run with
another encoder leaves the rows out.
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
from rctpl_utils.code_hash import code_of
from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.chexpert import COMPETITION
from rctpl_utils.datasets.splits import open_split, present
from rctpl_utils.encoders.base import Encoder, autocast, describe_device
from rctpl_utils.encoders.features import file_stamps
from rctpl_utils.encoders.pretraining import RECORDS, augment, load_images, rate_at
from rctpl_utils.encoders.release import (
    add_file,
    check_probe,
    fit,
    is_current,
    probe_films,
    read_weights,
    released_file,
)
from rctpl_utils.encoders.standin import ImageTower, StandIn
from rctpl_utils.evaluation.grounding import Films, Grounder
from rctpl_utils.evaluation.retrieval import Pair, Side, standardized, unit
from rctpl_utils.evaluation.retrieval_sides import DATASET
from rctpl_utils.evaluation.table1 import SUPERVISED, TABLE1_DATASETS, Scorer
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
        parts = []
        for rows in torch.arange(len(dataset)).split(BATCH):
            films = [self.encoder.preprocess(dataset.pixels(row)) for row in rows.tolist()]
            parts.append(self.network(torch.stack(films).to(self.encoder.device)))
        columns = [CONCEPTS.index(concept) for concept in concepts]
        return torch.cat(parts).cpu().numpy()[:, columns]

    def maps(self, films: Films) -> Tensor:
        """`activation_map` of what a table of grounding asks for."""
        return self.activation_map(films.images, films.concept)

    @torch.no_grad()
    def activation_map(self, images: Tensor, concept: str) -> Tensor:
        """What each cell adds to a concept's logit (class activation map, Zhou et al. 2016).

        The head has a weight for the cells' mean and one for their maximum; their sum is taken.
        Preprocessed images (n, 1, S, S) to (n, S / 8, S / 8).
        """
        batch = images.to(self.encoder.device, memory_format=torch.channels_last)
        weight = self.network.head.weight[CONCEPTS.index(concept)].unflatten(0, (2, -1)).sum(dim=0)
        return self.network.tower.cells(batch).float() @ weight


@dataclass(frozen=True)
class LabeledImages:
    """Films (n, S, S) uint8 with labels (n, 21): 1, 0, or NaN where unknown.

    The first `training` are MIMIC-CXR's; the others are validation films.
    """

    images: np.ndarray
    labels: np.ndarray
    training: int

    @property
    def chances(self) -> np.ndarray:
        """Half of a batch from either kind, however few films one has: (n,), sum one."""
        other = len(self.images) - self.training
        kinds = [np.full(count, 0.5 / count) for count in (self.training, other) if count]
        chances = np.concatenate(kinds)
        return chances / chances.sum()


def train_reference(
    tower: ImageTower,
    films: LabeledImages,
    settings: ReferenceTraining,
    seed: int,
    device: torch.device,
    checkpoint: Path | None = None,
) -> tuple[LabelNetwork, list[dict[str, float]]]:
    """Train on labels: binary cross-entropy, unknown labels masked (`training.fit`).

    `tower`, where training starts, is left as it is; a training that may be killed keeps its state
    in `checkpoint`. Returns the frozen network, and rows of views, loss and seconds.
    """
    torch.manual_seed(seed)
    network = LabelNetwork(tower).to(device).train()
    steps, size = math.ceil(settings.views / settings.batch_size), settings.batch_size
    up_to, every = np.cumsum(films.chances), max(steps // RECORDS, 1)
    images = torch.from_numpy(films.images)
    images = images.to(device) if device.type == "cuda" else images

    def loss(step: int) -> Tensor:
        generator = np.random.default_rng([seed, step])
        rows = np.minimum(np.searchsorted(up_to, generator.random(size)), len(up_to) - 1)
        target = torch.from_numpy(films.labels[rows].astype(np.float32)).to(device)
        batch = images[torch.from_numpy(rows).to(images.device)].to(device)
        with autocast(device):
            logits = network(augment(batch, generator))
        return functional.binary_cross_entropy_with_logits(
            logits, target.nan_to_num(), weight=(~target.isnan()).float()
        )

    history = training.fit(
        network, loss, settings.learning_rate,
        lambda step, _: rate_at(step, steps) if step < steps else None,
        lambda step, _: None if step % every and step < steps else {},
        size, steps * size, device, checkpoint, f"supervised reference {seed}",
    )  # fmt: skip
    return network.eval().requires_grad_(False), history


def labeled_images(workspace: Workspace, size: int, triplets: pd.DataFrame) -> LabeledImages:
    """The training films, labeled by triplets, then the validation films of Table 1's test sets.

    `size` is S, of the image tower in pixels.
    """
    training, *others = _labeled_sets(workspace)
    # reports tell all concepts, the CheXpert table only thirteen
    by_report = report_labels(triplets, list(training.records["study"].unique()), CONCEPTS)
    labels = [by_report.loc[training.records["study"]].to_numpy(np.float32)]
    labels += [s.records.reindex(columns=list(CONCEPTS)).to_numpy(np.float32) for s in others]
    images = [load_images(each, np.arange(len(each)), size) for each in (training, *others)]
    return LabeledImages(np.concatenate(images), np.concatenate(labels), len(training))


def _labeled_sets(workspace: Workspace) -> list[ChestXrayDataset]:
    names = present(workspace, TABLE1_DATASETS)
    others = [open_split(workspace, name, "validation") for name in names]
    return [open_split(workspace, "mimic-cxr", "train"), *others]


def load_references(
    workspace: Workspace, encoders: Sequence[Encoder]
) -> tuple[SupervisedBound, ...]:
    """The reference of each seed, trained first where a profile says so; none beside a checkpoint.

    One encoder a seed. An `InputError` tells of weights that are absent, damaged or of other code.
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
    """One seed's reference, verified, frozen, on the encoder's device.

    An `InputError` tells of a file that is absent, damaged, of another architecture or other code.
    """
    path = released_file(reference_name(seed), folder)
    network = assemble_reference(path)
    check_probe(path.name, probe_reference(network, encoder.image_size), folder)
    return SupervisedBound(encoder, network.to(encoder.device))


def train_references(
    workspace: Workspace, encoders: Sequence[StandIn], triplets: pd.DataFrame
) -> None:
    """Train the reference of every seed of the profile that is missing or out of date."""
    settings, device, films = workspace.profile.reference, workspace.device, None
    stamps = [file_stamps(each) for each in _labeled_sets(workspace)]
    records = triplets[["report_id", "concept", "positive"]].to_csv(index=False)
    key = hash_of(stamps, records, settings, code_of(train_reference))
    for seed, encoder in zip(workspace.profile.seeds, encoders, strict=True):
        own, name = hash_of(key, seed, encoder.image_key), reference_name(seed)
        if is_current(workspace.weights, name, own):
            continue
        films = films or labeled_images(workspace, encoder.image_size, triplets)
        part = workspace.build / "checkpoints" / f"{name}-{own[:12]}.part"
        network, curve = train_reference(encoder.image, films, settings, seed, device, part)
        notes = {
            "kind": "supervised reference",
            "seed": seed,
            "key": own,
            "image_size": encoder.image_size,
            "trained_on": f"{films.training} labeled training films and "
            f"{len(films.images) - films.training} validation films",
            "settings": settings,
            "views": curve[-1]["views"],
            "seconds": curve[-1]["seconds"],
            "device": describe_device(device),
            "curve": curve,
        }
        add_file(
            workspace.weights, name, network.state_dict(), notes,
            lambda path: probe_reference(assemble_reference(path), notes["image_size"]),  # noqa: B023
        )  # fmt: skip


def assemble_reference(path: Path) -> LabelNetwork:
    """A file's weights in a frozen label network on the CPU; `InputError` if they do not fit."""
    network = LabelNetwork(ImageTower())
    fit(network, read_weights(path), path)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def probe_reference(network: LabelNetwork, side: int) -> np.ndarray:
    """Some logits of two made-up films: (6,)."""
    return network(probe_films(side))[:, :3].flatten().numpy()


def reference_name(seed: int) -> str:
    """The file of a seed's reference."""
    return f"reference-{seed}.safetensors"


def reference_scorers(references: Sequence[SupervisedBound]) -> dict[str, list[Scorer]]:
    """For Table 1: one function a seed; no row without references."""
    return {SUPERVISED: [each.scores for each in references]} if references else {}


def reference_grounders(references: Sequence[SupervisedBound]) -> list[Grounder]:
    """For Tables 2 to 4: class activation maps of the labels' networks."""
    return [Grounder(SUPERVISED, tuple(each.maps for each in references))] if references else []


def reference_pairs(
    workspace: Workspace, references: Sequence[SupervisedBound], images: Side, sentences: Side
) -> dict[str, list[Pair]]:
    """For Table 5: a film's logits for the five classes against each sentence's own class.

    The sentences' classes are given, not guessed: what is bounded is how well films are told apart.
    """
    if not references:
        return {}
    dataset = open_split(workspace, DATASET, "test")
    places = pd.Index(dataset.records["image_id"]).get_indexer(images.records["item_id"])
    classes = unit(standardized(np.eye(len(COMPETITION))[sentences.classes]))
    logits = (each.scores(dataset, COMPETITION)[places] for each in references)
    return {SUPERVISED: [Pair(unit(standardized(each)), classes) for each in logits]}
