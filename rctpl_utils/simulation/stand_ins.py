"""The frozen stand-ins of a run, what they learn from, and the release made from nothing.

Each result is kept in a folder of weights (`Workspace.weights`) and trained again only when what it
was made of changes; a training that was killed goes on from its checkpoint.

Open-I's terse reports seldom say how findings look, as clinical encoders have read. Attribute
sentences (`data/looks.json`), no knowledge descriptions, say what is drawn, never COVID-19.
"""

import argparse
import hashlib
import shutil
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from rctpl_utils.baselines.miniatures import train_miniatures
from rctpl_utils.baselines.prompt_learners import learn_prompt_learners, release_prompt_learners
from rctpl_utils.baselines.supervised import load_references
from rctpl_utils.code_hash import code_of
from rctpl_utils.datasets import open_dataset
from rctpl_utils.encoders.base import Encoder, describe_device
from rctpl_utils.encoders.features import TEXT_BATCH, word_states
from rctpl_utils.encoders.loading import load_encoders
from rctpl_utils.encoders.pretraining import (
    ATTRIBUTE_ENTRIES,
    WIDTH,
    Pairs,
    TextLists,
    attribute_vector,
    build_text_bank,
    load_images,
    pretrain,
    training_texts,
)
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
from rctpl_utils.files import atomic_path, hash_of, read_json
from rctpl_utils.simulation.summary import DRAWN_TABLE
from rctpl_utils.simulation.world import build_world
from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor
from rctpl_utils.text.reports import Report, run_reports, with_enough_concepts
from rctpl_utils.text.triplets import triplets_frame
from rctpl_utils.workspace import PACKAGE_DATA, Workspace


class Look(NamedTuple):
    """How a concept is drawn."""

    says: str  # what the words give away; "Lung Opacity" for any opacity
    phrases: Sequence[str]  # noun phrases, singular
    attributes: Sequence[str]  # of `encoders.pretraining.ATTRIBUTES`


_LOOKS = read_json(PACKAGE_DATA / "looks.json")
LOOKS = {concept: Look(*look) for concept, look in _LOOKS["looks"].items()}
_GRADED = ("Lung Opacity", "Fibrosis")  # words of extent fit these
_PLACED = ("Lung Opacity", "Lung Lesion", "Fibrosis")  # words of distribution fit these
FAR, NEAR = 0.28, 0.15  # distance of a box from the midline, in widths of the film
MILD, GROSS = 0.35, 0.65  # severities


class FilmTexts(NamedTuple):
    """Attribute sentences of n films."""

    texts: list[str]  # distinct
    vectors: np.ndarray  # what each text says, (t, WIDTH)
    rows: list[np.ndarray]  # of each film the rows of its sentences
    film_vectors: np.ndarray  # the attributes that each film shows, (n, WIDTH)


def film_texts(drawn: pd.DataFrame, films: Sequence[str]) -> FilmTexts:
    """Sentences for each film's lesions in the world's `drawn.csv`."""
    place = {name: row for row, name in enumerate(films)}
    index: dict[tuple[str, bytes], int] = {}
    rows: list[dict[int, None]] = [{} for _ in films]
    film_vectors = np.zeros((len(films), WIDTH), np.float32)
    for lesion in drawn[drawn["image"].isin(place)].itertuples():
        sentences, vector = _said(*_seen(lesion))
        mine = (index.setdefault((text, vector.tobytes()), len(index)) for text in sentences)
        rows[place[lesion.image]].update(dict.fromkeys(mine))
        film = film_vectors[place[lesion.image]]
        np.maximum(film, np.where(ATTRIBUTE_ENTRIES, vector, 0), out=film)
    vectors = np.frombuffer(b"".join(said for _, said in index), np.float32).reshape(-1, WIDTH)
    found = [np.array([*row], int) for row in rows]
    return FilmTexts([text for text, _ in index], vectors, found, film_vectors)


def _seen(lesion: tuple) -> tuple[str, str | None, str | None, str, str]:
    """Concept; side, zone, distance from the midline as asked for, else of the box; grade."""
    side, zone = (str(v) if isinstance(v, str) and v else None for v in (lesion.side, lesion.zone))
    grade = "gross" if lesion.severity > GROSS else "mild" if lesion.severity < MILD else ""
    if not np.isfinite(lesion.x):
        return lesion.concept, side, zone, "", grade
    side = side or ("right" if lesion.x < 0.5 else "left")  # the patient's right is on the left
    zone = zone or ("upper" if lesion.y < 0.42 else "middle" if lesion.y < 0.58 else "lower")
    off = abs(lesion.x - 0.5)
    far = "peripheral" if off > FAR else "central" if off < NEAR else ""
    return lesion.concept, side, zone, far, grade


@cache
def _said(
    concept: str, side: str | None, zone: str | None, far: str, grade: str
) -> tuple[list[str], np.ndarray]:
    """The sentences of a lesion, and the vector that they share."""
    look = LOOKS[concept]
    attributes, extent, edge = list(look.attributes), "", ""
    if look.says in _GRADED and grade:
        attributes.append(grade)
        extent = {"gross": "extensive ", "mild": "slight "}[grade]
    if look.says in _PLACED:
        attributes += [far] if far else []
        attributes += ["central"] * (zone in ("hilum", "perihilar"))
        attributes += ["bilateral"] * (side == "bilateral")
        edge = {"peripheral": " near the chest wall", "central": " near the hilum"}.get(far, "")
    place = _LOOKS["zones"].get(zone or "")
    where = f" in the {place}" if place else ""
    if side == "bilateral":
        where = f" in the {place}s of both lungs" if place else " in both lungs"
    elif side:
        where = f" in the {side} {place or 'lung'}"
    vector = attribute_vector(look.says, side, zone, attributes)
    return [f"{extent}{phrase}{where}{edge}" for phrase in look.phrases], vector


def load_pairs(workspace: Workspace, reports: Sequence[Report], triplets: pd.DataFrame) -> Pairs:
    """The training images of MIMIC-CXR with what their reports say and what they show.

    MiniLM reads each text once (kept in `Workspace.features`).
    """
    tower, root = TextTower.minilm(1).to(workspace.device), workspace.data_root
    bank = build_text_bank([r.report_id for r in reports], [r.text for r in reports], triplets)
    rows = {report.report_id: row for row, report in enumerate(reports)}
    dataset = open_dataset("mimic-cxr", root, "train")
    studies = dataset.records["study"].map(rows)
    kept = np.flatnonzero(studies.notna())
    names = dataset.records["image_id"].iloc[kept]
    # the texts that only baselines read go through MiniLM with the bank's: both find one file
    texts, _ = training_texts(bank, [report.impression for report in reports])
    words, _ = word_states(tower, texts, workspace.features)
    pooled = words.means(np.arange(len(bank.texts)))
    looks = film_texts(pd.read_csv(root / "mimic-cxr" / DRAWN_TABLE), list(names))
    studies = studies.iloc[kept].to_numpy(int)
    # the bank's texts, then the attribute sentences of what was drawn, in one list
    both = np.concatenate([pooled, pooled_texts(tower, looks.texts)]).astype(np.float16)
    return Pairs(
        images=load_images(dataset, kept, workspace.profile.world.image_size),
        reports=studies,
        image_vectors=bank.report_vectors[studies] + looks.film_vectors,
        pooled=both,
        vectors=np.concatenate([bank.vectors, looks.vectors]),
        texts=TextLists.of(bank.rows),
        findings=TextLists.of(bank.finding_rows),
        looks=TextLists.of([len(bank.texts) + rows for rows in looks.rows]),
    )


def pooled_texts(tower: TextTower, texts: Sequence[str]) -> np.ndarray:
    """Texts before the projection, (n, W), texts of like length together."""
    order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
    found = np.empty((len(texts), tower.bert.config.hidden_size), np.float32)
    for start in range(0, len(order), TEXT_BATCH):
        part = order[start : start + TEXT_BATCH]
        found[part] = tower.pooled([texts[k] for k in part]).cpu().numpy()
    return found


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
    encoders = load_encoders(workspace)  # which checks that all is there
    files = manifest(workspace.weights)["files"]
    curves = [
        pd.DataFrame(files[stand_in_name(seed)]["curve"]).assign(seed=seed)
        for seed in workspace.profile.seeds
    ]
    return encoders, pd.concat(curves, ignore_index=True)


def train_stand_ins(
    workspace: Workspace, reports: Sequence[Report], triplets: pd.DataFrame
) -> None:
    """Train the stand-in of every seed of the profile that is missing or out of date."""
    settings, size = workspace.profile.pretraining, workspace.profile.world.image_size
    training = [report for report in reports if report.split == "train"]
    pairs = load_pairs(workspace, training, triplets)
    data = [pairs.images, pairs.reports, pairs.image_vectors, pairs.pooled, pairs.vectors]
    for lists in (pairs.texts, pairs.findings, pairs.looks):
        data += [lists.rows, lists.counts]
    sums = (hashlib.sha256(np.ascontiguousarray(each)).hexdigest() for each in data)
    key = hash_of(settings, size, *sums, code_of(pretrain, StandIn))
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
    size = notes["image_size"]
    add_file(folder, name, weights, notes, lambda path: StandIn.assemble(path, size).probe())


def stand_in_name(seed: int) -> str:
    """The file of a seed's stand-in."""
    return f"standin-{seed}.safetensors"


RELEASE_MAKING = """Make the release from nothing but the package's sources: `./run_all.sh release`.

Draws the films, reads the reports, then trains, each as a unit of its own whose weights are written
as it ends: the stand-in of every seed, the supervised references, the eight baselines on each
stand-in, the prompt learners. A killed run goes on where it stopped. Two cores need about 75
minutes for a stand-in, 30 for a reference, 80 for the baselines of a seed (three times that for the
first, which tries every learning rate); an accelerator minutes for all.

    python -m rctpl_utils release            # into build/release/weights
    python -m rctpl_utils release --publish  # then take them into the package
"""


def make_release(workspace: Workspace, processes: int = 2) -> Path:
    """Train all that a profile trains and that is missing or outdated: the folder of weights."""
    build_world(workspace, processes=processes)
    reports = run_reports(workspace)
    if not workspace.triplets.exists():
        found = triplets_frame(SpacyExtractor().extract(reports))
        with atomic_path(workspace.triplets) as temporary:
            found.to_parquet(temporary)
    triplets = pd.read_parquet(workspace.triplets)
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
