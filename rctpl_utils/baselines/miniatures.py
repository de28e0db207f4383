"""The paper's eight baselines as files of weights: trained where a profile says so, else released.

Baseline k stands on the frozen lower layers of stand-in k. The first seed chooses each method's
learning rate, on validation films.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from rctpl_utils.baselines import training
from rctpl_utils.baselines.contrastive import BioViL, CheXzero, ConVIRT, MedCLIPViT, MedPromptViT
from rctpl_utils.baselines.gloria import GLoRIA
from rctpl_utils.baselines.model import Baseline, Reader, Setup
from rctpl_utils.baselines.queries import MedKLIP, MeDSLIP
from rctpl_utils.baselines.training_data import backbone_maps, build_material
from rctpl_utils.code_hash import code_of
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders import release
from rctpl_utils.encoders.base import describe_device, freeze
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.files import hash_of
from rctpl_utils.text.reports import Report
from rctpl_utils.workspace import Workspace

MINIATURES: tuple[type[Baseline], ...] = (
    ConVIRT, GLoRIA, MedCLIPViT, BioViL, CheXzero, MedKLIP, MedPromptViT, MeDSLIP,
)  # fmt: skip
_PROBED = ("Edema", "Pneumothorax")


def train_miniatures(
    workspace: Workspace,
    encoders: Sequence[StandIn],
    reports: Sequence[Report],
    triplets: pd.DataFrame,
) -> dict[str, dict[str, Any]]:
    """The runs of the eight baselines by name; those that a profile trains are trained first.

    No run in a profile whose rows come from published checkpoints. An `InputError` tells of
    released weights that are absent or damaged.
    """
    if workspace.profile.baselines is None:
        return {}
    if workspace.profile.weights == "self":
        for seed, encoder in zip(workspace.profile.seeds, encoders, strict=True):
            _train_seed(workspace, encoder, seed, reports, triplets)
    return miniature_runs(workspace)


def _train_seed(
    workspace: Workspace,
    encoder: StandIn,
    seed: int,
    reports: Sequence[Report],
    triplets: pd.DataFrame,
) -> None:
    """Train each baseline that is missing or out of date, the first seed's at every rate."""
    settings, device, folder = workspace.profile.baselines, workspace.device, workspace.weights
    material = build_material(workspace, encoder, reports, triplets, settings.films)
    setup = Setup.of(material, Reader(encoder.text))
    held_out = open_split(workspace, "mimic-cxr", "validation")
    maps = backbone_maps(encoder, held_out, workspace.features)
    labels = held_out.records[list(held_out.concepts)].to_numpy(float)
    validation = training.Validation(maps, labels, held_out.concepts)
    key = hash_of(material.key, settings)
    if device.type == "cuda":
        material = material.on(device)
    first = workspace.profile.seeds[0]
    for make in MINIATURES:
        name, own = weights_name(make, seed), hash_of(key, seed, code_of(make, training))
        if release.is_current(folder, name, own):
            continue
        rates = settings.rates
        if seed != first:
            rates = [release.manifest(folder)["files"][weights_name(make, first)]["rate"]]
        tried = []
        for rate in rates:
            part = workspace.build / "checkpoints" / f"{name}-{own[:12]}-{rate:g}.part"
            given = material, setup, validation, settings, rate
            tried.append((training.train(make, *given, seed, device, part), rate))
        run, rate = max(tried, key=lambda each: each[0].auc)  # of equals the first
        notes = notes_of(run, setup) | {
            "method": make.name, "seed": seed, "rate": rate, "key": own,
            "device": describe_device(device), "settings": settings,
        }  # fmt: skip
        if seed == first:
            notes["rates"] = [{"learning_rate": rate, "auc": each.auc} for each, rate in tried]
        state = run.model.state_dict().items()
        needed = {k: v.cpu().contiguous() for k, v in state if not k.startswith(make.training_only)}
        release.add_file(
            folder, name, needed, notes,
            lambda path: read_miniature(make, encoder, path, notes)[1],  # noqa: B023
        )  # fmt: skip


def notes_of(run: training.Trained, setup: Setup) -> dict[str, Any]:
    """What a manifest says of a trained baseline, and what is needed to build it again."""
    return {
        "kind": "baseline",
        "views": run.history[run.kept]["views"],
        "seconds": run.history[-1]["seconds"],
        "parameters": sum(each.numel() for each in run.model.parameters()),
        "validation_auc": round(run.auc, 4),
        "plateau": run.plateau,
        "kept_look": run.kept,
        "curve": run.history,
        "channels": setup.channels,
        "grid": setup.grid,
        "concepts": setup.concepts,
        "places": setup.places,
    }


def load_miniature(make: type[Baseline], encoder: StandIn, seed: int, folder: Path) -> Baseline:
    """A trained baseline, verified (else an `InputError`), frozen, on the encoder's device."""
    path = release.released_file(weights_name(make, seed), folder)
    notes = release.manifest(folder)["files"][path.name]
    model, answer = read_miniature(make, encoder, path, notes)
    release.check_probe(path.name, answer, folder)
    return model.to(encoder.device)


def read_miniature(
    make: type[Baseline], encoder: StandIn, path: Path, notes: Mapping[str, Any]
) -> tuple[Baseline, np.ndarray]:
    """A file's frozen baseline (or an `InputError`), and its answer to a probe: (8,).

    `notes` tell its shape; the probe, two made-up maps: scores of two concepts and cells of a map.
    """
    width, grid = encoder.context_width, tuple(notes["grid"])
    blank = torch.zeros(width), torch.ones(width)  # the files have the real ones
    names = tuple(notes["concepts"]), tuple(notes["places"])
    model = make(Setup(notes["channels"], grid, *blank, Reader(encoder.text), *names))
    unused = {k: v for k, v in model.state_dict().items() if k.startswith(make.training_only)}
    release.fit(model, release.read_weights(path) | unused, path)
    line = torch.linspace(0, 3, notes["channels"] * grid[0] * grid[1])
    maps = torch.stack([torch.sin(line), torch.cos(5 * line)]).reshape(2, *grid, -1).relu()
    scores = freeze(model).classify(maps, _PROBED)
    cells = model.ground(maps, _PROBED[0])[:, 1, :2]
    answer = torch.cat([scores.flatten(), cells.flatten()]).float()
    return model, answer.cpu().numpy()


def miniature_runs(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """By name, what the manifest says of a baseline's training.

    Each run has name, unit ("views"), parameters, rate, rates (learning_rate and the validation
    AUC of the first seed's run with it), plateau and kept (one a seed), and history (seed, views,
    tokens, loss, auc, seconds).
    """
    files, runs = release.manifest(workspace.weights)["files"], {}
    for make in MINIATURES:
        notes = [files[weights_name(make, seed)] for seed in workspace.profile.seeds]
        runs[make.name] = {
            "name": make.name,
            "unit": "views",
            **{each: notes[0][each] for each in ("parameters", "rate", "rates")},
            "plateau": [each["plateau"] for each in notes],
            "kept": [each["validation_auc"] for each in notes],
            "history": [{"seed": each["seed"], **row} for each in notes for row in each["curve"]],
        }
    return runs


def weights_name(make: type[Baseline], seed: int) -> str:
    """The file of a seed's baseline."""
    return f"{make.name.lower()}-{seed}.safetensors"
