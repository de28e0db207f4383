"""The frozen stand-ins of a run, one a seed: the released ones, or trained where a profile says so.

Each result is kept in a folder of weights (`Workspace.weights`) and trained again only when what it
was made of changes; a training that was killed goes on from its checkpoint.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from rctpl_utils.code_hash import code_of
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.loading import load_encoders
from rctpl_utils.encoders.precision import describe_device
from rctpl_utils.encoders.pretraining import Pairs, pretrain
from rctpl_utils.encoders.release import add_file, is_current, manifest
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.encoders.text_tower import TextTower
from rctpl_utils.files import hash_of
from rctpl_utils.simulation.pretraining_data import load_pairs
from rctpl_utils.text.reports import Report
from rctpl_utils.workspace import Workspace


def frozen_encoders(
    workspace: Workspace, reports: Sequence[Report], triplets: pd.DataFrame
) -> tuple[tuple[Encoder, ...], pd.DataFrame]:
    """The run's frozen encoders, one a seed; those that a profile trains are trained first.

    Args:
        reports: all reports; those of the training split are used.
        triplets: their triplets.

    Returns:
        the encoders, and the stand-ins' learning curves (seed, views, seconds, global_loss,
        local_loss); an empty one beside a checkpoint.

    Raises:
        InputError: released weights that are absent, damaged or of other code.
    """
    if workspace.profile.weights == "self" and workspace.profile.pretraining is not None:
        train_stand_ins(workspace, reports, triplets)
    if workspace.profile.weights == "release":
        _make_release(workspace)
    if workspace.profile.encoder != "standin":
        return load_encoders(workspace), pd.DataFrame()
    return load_encoders(workspace), stand_in_curves(workspace)


def _make_release(workspace: Workspace) -> None:
    from rctpl_utils.simulation.release_making import (
        make_release,  # it makes what this module opens
    )

    where = {"output": workspace.output, "device": str(workspace.device)}
    make_release(Workspace.open("release", **where))


def train_stand_ins(
    workspace: Workspace, reports: Sequence[Report], triplets: pd.DataFrame
) -> None:
    """Train the stand-in of every seed of the profile that is missing or out of date."""
    settings, size = workspace.profile.pretraining, workspace.profile.world.image_size
    training = [report for report in reports if report.split == "train"]
    tower = TextTower.minilm(1).to(workspace.device)
    root, features = workspace.data_root, workspace.features
    pairs = load_pairs(root, training, triplets, tower, size, features)
    key = hash_of(settings, size, *map(_digest, _arrays(pairs)), code_of(pretrain, StandIn))
    for seed in workspace.profile.seeds:
        name = stand_in_name(seed)
        if is_current(workspace.weights, name, f"{key}-{seed}"):
            continue
        part = workspace.build / "checkpoints" / f"{name}-{key[:12]}.part"
        weights, curve = pretrain(pairs, settings, seed, workspace.device, part)
        notes = {
            "kind": "stand-in",
            "seed": seed,
            "key": f"{key}-{seed}",
            "image_size": size,
            "trained_on": f"{len(pairs)} simulated films of {len(training)} reports",
            "settings": settings,
            "views": curve[-1]["views"],
            "seconds": curve[-1]["seconds"],
            "device": describe_device(workspace.device),
            "curve": curve,
        }
        add_stand_in(workspace.weights, name, weights, notes)


def add_stand_in(folder: Path, name: str, weights: dict[str, torch.Tensor], notes: dict) -> None:
    """Write a stand-in's learned weights into a folder of weights."""

    def answer(path: Path) -> np.ndarray:
        return StandIn.assemble(path, notes["image_size"]).probe()

    add_file(folder, name, weights, notes, answer)


def stand_in_name(seed: int) -> str:
    """The file of a seed's stand-in."""
    return f"standin-{seed}.safetensors"


def stand_in_curves(workspace: Workspace) -> pd.DataFrame:
    """Learning curves of the run's stand-ins, as their manifest has them."""
    files = manifest(workspace.weights)["files"]
    curves = [
        pd.DataFrame(files[stand_in_name(seed)]["curve"]).assign(seed=seed)
        for seed in workspace.profile.seeds
    ]
    return pd.concat(curves, ignore_index=True)


def _arrays(pairs: Pairs) -> tuple[np.ndarray, ...]:
    lists = (pairs.texts, pairs.findings, pairs.looks)
    return (
        pairs.images, pairs.reports, pairs.image_vectors, pairs.pooled, pairs.vectors,
        *(array for each in lists for array in (each.rows, each.counts)),
    )  # fmt: skip


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
