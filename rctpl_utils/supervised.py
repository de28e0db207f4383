"""The supervised reference of Tables 1 to 5: a small network that learned from labels.

It is not zero-shot: it starts from the frozen encoder's image tower and is trained on the labels of
the training films and of the validation films of Table 1's test sets (so it knows each hospital's
style, and COVID-19). Its logits are its rows in Tables 1 and 5, its class activation maps those in
Tables 2 to 4 (`supervised_rows`). It shows which concepts are hard to see. It is no strict bound:
after a few epochs it can be worse than the frozen encoder on a rare class. It is for the stand-in
only, whose size and budget it shares: a run with another encoder leaves the rows out.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from rctpl_utils.availability import present
from rctpl_utils.concepts import report_labels
from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.features import file_stamps
from rctpl_utils.files import atomic_path, hash_of, sha256_file
from rctpl_utils.precision import autocast
from rctpl_utils.pretraining import augment
from rctpl_utils.pretraining_data import load_images
from rctpl_utils.table1 import TABLE1_DATASETS, open_split
from rctpl_utils.vocabulary import CONCEPTS
from rctpl_utils.workspace import Workspace

EPOCHS = 3
BATCH = 64
LEARNING_RATE = 1e-3


class SupervisedBound(nn.Module):
    """The image tower with one linear layer on the mean and the maximum of its cells."""

    def __init__(self, encoder: StandIn) -> None:
        super().__init__()
        self.encoder = encoder
        self.tower = deepcopy(encoder.image).requires_grad_(True)
        self.head = nn.Linear(2 * self.tower.projection.in_features, len(CONCEPTS))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, S, S) to logits (n, 21), one a concept, COVID-19 last."""
        flat = self.tower.cells(x.to(memory_format=torch.channels_last)).flatten(1, 2)
        return self.head(torch.cat([flat.mean(dim=1), flat.amax(dim=1)], dim=-1)).float()

    @torch.no_grad()
    def scores(self, dataset: ChestXrayDataset, concepts: Sequence[str]) -> np.ndarray:
        """Logits of a data set's films for L concepts: (n, L)."""
        parts = []
        for start in range(0, len(dataset), BATCH):
            rows = range(start, min(start + BATCH, len(dataset)))
            batch = torch.stack([self.encoder.preprocess(dataset.pixels(i)) for i in rows])
            with autocast(self.encoder.device):
                parts.append(self(batch.to(self.encoder.device)))
        columns = [CONCEPTS.index(concept) for concept in concepts]
        return torch.cat(parts).cpu().numpy()[:, columns]

    @torch.no_grad()
    def activation_map(self, images: Tensor, concept: str) -> Tensor:
        """What each cell adds to a concept's logit (class activation map, Zhou et al. 2016).

        The head has a weight for the cells' mean and one for their maximum; their sum is taken.

        Args:
            images: preprocessed, (n, 1, S, S).
            concept: one of `CONCEPTS`.

        Returns:
            (n, S / 8, S / 8).
        """
        batch = images.to(self.encoder.device, memory_format=torch.channels_last)
        weight = self.head.weight[CONCEPTS.index(concept)].unflatten(0, (2, -1)).sum(dim=0)
        return self.tower.cells(batch).float() @ weight


def load_reference(
    workspace: Workspace, encoder: Encoder, triplets: pd.DataFrame
) -> SupervisedBound | None:
    """The reference of a run, trained once; None for encoders other than the stand-in."""
    if not isinstance(encoder, StandIn):
        return None
    stamps = [file_stamps(dataset) for dataset in _labeled_sets(workspace)]
    records = triplets[["report_id", "concept", "positive"]].to_csv(index=False)
    code = sha256_file(__file__)
    key = hash_of(encoder.image_key, stamps, records, EPOCHS, BATCH, LEARNING_RATE, code)
    path = workspace.build / "supervised.safetensors"
    if not path.exists() or _stored_key(path) != key:
        trained = train_bound(workspace, encoder, triplets)
        state = {
            name: value.cpu().contiguous()
            for name, value in trained.state_dict().items()
            if not name.startswith("encoder.")
        }
        with atomic_path(path) as temporary:
            save_file(state, temporary, {"key": key})
    model = SupervisedBound(encoder)
    model.load_state_dict(model.state_dict() | load_file(path))  # the encoder's are its own
    return model.to(encoder.device).eval().requires_grad_(False)


def _stored_key(path: Path) -> str | None:
    with safe_open(path, "pt") as stored:
        return (stored.metadata() or {}).get("key")


def train_bound(
    workspace: Workspace, encoder: StandIn, triplets: pd.DataFrame, seed: int = 0
) -> SupervisedBound:
    """Train on labels: binary cross-entropy, unknown labels masked, `EPOCHS` passes."""
    torch.manual_seed(seed)
    images, labels = _labeled_films(workspace, encoder.image_size, triplets)
    model = SupervisedBound(encoder).to(encoder.device).train()
    learned = [*model.tower.parameters(), *model.head.parameters()]
    optimizer = torch.optim.AdamW(learned, LEARNING_RATE, weight_decay=1e-2)
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    generator = np.random.default_rng(seed)
    with tqdm(total=EPOCHS * len(images), desc="supervised reference", unit="image") as bar:
        for _ in range(EPOCHS):
            order = generator.permutation(len(images))
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                target = torch.from_numpy(labels[rows]).to(encoder.device)
                with autocast(encoder.device):
                    logits = model(augment(torch.from_numpy(images[rows]).to(encoder.device)))
                loss = functional.binary_cross_entropy_with_logits(
                    logits, target.nan_to_num(), weight=(~target.isnan()).float()
                )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update(len(rows))
    return model.eval()


def _labeled_sets(workspace: Workspace) -> list[ChestXrayDataset]:
    """The training films, then every test set's validation films."""
    training = open_split(workspace, "mimic-cxr", "train")
    names = present(workspace, TABLE1_DATASETS)
    return [training, *(open_split(workspace, name, "validation") for name in names)]


def _labeled_films(
    workspace: Workspace, size: int, triplets: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    training, *others = _labeled_sets(workspace)
    by_report = report_labels(triplets, list(training.records["study"].unique()), CONCEPTS)
    for dataset in (training, *others):
        images.append(load_images(dataset, np.arange(len(dataset)), size))
        if dataset is training:  # reports tell all concepts, the CheXpert table only thirteen
            labels.append(by_report.loc[dataset.records["study"]].to_numpy(np.float32))
        else:
            labels.append(dataset.records.reindex(columns=list(CONCEPTS)).to_numpy(np.float32))
    return np.concatenate(images), np.concatenate(labels)
