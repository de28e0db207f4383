"""The prompt learners of a run, on RC-TPL's frozen encoders: learned once, kept by content."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import load_file, save_file

from rctpl_utils.baselines import cocoop, coop, dualcoop, tai_dpt
from rctpl_utils.baselines.adapters import Competitor, Reader
from rctpl_utils.baselines.few_shot import (
    Draw,
    LabeledFilms,
    draw_films,
    draw_table,
    few_shot_films,
    film_labels,
)
from rctpl_utils.baselines.prompt_learning import Judge, PromptModel, PromptSettings, learn, stop
from rctpl_utils.baselines.tokens import token_corpora
from rctpl_utils.code_hash import code_of, kept
from rctpl_utils.datasets import DATASETS, ChestXrayDataset
from rctpl_utils.datasets.availability import REPORTS, can_run_on_training_films, has_training_films
from rctpl_utils.datasets.mimic_cxr import list_mimic_cxr
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder, per_encoder
from rctpl_utils.encoders.features import image_features
from rctpl_utils.encoders.release import add_plain, released_file
from rctpl_utils.evaluation.metrics import macro_auc
from rctpl_utils.files import atomic_path, hash_of, read_json
from rctpl_utils.prompts.corpus import TextCorpus
from rctpl_utils.text.reports import Report
from rctpl_utils.vocabulary import TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

_LABELED: dict[str, tuple[type[PromptModel], PromptSettings]] = {
    "coop": (coop.CoOp, coop.SETTINGS),
    "cocoop": (cocoop.CoCoOp, cocoop.SETTINGS),
    "dualcoop": (dualcoop.DualCoOp, dualcoop.SETTINGS),
}
_TEXT_ONLY = "tai-dpt"
Example = tuple[int, Encoder, TextCorpus | LabeledFilms]  # seed, its encoder, what it learns from


def learn_peers(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    reports: Sequence[Report],
    triplets: pd.DataFrame,
) -> tuple[dict[str, dict[str, Any]], pd.DataFrame]:
    """Learn all of them for every seed, each on its own encoder; or read the released ones.

    Args:
        encoders: one a seed.
        reports: those of the training split that RC-TPL learns from.
        triplets: of all reports.

    Returns:
        the runs by name (history, rate, unit, stops), and how many labeled films were drawn; none
        where no film of MIMIC-CXR is there.
    """
    if not can_run_on_training_films(workspace, "Prompt learners"):
        return {}, pd.DataFrame(columns=["shots", "seed", "concept", "drawn"])
    if workspace.profile.weights == "package":
        return _released_runs(workspace), draw_table(drawn_films(workspace, triplets)[2])
    seeds, folder = workspace.profile.seeds, workspace.features
    corpora = token_corpora(encoders, list(reports), triplets, TRAINING_CONCEPTS, folder)
    films, labels, draws = drawn_films(workspace, triplets)
    shared = _Runs(workspace, encoders)
    examples = list(zip(seeds, encoders, corpora, strict=True))
    runs = dict([shared.run(_TEXT_ONLY, tai_dpt.TaIDPT, tai_dpt.SETTINGS, None, examples)])
    encoded = [
        few_shot_films(encoder, films, labels, TRAINING_CONCEPTS, folder, _of_seed(draws, seed))
        for seed, encoder in zip(seeds, encoders, strict=True)
    ]
    for slug in workspace.profile.peers.labeled:
        for shots in workspace.profile.peers.shots:
            data = [each[shots] for each in encoded]
            examples = list(zip(seeds, encoders, data, strict=True))
            name, run = shared.run(f"{slug}-{shots}", *_LABELED[slug], shots, examples)
            runs[name] = run
    return runs, draw_table(draws)


def drawn_films(
    workspace: Workspace, triplets: pd.DataFrame
) -> tuple[ChestXrayDataset, np.ndarray, dict[tuple[int, int], Draw]]:
    """Which training films the labeled ones learn from: by tables and reports, no film is opened.

    Returns:
        all training films, their labels (n, L), and the draws by (shots, seed).
    """
    films = _training_films(workspace)
    labels = film_labels(films, triplets, TRAINING_CONCEPTS)
    draws = {
        (shots, seed): draw_films(labels, TRAINING_CONCEPTS, shots, seed)
        for shots in workspace.profile.peers.shots
        for seed in workspace.profile.seeds
    }
    return films, labels, draws


def _training_films(workspace: Workspace) -> ChestXrayDataset:
    """All that the tables name; of an incomplete data set those that are there."""
    if workspace.allow_partial:
        return open_split(workspace, "mimic-cxr", "train")
    root = workspace.data_root / DATASETS[REPORTS][0]
    return list_mimic_cxr(root, "train", skip_bad=workspace.skip_bad)


def _of_seed(draws: Mapping[tuple[int, int], Draw], seed: int) -> dict[int, Draw]:
    return {shots: draw for (shots, of), draw in draws.items() if of == seed}


def load_peers(workspace: Workspace, encoders: Sequence[Encoder]) -> list[Competitor]:
    """The learned ones, ready for the tables; none without films of MIMIC-CXR.

    Args:
        encoders: one a seed.
    """
    if not has_training_films(workspace):
        return []
    films = per_encoder(encoders, lambda each: feature_reader(workspace, each))
    rows = []
    for slug, kind, shots in _kinds(workspace):
        models = tuple(
            _read(kind(encoder, seed, shots=shots), _path(workspace, slug, seed))
            for seed, encoder in zip(workspace.profile.seeds, encoders, strict=True)
        )
        rows.append(Competitor(models[0].name, models, films, labeled=shots or 0))
    return rows


def feature_reader(workspace: Workspace, encoder: Encoder) -> Reader:
    """From a data set to its films as a frozen encoder's cached features."""

    def films(dataset: Any) -> Callable[[np.ndarray], Any]:
        file = image_features(encoder, dataset, workspace.features)
        return lambda rows: file.batch(rows, encoder.device)

    return films


def _kinds(workspace: Workspace) -> list[tuple[str, type[PromptModel], int | None]]:
    """Of each method and number of labels: its files' name, its class, the labels a class."""
    peers = workspace.profile.peers
    kinds = [(_TEXT_ONLY, tai_dpt.TaIDPT, None)]
    return kinds + [
        (f"{slug}-{shots}", _LABELED[slug][0], shots)
        for slug in peers.labeled
        for shots in peers.shots
    ]


def release_peers(workspace: Workspace) -> None:
    """Put what `learn_peers` learned here into the run's folder of weights."""
    for slug, kind, shots in _kinds(workspace):
        about = {"kind": "prompt learner", "method": kind.method, "labels_a_class": shots or 0}
        add_plain(workspace.weights, workspace.prompts / _record(slug), about)
        for seed in workspace.profile.seeds:
            path = workspace.prompts / _file(slug, seed)
            add_plain(workspace.weights, path, about | {"seed": seed})


def _released_runs(workspace: Workspace) -> dict[str, dict[str, Any]]:
    files = [released_file(_record(slug), workspace.weights) for slug, *_ in _kinds(workspace)]
    return {record["name"]: record for record in map(read_json, files)}


def _path(workspace: Workspace, slug: str, seed: int) -> Path:
    if workspace.profile.weights == "package":
        return released_file(_file(slug, seed), workspace.weights)
    return workspace.prompts / _file(slug, seed)


def _file(slug: str, seed: int) -> str:
    return f"{slug}-{seed}.safetensors"


def _record(slug: str) -> str:
    return f"{slug}.peer.json"


def _read(model: PromptModel, path: Path) -> PromptModel:
    return model.load(load_file(path)).to(model.encoder.device)


def stop_table(runs: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Where each run ended: method, seed, steps, best_step, validation_auc, plateau."""
    columns = ["method", "seed", "steps", "best_step", "validation_auc", "plateau"]
    rows = [{"method": name, **each} for name, run in runs.items() for each in run["stops"]]
    return pd.DataFrame(rows, columns=columns)


class _Runs:
    """Learns methods one after the other with the same limits, validation films and cache."""

    def __init__(self, workspace: Workspace, encoders: Sequence[Encoder]) -> None:
        self.workspace = workspace
        self.films = open_split(workspace, "mimic-cxr", "validation")
        self.judges = dict(zip(encoders, per_encoder(encoders, self._judge), strict=True))

    def run(
        self,
        slug: str,
        kind: type[PromptModel],
        settings: PromptSettings,
        shots: int | None,
        examples: Sequence[Example],
    ) -> tuple[str, dict[str, Any]]:
        """Learn every seed; or read what is current."""
        limits = self.workspace.profile.peers
        record = self.workspace.prompts / _record(slug)
        weights = [self.workspace.prompts / _file(slug, seed) for seed, *_ in examples]
        keys = [(s, each.text_key, each.image_key, data.key) for s, each, data in examples]
        key = hash_of(keys, settings, limits, code_of(type(self), kind, type(examples[0][1])))

        def make() -> dict[str, Any]:
            history, stops = [], []
            for (seed, encoder, data), path in zip(examples, weights, strict=True):
                model = kind(encoder, seed, TRAINING_CONCEPTS, shots)
                curve = learn(model, data, settings, limits, seed, self.judges[encoder])
                history += [{"seed": seed, **row} for row in curve]
                stops.append({"seed": seed, **stop(curve, limits)})
                with atomic_path(path) as temporary:
                    save_file(model.state(), temporary)
            return {
                "name": model.name,
                "unit": "step",
                "parameters": sum(each.numel() for each in model.parameters()),
                "rate": settings.learning_rate,
                "history": history,
                "stops": stops,
            }

        stored = kept(record, weights, key, make)
        return stored["name"], stored

    def _judge(self, encoder: Encoder) -> Judge:
        """From a model to its macro AUC on MIMIC-CXR's validation films, without an interval."""
        file = image_features(encoder, self.films, self.workspace.features)
        films = file.batch(np.arange(len(file)), encoder.device)
        concepts = self.films.concepts
        labels = self.films.records[list(concepts)].to_numpy(float)
        return lambda model: macro_auc(labels, model.classify(films, concepts).cpu().numpy())
