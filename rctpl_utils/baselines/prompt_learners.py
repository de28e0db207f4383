"""The prompt learners of a run, on RC-TPL's frozen encoders: learned once, kept by content."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from safetensors.torch import load_file, save_file

from rctpl_utils.baselines.few_shot import Draw
from rctpl_utils.baselines.learners import CoCoOp, CoOp, DualCoOp, PromptModel, TaIDPT
from rctpl_utils.baselines.prompt_learners import (
    Judge,
    LabeledFilms,
    draw_films,
    draw_table,
    few_shot_films,
    film_labels,
    stop,
    token_corpora,
)
from rctpl_utils.baselines.prompt_learning import learn
from rctpl_utils.baselines.registry import Competitor, FilmReader
from rctpl_utils.code_hash import code_of, kept
from rctpl_utils.datasets import DATASETS, ChestXrayDataset
from rctpl_utils.datasets.availability import REPORTS
from rctpl_utils.datasets.mimic_cxr import list_mimic_cxr
from rctpl_utils.datasets.splits import can_run_on_training_films, has_training_films, open_split
from rctpl_utils.encoders.base import Encoder, per_encoder
from rctpl_utils.encoders.features import image_features
from rctpl_utils.encoders.release import add_plain, released_file
from rctpl_utils.evaluation.metrics import macro_auc
from rctpl_utils.files import atomic_path, hash_of, read_json
from rctpl_utils.prompts.training import TextCorpus
from rctpl_utils.text.reports import Report
from rctpl_utils.vocabulary import TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

_LABELED: dict[str, type[PromptModel]] = {"coop": CoOp, "cocoop": CoCoOp, "dualcoop": DualCoOp}
Example = tuple[int, Encoder, TextCorpus | LabeledFilms]  # seed, its encoder, what it learns from


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
    if workspace.profile.weights == "package":
        return released_runs(workspace), draw_table(drawn_films(workspace, triplets)[2])
    seeds, folder = workspace.profile.seeds, workspace.features
    corpora = token_corpora(encoders, list(reports), triplets, TRAINING_CONCEPTS, folder)
    films, labels, draws = drawn_films(workspace, triplets)
    shared = _Runs(workspace, encoders)
    encoded = []
    for seed, encoder in zip(seeds, encoders, strict=True):
        own = {shots: draw for (shots, of), draw in draws.items() if of == seed}
        encoded.append(few_shot_films(encoder, films, labels, TRAINING_CONCEPTS, folder, own))
    runs = {}
    for each in learners(workspace):
        data = [one[each.shots] for one in encoded] if each.shots else corpora
        run = shared.run(each, list(zip(seeds, encoders, data, strict=True)))
        runs[run["name"]] = run
    return runs, draw_table(draws)


def drawn_films(
    workspace: Workspace, triplets: pd.DataFrame
) -> tuple[ChestXrayDataset, np.ndarray, dict[tuple[int, int], Draw]]:
    """Which training films the labeled ones learn from: by tables and reports, no film is opened.

    Returns the training films that are there, their labels (n, L), and draws by (shots, seed).
    """
    if workspace.allow_partial:
        films = open_split(workspace, "mimic-cxr", "train")
    else:
        root = workspace.data_root / DATASETS[REPORTS][0]
        films = list_mimic_cxr(root, "train", skip_bad=workspace.skip_bad)
    labels = film_labels(films, triplets, TRAINING_CONCEPTS)
    draws = {
        (shots, seed): draw_films(labels, TRAINING_CONCEPTS, shots, seed)
        for shots in workspace.profile.prompt_learners.shots
        for seed in workspace.profile.seeds
    }
    return films, labels, draws


def load_prompt_learners(workspace: Workspace, encoders: Sequence[Encoder]) -> list[Competitor]:
    """The learned ones, for the tables, one encoder a seed; none without films of MIMIC-CXR."""
    if not has_training_films(workspace):
        return []
    films = per_encoder(encoders, lambda each: feature_reader(workspace, each))
    packaged = workspace.profile.weights == "package"
    rows = []
    for each in learners(workspace):
        models = []
        for seed, encoder in zip(workspace.profile.seeds, encoders, strict=True):
            name = each.file(seed)
            path = released_file(name, workspace.weights) if packaged else workspace.prompts / name
            model = each.kind(encoder, seed, shots=each.shots).load(load_file(path))
            models.append(model.to(encoder.device))
        rows.append(Competitor(models[0].name, tuple(models), films, labeled=each.shots or 0))
    return rows


def feature_reader(workspace: Workspace, encoder: Encoder) -> FilmReader:
    """From a data set to its films as a frozen encoder's cached features."""

    def films(dataset: Any) -> Callable[[np.ndarray], Any]:
        file = image_features(encoder, dataset, workspace.features)
        return lambda rows: file.batch(rows, encoder.device)

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


def released_runs(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """The released runs by name."""
    files = [released_file(each.record, workspace.weights) for each in learners(workspace)]
    return {record["name"]: record for record in map(read_json, files)}


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

    def run(self, learner: Learner, examples: Sequence[Example]) -> dict[str, Any]:
        """Learn every seed; or read what is current."""
        limits, kind = self.workspace.profile.prompt_learners, learner.kind
        folder: Path = self.workspace.prompts
        weights = [folder / learner.file(seed) for seed, *_ in examples]
        keys = [(s, each.text_key, each.image_key, data.key) for s, each, data in examples]
        code = code_of(type(self), kind, type(examples[0][2]))
        key = hash_of(keys, kind.settings, limits, code)

        def make() -> dict[str, Any]:
            history, stops = [], []
            for (seed, encoder, data), path in zip(examples, weights, strict=True):
                model = kind(encoder, seed, TRAINING_CONCEPTS, learner.shots)
                curve = learn(model, data, kind.settings, limits, seed, self.judges[encoder])
                history += [{"seed": seed, **row} for row in curve]
                stops.append({"seed": seed, **stop(curve, limits)})
                with atomic_path(path) as temporary:
                    save_file(model.state(), temporary)
            return {
                "name": model.name,
                "unit": "step",
                "parameters": sum(each.numel() for each in model.parameters()),
                "rate": kind.settings.learning_rate,
                "history": history,
                "stops": stops,
            }

        return kept(folder / learner.record, weights, key, make)

    def _judge(self, encoder: Encoder) -> Judge:
        """From a model to its macro AUC on MIMIC-CXR's validation films, without an interval."""
        file = image_features(encoder, self.films, self.workspace.features)
        films = file.batch(np.arange(len(file)), encoder.device)
        concepts = self.films.concepts
        labels = self.films.records[list(concepts)].to_numpy(float)
        return lambda model: macro_auc(labels, model.classify(films, concepts).cpu().numpy())
