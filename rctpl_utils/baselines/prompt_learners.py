"""The prompt learners of a run, on RC-TPL's frozen encoders: learned once, kept by content.

CoOp, CoCoOp and DualCoOp learn from a few labeled films a class, and RC-TPL does not: training
films of MIMIC-CXR with the labels of their reports' triplets (1 present, 0 absent or unmentioned,
NaN uncertain), the same that RC-TPL's reports carry. Their rows say so: they are not zero-shot.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from safetensors.torch import save_file

from rctpl_utils.baselines.coop import CoCoOp, CoOp, DualCoOp
from rctpl_utils.baselines.prompt_learning import Judge, LabeledFilms, PromptModel, learn, stop
from rctpl_utils.baselines.tai_dpt import TaIDPT, token_corpora
from rctpl_utils.code_hash import code_of, kept
from rctpl_utils.datasets import DATASETS, ChestXrayDataset, Radiographs
from rctpl_utils.datasets.availability import REPORTS, can_run_on_training_films
from rctpl_utils.datasets.mimic_cxr import list_mimic_cxr
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder, per_encoder
from rctpl_utils.encoders.features import ImageFeatureFile, image_features
from rctpl_utils.encoders.release import add_plain, released_file
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.metrics import macro_auc
from rctpl_utils.files import atomic_path, hash_of, read_json
from rctpl_utils.prompts.corpus import TextCorpus
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import report_labels
from rctpl_utils.vocabulary import TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

_LABELED: dict[str, type[PromptModel]] = {"coop": CoOp, "cocoop": CoCoOp, "dualcoop": DualCoOp}


class Learner(NamedTuple):
    """A method with a number of labels: the stem of its files, its class, the labels a class."""

    slug: str
    kind: type[PromptModel]
    shots: int | None

    @property
    def record(self) -> str:
        """The file of what is kept of its runs."""
        return f"{self.slug}.peer.json"

    def file(self, seed: int) -> str:
        """The file of a seed's tensors."""
        return f"{self.slug}-{seed}.safetensors"


def learners(workspace: Workspace) -> list[Learner]:
    """Those of the run's profile, the text-only one first."""
    settings = workspace.profile.prompt_learners
    return [Learner("tai-dpt", TaIDPT, None)] + [
        Learner(f"{slug}-{shots}", _LABELED[slug], shots)
        for slug in settings.labeled
        for shots in settings.shots
    ]


def learn_prompt_learners(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    reports: Sequence[Report],
    triplets: pd.DataFrame,
) -> tuple[dict[str, dict[str, Any]], pd.DataFrame]:
    """Learn all of them for every seed, each on its own encoder; or read the released ones.

    `reports` are those that RC-TPL learns from, `triplets` those of all reports. Returns the runs
    by name (history, rate, unit, stops), and how many labeled films were drawn; none where no film
    of MIMIC-CXR is there.
    """
    if not can_run_on_training_films(workspace, "Prompt learners"):
        return {}, pd.DataFrame(columns=["shots", "seed", "concept", "drawn"])
    seeds, folder = workspace.profile.seeds, workspace.features
    shots = workspace.profile.prompt_learners.shots
    films, labels = training_films(workspace, triplets)
    drawn = draw_table(labels, TRAINING_CONCEPTS, shots, seeds)
    if workspace.profile.weights == "package":
        files = [released_file(each.record, workspace.weights) for each in learners(workspace)]
        return {record["name"]: record for record in map(read_json, files)}, drawn
    corpora = token_corpora(encoders, list(reports), triplets, TRAINING_CONCEPTS, folder)
    encoded = []
    for seed, encoder in zip(seeds, encoders, strict=True):
        draws = {each: draw_films(labels, TRAINING_CONCEPTS, each, seed) for each in shots}
        encoded.append(few_shot_films(encoder, films, labels, TRAINING_CONCEPTS, folder, draws))
    held_out = open_split(workspace, "mimic-cxr", "validation")
    judges = per_encoder(encoders, lambda each: _judge(workspace, each, held_out))
    runs = {}
    for each in learners(workspace):
        data = [one[each.shots] for one in encoded] if each.shots else corpora
        run = _learn(workspace, each, list(zip(seeds, encoders, judges, data, strict=True)))
        runs[run["name"]] = run
    return runs, drawn


def _learn(
    workspace: Workspace,
    learner: Learner,
    seeds: Sequence[tuple[int, Encoder, Judge, TextCorpus | LabeledFilms]],
) -> dict[str, Any]:
    """Learn a method for every seed, from its encoder, judge and examples; or read what is kept."""
    limits, kind = workspace.profile.prompt_learners, learner.kind
    weights = [workspace.prompts / learner.file(seed) for seed, *_ in seeds]
    keys = [(seed, each.text_key, each.image_key, data.key) for seed, each, _, data in seeds]
    code = code_of(learn_prompt_learners, kind, type(seeds[0][-1]))

    def make() -> dict[str, Any]:
        history, stops = [], []
        for (seed, encoder, judge, data), path in zip(seeds, weights, strict=True):
            model = kind(encoder, seed, TRAINING_CONCEPTS, learner.shots)
            curve = learn(model, data, limits, seed, judge)
            history += [{"seed": seed, **row} for row in curve]
            stops.append({"seed": seed, **stop(curve, limits)})
            with atomic_path(path) as temporary:
                save_file(model.state(), temporary)
        return {
            "name": model.name,
            "unit": "step",
            "parameters": sum(each.numel() for each in model.parameters()),
            "rate": kind.learning_rate,
            "history": history,
            "stops": stops,
        }

    key = hash_of(keys, kind.batch_size, kind.learning_rate, limits, code)
    return kept(workspace.prompts / learner.record, weights, key, make)


def _judge(workspace: Workspace, encoder: Encoder, held_out: ChestXrayDataset) -> Judge:
    """What tells a model's macro AUC on MIMIC-CXR's validation films, without an interval."""
    file, concepts = image_features(encoder, held_out, workspace.features), held_out.concepts
    films = file.batch(np.arange(len(file)), encoder.device)
    labels = held_out.records[list(concepts)].to_numpy(float)
    return lambda model: macro_auc(labels, model.classify(films, concepts).cpu().numpy())


def training_films(
    workspace: Workspace, triplets: pd.DataFrame
) -> tuple[ChestXrayDataset, np.ndarray]:
    """The training films that are there, by tables alone, and their labels (n, L)."""
    if workspace.allow_partial:
        films = open_split(workspace, "mimic-cxr", "train")
    else:
        root = workspace.data_root / DATASETS[REPORTS][0]
        films = list_mimic_cxr(root, "train", skip_bad=workspace.skip_bad)
    return films, film_labels(films, triplets, TRAINING_CONCEPTS)


def film_labels(
    dataset: ChestXrayDataset, triplets: pd.DataFrame, concepts: Sequence[str]
) -> np.ndarray:
    """The labels of MIMIC-CXR films by their reports (column `study`): (n, L) float32."""
    studies = dataset.records["study"]
    by_report = report_labels(triplets, list(studies.unique()), concepts)
    return by_report.loc[studies].to_numpy(np.float32)


def draw_films(labels: np.ndarray, concepts: Sequence[str], shots: int, seed: int) -> np.ndarray:
    """Draw films for each class among those that show it, all where there are fewer: rows, once.

    A film that shows several classes may be drawn for each, so that there are at most shots x L.
    Draws nest: those of few shots are among those of more, with the same seed; a class's draw does
    not depend on the other classes. An `InputError` tells of no shot, or of no film with a class.
    """
    if shots < 1:
        raise InputError(f"{shots} labeled films a class", "Ask for one at least.")
    rows = []
    for column, concept in enumerate(concepts):
        positive = np.flatnonzero(labels[:, column] == 1)
        generator = np.random.default_rng([seed, *concept.encode()])
        rows.append(generator.permutation(positive)[:shots])
    if not any(map(len, rows)):
        raise InputError(
            f"no film shows any of {', '.join(concepts)}", "Use a training set with labels."
        )
    return np.unique(np.concatenate(rows))


def draw_table(
    labels: np.ndarray, concepts: Sequence[str], shots: Iterable[int], seeds: Sequence[int]
) -> pd.DataFrame:
    """How many films `draw_films` draws for each class: shots, seed, concept, drawn."""
    there = dict(zip(concepts, (labels == 1).sum(axis=0).tolist(), strict=True))
    return pd.DataFrame([
        {"shots": each, "seed": seed, "concept": concept, "drawn": min(each, count)}
        for each in shots
        for seed in seeds
        for concept, count in there.items()
    ])  # fmt: skip


def few_shot_films(
    encoder: Encoder,
    dataset: ChestXrayDataset,
    labels: np.ndarray,
    concepts: Sequence[str],
    folder: Path,
    draws: Mapping[int, np.ndarray],
) -> dict[int, LabeledFilms]:
    """Encode the films that were drawn for one seed, once for all numbers of shots.

    `dataset` holds n training films (only drawn ones are opened), `labels` (n, L) are those of
    `film_labels`, `folder` is the feature cache; `draws`, rows, and the result are by shots.
    """
    pool = np.unique(np.concatenate(list(draws.values())))
    chosen = Radiographs(
        dataset.name, dataset.split, dataset.concepts, dataset.records.iloc[pool]
    )  # what is not drawn is never encoded
    encoded = image_features(encoder, chosen, folder)
    films = {}
    for shots, rows in draws.items():
        place = np.searchsorted(pool, rows)
        part = ImageFeatureFile(encoded.global_features[place], encoded.dense_features[place])
        films[shots] = LabeledFilms(part, labels[rows], tuple(concepts), shots)
    return films


def release_prompt_learners(workspace: Workspace) -> None:
    """Put what `learn_prompt_learners` learned here into the run's folder of weights."""
    for each in learners(workspace):
        about = {
            "kind": "prompt learner", "method": each.kind.method,
            "labels_a_class": each.shots or 0,
        }  # fmt: skip
        add_plain(workspace.weights, workspace.prompts / each.record, about)
        for seed in workspace.profile.seeds:
            path = workspace.prompts / each.file(seed)
            add_plain(workspace.weights, path, about | {"seed": seed})


def stop_table(runs: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Where each run ended: method, seed, steps, best_step, validation_auc, plateau."""
    columns = ["method", "seed", "steps", "best_step", "validation_auc", "plateau"]
    rows = [{"method": name, **each} for name, run in runs.items() for each in run["stops"]]
    return pd.DataFrame(rows, columns=columns)
