"""All competitors of a run: trained here on the stand-in, or read from released checkpoints."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from rctpl_utils.baselines.biovil import BioViL
from rctpl_utils.baselines.chexzero import CheXzero
from rctpl_utils.baselines.convirt import ConVIRT
from rctpl_utils.baselines.gloria import GLoRIA
from rctpl_utils.baselines.material import build_material
from rctpl_utils.baselines.medclip_vit import MedCLIPViT
from rctpl_utils.baselines.medklip import MedKLIP
from rctpl_utils.baselines.medprompt import MedPromptViT
from rctpl_utils.baselines.medslip import MeDSLIP
from rctpl_utils.baselines.peers import load_peers
from rctpl_utils.baselines.released import (
    NO_PUBLIC_WEIGHTS,
    PUBLIC,
    ReleasedModel,
    is_provided,
    load_released,
)
from rctpl_utils.baselines.rows import Competitor, Reader
from rctpl_utils.baselines.towers import Baseline, MakeBaseline, Setup
from rctpl_utils.baselines.training import Validation, file_stem, train_baseline
from rctpl_utils.baselines.trunk import trunk_maps
from rctpl_utils.baselines.words import Reader as TextReader
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.files import atomic_path, read_json, write_json
from rctpl_utils.reports import Report
from rctpl_utils.table1 import open_split
from rctpl_utils.workspace import Workspace

MINIATURES: tuple[MakeBaseline, ...] = (
    ConVIRT, GLoRIA, MedCLIPViT, BioViL, CheXzero, MedKLIP, MedPromptViT, MeDSLIP,
)  # fmt: skip


def train_miniatures(
    workspace: Workspace, encoder: StandIn, reports: Sequence[Report], triplets: pd.DataFrame
) -> dict[str, dict[str, Any]]:
    """Train the paper's eight baselines on the stand-in's frozen layers, or find them current.

    Returns:
        the runs by name (`training.train_baseline`); none in a profile whose rows come from
        released checkpoints.
    """
    if workspace.profile.baselines is None:
        return {}
    material = build_material(workspace, encoder, reports, triplets)
    setup = Setup.of(material, TextReader(encoder.text))
    _save_setup(setup, _folder(workspace))
    held_out = open_split(workspace, "mimic-cxr", "validation")
    validation = Validation.of(held_out, trunk_maps(encoder, held_out, workspace.features))
    settings, device = workspace.profile.baselines, workspace.device
    runs = [
        train_baseline(make, material, setup, validation, settings, _folder(workspace), device)
        for make in MINIATURES
    ]
    return {run["name"]: run for run in runs}


def load_miniatures(workspace: Workspace, encoders: Sequence[StandIn]) -> list[Competitor]:
    """The trained baselines, ready for the tables: model k reads the trunk maps of stand-in k."""
    folder, seeds = _folder(workspace), workspace.profile.seeds
    setups = [_read_setup(encoder, folder) for encoder in encoders]
    films = tuple(map_reader(workspace, encoder) for encoder in encoders)
    return [
        Competitor(
            make.name,
            tuple(
                _model(make(setup), folder / f"{file_stem(make.name)}-{seed}.safetensors")
                .to(workspace.device)
                for setup, seed in zip(setups, seeds, strict=True)
            ),
            films,
        )
        for make in MINIATURES
    ]  # fmt: skip


def load_competitors(workspace: Workspace, encoders: Sequence[Encoder]) -> list[Competitor]:
    """The rows that stand beside RC-TPL: the paper's baselines, then the prompt learners."""
    if workspace.profile.baselines is None:
        return [*load_checkpoints(workspace), *load_peers(workspace, encoders)]
    return [*load_miniatures(workspace, encoders), *load_peers(workspace, encoders)]


def load_checkpoints(workspace: Workspace) -> list[Competitor]:
    """The baselines whose released weights the user has put below the data root."""
    provided = [name for name in PUBLIC if is_provided(name, workspace.data_root)]
    models = [load_released(name, workspace.data_root, workspace.device) for name in provided]
    return [
        Competitor(model.name, (model,), (pixel_reader(model),), frame=model.frame)
        for model in models
    ]


def why_absent(workspace: Workspace) -> dict[str, str]:
    """By name, why a baseline has no row of ours; empty where all are trained here."""
    if workspace.profile.baselines is not None:
        return {}
    return {
        **dict.fromkeys(NO_PUBLIC_WEIGHTS, "no public weights"),
        **{
            name: "weights not there"
            for name in PUBLIC
            if not is_provided(name, workspace.data_root)
        },
    }


def pixel_reader(model: ReleasedModel) -> Reader:
    """From a data set to its films as a released model's own preprocessing makes them."""

    def films(dataset: Any) -> Callable[[np.ndarray], torch.Tensor]:
        return lambda rows: torch.stack([model.preprocess(dataset.pixels(row)) for row in rows]).to(
            model.device
        )

    return films


def map_reader(workspace: Workspace, encoder: StandIn) -> Reader:
    """From a data set to its films as the frozen trunk's cached maps."""

    def films(dataset: Any) -> Callable[[np.ndarray], torch.Tensor]:
        maps = trunk_maps(encoder, dataset, workspace.features)
        return lambda rows: torch.from_numpy(np.array(maps[rows])).to(workspace.device)

    return films


def _folder(workspace: Workspace) -> Path:
    return workspace.build / "baselines"


def _save_setup(setup: Setup, folder: Path) -> None:
    with atomic_path(folder / "setup.safetensors") as temporary:
        save_file({"mean": setup.mean, "deviation": setup.deviation}, temporary)
    names = {"concepts": setup.concepts, "places": setup.places}
    write_json(folder / "setup.json", {"channels": setup.channels, "grid": setup.grid, **names})


def _read_setup(encoder: StandIn, folder: Path) -> Setup:
    notes, arrays = read_json(folder / "setup.json"), load_file(folder / "setup.safetensors")
    return Setup(
        notes["channels"],
        tuple(notes["grid"]),
        arrays["mean"],
        arrays["deviation"],
        TextReader(encoder.text),
        tuple(notes["concepts"]),
        tuple(notes["places"]),
    )


def _model(model: Baseline, path: Path) -> Baseline:
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)
