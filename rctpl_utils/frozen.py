"""The frozen encoder of a run: pre-trained once, kept by content, checked when it is read."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from rctpl_utils import __version__
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.loading import load_encoder
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.files import hash_of, read_json, sha256_file, write_json
from rctpl_utils.pretraining import pretrain
from rctpl_utils.pretraining_data import load_pairs
from rctpl_utils.reports import Report
from rctpl_utils.workspace import PROJECT, Workspace

MODULES = (
    "pretraining",
    "pretraining_data",
    "pretraining_texts",
    "word_states",
    "scoring",
    "precision",
    "encoders/image_tower",
    "encoders/standin",
    "encoders/text_tower",
)


def frozen_encoder(
    workspace: Workspace, reports: list[Report], triplets: pd.DataFrame
) -> tuple[Encoder, pd.DataFrame]:
    """The run's frozen encoder: the stand-in, pre-trained here, or the one in the checkpoint.

    Returns:
        the encoder, and its learning curve; an empty one where nothing was trained.
    """
    if workspace.profile.pretraining is None:
        return load_encoder(workspace), pd.DataFrame()
    return pretrained_standin(workspace, reports, triplets)


def pretrained_standin(
    workspace: Workspace, reports: list[Report], triplets: pd.DataFrame
) -> tuple[StandIn, pd.DataFrame]:
    """Pre-train the stand-in, or read it if pairs, settings and code are those it was made from.

    Args:
        reports: all reports; those of the training split are used.
        triplets: their triplets.

    Returns:
        the frozen encoder and its learning curve: epoch, global_loss, local_loss.
    """
    settings, size = workspace.profile.pretraining, workspace.profile.world.image_size
    training = [report for report in reports if report.split == "train"]
    pairs = load_pairs(workspace.data_root, training, triplets, size)
    key = hash_of(
        settings,
        _digest(pairs.images),
        _digest(pairs.bank.vectors),
        pairs.texts,
        [sha256_file(_module(name)) for name in MODULES],
    )
    curve = workspace.build / "encoder-history.json"
    if workspace.encoder.exists() and curve.exists() and read_json(curve)["key"] == key:
        return StandIn.load(workspace.encoder, workspace.device), _frame(read_json(curve))
    encoder, history = pretrain(pairs, size, settings, workspace.features, workspace.device)
    metadata = {
        "profile": workspace.profile.name,
        "seed": str(settings.seed),
        "key": key,
        "version": __version__,
        "data": "simulated radiographs, real and templated reports",
    }
    encoder.save(workspace.encoder, metadata)
    write_json(curve, {"key": key, "history": history})
    return encoder, pd.DataFrame(history)


def _frame(stored: dict) -> pd.DataFrame:
    return pd.DataFrame(stored["history"])


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def _module(name: str) -> Path:
    return PROJECT / "rctpl_utils" / f"{name}.py"
