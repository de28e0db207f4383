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
from rctpl_utils.baselines.model import Baseline, MakeBaseline, Reader, Setup
from rctpl_utils.baselines.queries import MedKLIP, MeDSLIP
from rctpl_utils.baselines.training import Trained, Validation, file_stem
from rctpl_utils.baselines.training_data import backbone_maps, build_material
from rctpl_utils.code_hash import code_of
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import describe_device
from rctpl_utils.encoders.release import (
    add_file,
    check_probe,
    fit,
    is_current,
    manifest,
    read_weights,
    released_file,
)
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.files import hash_of
from rctpl_utils.text.reports import Report
from rctpl_utils.workspace import Workspace

MINIATURES: tuple[MakeBaseline, ...] = (
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

    There is one encoder a seed, and no run in a profile whose rows come from published checkpoints.
    An `InputError` tells of released weights that are absent or damaged.
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
    settings, device, folder = workspace.profile.baselines, workspace.device, workspace.weights
    material = build_material(workspace, encoder, reports, triplets, settings.films)
    setup = Setup.of(material, Reader(encoder.text))
    held_out = open_split(workspace, "mimic-cxr", "validation")
    validation = Validation.of(held_out, backbone_maps(encoder, held_out, workspace.features))
    key, parts = hash_of(material.key, settings), workspace.build / "checkpoints"
    if device.type == "cuda":
        material = material.on(device)
    first = workspace.profile.seeds[0]
    for make in MINIATURES:
        name, rates = weights_name(make, seed), None
        own = hash_of(key, seed, code_of(make, training))
        if is_current(folder, name, own):
            continue
        given = material, setup, validation, settings
        if seed == first:
            rate, rates, run = training.train_best_rate(make, *given, seed, device, parts)
        else:
            rate = manifest(folder)["files"][weights_name(make, first)]["rate"]
            part = parts / f"{name}-{own[:12]}.part"
            run = training.train(make, *given, rate, seed, device, part)
        notes = run_notes(run, setup) | {
            "method": make.name, "seed": seed, "rate": rate, "key": own,
            "device": describe_device(device), "settings": settings,
        }  # fmt: skip
        add_miniature(folder, make, encoder, run.model, notes | ({"rates": rates} if rates else {}))


def run_notes(run: Trained, setup: Setup) -> dict[str, Any]:
    """What a manifest says of a trained baseline, and what is needed to build it again."""
    last = run.history[run.kept]
    return {
        "kind": "baseline",
        "views": last["views"],
        "seconds": run.history[-1]["seconds"],
        "parameters": sum(each.numel() for each in run.model.parameters()),
        "validation_auc": round(last["auc"], 4),
        "plateau": run.plateau,
        "kept_look": run.kept,
        "curve": run.history,
        "channels": setup.channels,
        "grid": setup.grid,
        "concepts": setup.concepts,
        "places": setup.places,
    }


def add_miniature(
    folder: Path,
    make: MakeBaseline,
    encoder: StandIn,
    model: Baseline,
    notes: Mapping[str, Any],
) -> None:
    """Write a trained baseline into a folder of weights: what inference needs of it."""
    add_file(
        folder, weights_name(make, notes["seed"]), state_of(model), notes,
        lambda path: probe(assemble(make, encoder, path, notes), notes),
    )  # fmt: skip


def state_of(model: Baseline) -> dict[str, torch.Tensor]:
    """What inference needs of a trained baseline: all but the layers of `training_only`."""
    return {
        name: value.cpu().contiguous()
        for name, value in model.state_dict().items()
        if not name.startswith(model.training_only)
    }


def load_miniature(make: MakeBaseline, encoder: StandIn, seed: int, folder: Path) -> Baseline:
    """A trained baseline, verified, frozen, on the encoder's device.

    An `InputError` tells of a file that is absent, damaged, of another architecture or other code.
    """
    path = released_file(weights_name(make, seed), folder)
    notes = manifest(folder)["files"][path.name]
    model = assemble(make, encoder, path, notes)
    check_probe(path.name, probe(model, notes), folder)
    return model.to(encoder.device)


def assemble(
    make: MakeBaseline, encoder: StandIn, path: Path, notes: Mapping[str, Any]
) -> Baseline:
    """A baseline of the shape that notes tell, with a file's weights (or `InputError`), frozen."""
    width = encoder.context_width
    blank = torch.zeros(width), torch.ones(width)  # the files have the real ones
    names = tuple(notes["concepts"]), tuple(notes["places"])
    reader = Reader(encoder.text)
    model = make(Setup(notes["channels"], tuple(notes["grid"]), *blank, reader, *names))
    unused = {k: v for k, v in model.state_dict().items() if k.startswith(make.training_only)}
    fit(model, read_weights(path) | unused, path)
    return model.eval().requires_grad_(False)


def probe(model: Baseline, notes: Mapping[str, Any]) -> np.ndarray:
    """What a baseline answers to two made-up maps: scores of two concepts and a map, (8,)."""
    height, width = notes["grid"]
    line = torch.linspace(0, 3, height * width * notes["channels"])
    maps = torch.stack([torch.sin(line), torch.cos(5 * line)]).reshape(2, height, width, -1)
    scores = model.classify(maps.relu(), _PROBED)
    cells = model.ground(maps.relu(), _PROBED[0])[:, 1, :2]
    return torch.cat([scores.flatten(), cells.flatten()]).float().cpu().numpy()


def miniature_runs(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """By name, what the manifest says of a baseline's training.

    Each run has name, unit ("views"), parameters, rate, rates (learning_rate and the validation
    AUC of the first seed's run with it), plateau and kept (one a seed), and history (seed, views,
    tokens, loss, auc, seconds).
    """
    files, runs = manifest(workspace.weights)["files"], {}
    for make in MINIATURES:
        notes = [files[weights_name(make, seed)] for seed in workspace.profile.seeds]
        runs[make.name] = {
            "name": make.name,
            "unit": "views",
            "parameters": notes[0]["parameters"],
            "rate": notes[0]["rate"],
            "rates": notes[0]["rates"],
            "plateau": [each["plateau"] for each in notes],
            "kept": [each["validation_auc"] for each in notes],
            "history": [{"seed": each["seed"], **row} for each in notes for row in each["curve"]],
        }
    return runs


def weights_name(make: MakeBaseline, seed: int) -> str:
    """The file of a seed's baseline."""
    return f"{file_stem(make.name)}-{seed}.safetensors"
