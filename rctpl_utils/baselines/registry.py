"""All competitors of a run: trained here on the stand-in, or read from released checkpoints."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from rctpl_utils.baselines.adapters import Competitor, FilmReader
from rctpl_utils.baselines.miniatures import MINIATURES, load_miniature
from rctpl_utils.baselines.prompt_learners import load_prompt_learners
from rctpl_utils.baselines.released import (
    NO_PUBLIC_WEIGHTS,
    PUBLIC,
    ReleasedModel,
    is_provided,
    load_released,
)
from rctpl_utils.baselines.training_data import backbone_maps
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.workspace import Workspace


def load_miniatures(workspace: Workspace, encoders: Sequence[StandIn]) -> list[Competitor]:
    """The trained baselines, ready for the tables: model k reads the maps of stand-in k."""
    films = tuple(map_reader(workspace, encoder) for encoder in encoders)
    runs, folder = list(zip(encoders, workspace.profile.seeds, strict=True)), workspace.weights
    return [
        Competitor(make.name, tuple(load_miniature(make, *run, folder) for run in runs), films)
        for make in MINIATURES
    ]


def load_competitors(workspace: Workspace, encoders: Sequence[Encoder]) -> list[Competitor]:
    """The rows that stand beside RC-TPL: the paper's baselines, then the prompt learners."""
    trained = workspace.profile.baselines is not None
    rows = load_miniatures(workspace, encoders) if trained else load_checkpoints(workspace)
    return [*rows, *load_prompt_learners(workspace, encoders)]


def load_checkpoints(workspace: Workspace) -> list[Competitor]:
    """The baselines whose released weights the user has put below the data root."""
    rows = []
    for name in PUBLIC:
        if is_provided(name, workspace.data_root):
            model = load_released(name, workspace.data_root, workspace.device)
            rows.append(Competitor(model.name, (model,), (pixel_reader(model),), frame=model.frame))
    return rows


def why_absent(workspace: Workspace) -> dict[str, str]:
    """By name, why a baseline has no row of ours; empty where all are trained here."""
    if workspace.profile.baselines is not None:
        return {}
    absent = [name for name in PUBLIC if not is_provided(name, workspace.data_root)]
    reasons = dict.fromkeys(NO_PUBLIC_WEIGHTS, "no public weights")
    return reasons | dict.fromkeys(absent, "weights not there")


def pixel_reader(model: ReleasedModel) -> FilmReader:
    """From a data set to its films as a released model's own preprocessing makes them."""

    def films(dataset: Any) -> Callable[[np.ndarray], torch.Tensor]:
        def read(rows: np.ndarray) -> torch.Tensor:
            return torch.stack([model.preprocess(dataset.pixels(row)) for row in rows])

        return lambda rows: read(rows).to(model.device)

    return films


def map_reader(workspace: Workspace, encoder: StandIn) -> FilmReader:
    """From a data set to its films as the frozen backbone's cached maps."""

    def films(dataset: Any) -> Callable[[np.ndarray], torch.Tensor]:
        maps = backbone_maps(encoder, dataset, workspace.features)
        return lambda rows: torch.from_numpy(np.array(maps[rows])).to(workspace.device)

    return films
