"""The frozen stand-ins of a run, and the release made from nothing: `./run_all.sh release`.

Each result is kept in a folder of weights (`Workspace.weights`) and trained again only when what it
was made of changes; a training that was killed goes on from its checkpoint.
"""

import argparse
import hashlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from rctpl_utils.baselines.miniatures import train_miniatures
from rctpl_utils.baselines.prompt_learners import learn_prompt_learners, release_prompt_learners
from rctpl_utils.baselines.supervised import load_references
from rctpl_utils.code_hash import code_of
from rctpl_utils.encoders.base import Encoder, describe_device
from rctpl_utils.encoders.loading import load_encoders
from rctpl_utils.encoders.pretraining import Pairs, pretrain
from rctpl_utils.encoders.release import (
    MANIFEST,
    RELEASE,
    add_file,
    is_current,
    manifest,
    released_file,
)
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.encoders.text_tower import TextTower
from rctpl_utils.errors import InputError, one_line
from rctpl_utils.files import atomic_path, hash_of
from rctpl_utils.simulation.stand_ins import load_pairs
from rctpl_utils.simulation.world import build_world
from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor
from rctpl_utils.text.reports import Report, run_reports, with_enough_concepts
from rctpl_utils.text.triplets import triplets_frame
from rctpl_utils.workspace import Workspace

RELEASE_MAKING = """Make the release from nothing but the package's sources: `./run_all.sh release`.

Draws the films, reads the reports, then trains, each as a unit of its own whose weights are written
as it ends: the stand-in of every seed, the supervised references, the eight baselines on each
stand-in, the prompt learners. A killed run goes on where it stopped. Two cores need about 75
minutes for a stand-in, 30 for a reference, 80 for the baselines of a seed (three times that for the
first, which tries every learning rate); an accelerator minutes for all.

    python -m rctpl_utils release            # into build/release/weights
    python -m rctpl_utils release --publish  # then take them into the package
"""


def frozen_encoders(
    workspace: Workspace, reports: Sequence[Report], triplets: pd.DataFrame
) -> tuple[tuple[Encoder, ...], pd.DataFrame]:
    """The run's frozen encoders, one a seed; those that a profile trains are trained first.

    With the stand-ins' learning curves (seed, views, seconds, global_loss, local_loss), an empty
    table beside a checkpoint. `InputError`: released weights absent, damaged or of other code.
    """
    if workspace.profile.weights == "self" and workspace.profile.pretraining is not None:
        train_stand_ins(workspace, reports, triplets)
    if workspace.profile.weights == "release":
        where = {"output": workspace.output, "device": str(workspace.device)}
        make_release(Workspace.open("release", **where))
    if workspace.profile.encoder != "standin":
        return load_encoders(workspace), pd.DataFrame()
    return load_encoders(workspace), stand_in_curves(workspace)


def train_stand_ins(
    workspace: Workspace, reports: Sequence[Report], triplets: pd.DataFrame
) -> None:
    """Train the stand-in of every seed of the profile that is missing or out of date."""
    settings, size = workspace.profile.pretraining, workspace.profile.world.image_size
    training = [report for report in reports if report.split == "train"]
    tower = TextTower.minilm(1).to(workspace.device)
    root, features = workspace.data_root, workspace.features
    pairs = load_pairs(root, training, triplets, tower, size, features)
    arrays = (hashlib.sha256(np.ascontiguousarray(each)).hexdigest() for each in _arrays(pairs))
    key = hash_of(settings, size, *arrays, code_of(pretrain, StandIn))
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


def make_release(workspace: Workspace, processes: int = 2) -> Path:
    """Train all that a profile trains and that is missing or outdated: the folder of weights."""
    build_world(workspace, processes=processes)
    reports = run_reports(workspace)
    triplets = _triplets(workspace, reports)
    encoders, _ = frozen_encoders(workspace, reports, triplets)
    load_references(workspace, encoders)
    train_miniatures(workspace, encoders, reports, triplets)
    chosen = [r for r in with_enough_concepts(reports, triplets) if r.split == "train"]
    learn_prompt_learners(workspace, encoders, chosen, triplets)
    release_prompt_learners(workspace)
    return workspace.weights


def publish(made: Path, target: Path = RELEASE) -> None:
    """Verify a folder of weights and put it in the place of the release, whole or not at all.

    `InputError` (a file absent or damaged), `OSError` (a full disk): the old release is untouched.
    """
    names = [released_file(name, made).name for name in manifest(made)["files"]]
    fresh, old = (target.with_name(f".{target.name}.{kind}") for kind in ("new", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        for name in (*names, MANIFEST):
            shutil.copyfile(made / name, fresh / name)
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.replace(old)
        fresh.replace(target)
    finally:
        if not target.exists() and old.exists():
            old.replace(target)
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _triplets(workspace: Workspace, reports: Sequence[Report]) -> pd.DataFrame:
    if not workspace.triplets.exists():
        found = triplets_frame(SpacyExtractor().extract(reports))
        with atomic_path(workspace.triplets) as temporary:
            found.to_parquet(temporary)
    return pd.read_parquet(workspace.triplets)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="./run_all.sh release",
        description=RELEASE_MAKING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, mps")
    parser.add_argument("--output", metavar="DIR", help="where build/ goes")
    parser.add_argument("--processes", type=int, default=2, help="that draw films (default: 2)")
    parser.add_argument("--publish", action="store_true", help="take the weights into the package")
    options = parser.parse_args(arguments)
    try:
        workspace = Workspace.open("release", output=options.output, device=options.device)
        made = make_release(workspace, options.processes)
        if options.publish:
            publish(made)
    except (InputError, OSError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    print(f"{len(manifest(made)['files'])} files of weights in {made}")
    return 0
