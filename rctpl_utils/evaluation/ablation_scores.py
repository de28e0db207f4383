"""The ablations on films: macro AUC and the pointing game."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.availability import present
from rctpl_utils.datasets.questions import QUESTIONS
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import ImageFeatureFile
from rctpl_utils.encoders.frame import cosine_maps, frame_of
from rctpl_utils.evaluation.ablations import Trial
from rctpl_utils.evaluation.bootstrap_samples import Draws
from rctpl_utils.evaluation.grounding import BATCH, GROUNDING_DATASETS
from rctpl_utils.evaluation.grounding_methods import Films
from rctpl_utils.evaluation.grounding_metrics import points_into
from rctpl_utils.evaluation.metrics import patient_weights, resampled_means, scorable, weighted_auc
from rctpl_utils.evaluation.table1 import film_features, score_runs
from rctpl_utils.prompts.methods import Embedder, Method
from rctpl_utils.scoring import ClassEmbeddings
from rctpl_utils.vocabulary import CONCEPTS
from rctpl_utils.workspace import Workspace

CLASSIFIED = ("chexpert", "covidx-normal", "covidx-pneumonia")
GROUNDED = "covid-rural"


def score_trials(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    trials: Mapping[str, Trial],
    split: str = "test",
    classified: Sequence[str] = CLASSIFIED,
    grounded: Sequence[str] = (GROUNDED,),
) -> Draws:
    """Macro AUC and the pointing game, in the sample and in every resample.

    Run k of a trial meets the films of encoder k. Absent data sets have no draws, nor have columns
    whose labels cannot tell (`Question.can_ask`); trials that are the same object under several
    labels are scored once.
    """
    distinct = list(dict.fromkeys(trials.values()))
    once = cache(_asked_once)  # trials that differ in their branch only share embedders
    asked = [replace(each, embedders=tuple(map(once, each.embedders))) for each in distinct]
    found: Draws = {}
    for metric, measure, names in (
        ("auc", _auc, classified),
        ("pointing_game", _pointing, grounded),
    ):
        for name in present(workspace, names):
            if metric == "auc" and not _can_ask(workspace, name, split):
                continue
            values = measure(workspace, encoders, name, asked, split)
            for trial, runs in zip(distinct, values, strict=True):
                labels = [label for label, each in trials.items() if each is trial]
                found |= {(name, label, metric): runs for label in labels}
    return found


def _asked_once(embedder: Embedder) -> Embedder:
    """The same, asked for all concepts at its first call: the data sets share the work."""
    everything = cache(lambda: embedder(CONCEPTS))

    def chosen(concepts: Sequence[str]) -> ClassEmbeddings:
        rows = [CONCEPTS.index(each) for each in concepts]
        return ClassEmbeddings(*(part[rows] for part in everything()))

    return chosen


def _can_ask(workspace: Workspace, column: str, split: str) -> bool:
    question = QUESTIONS[column]
    return question.can_ask(open_split(workspace, question.dataset, split))


def _auc(
    workspace: Workspace, encoders: Sequence[Encoder], name: str, trials: list[Trial], split: str
) -> list[np.ndarray]:
    """Macro AUC of each trial, (seeds, 1 + R)."""
    question = QUESTIONS[name]
    opened = [open_split(workspace, question.dataset, part) for part in (split, "validation")]
    films = [film_features(workspace, each) for each in opened]
    labels, asked = question.labels(opened[0]), question.asked(opened[0])
    columns = [k for k in range(labels.shape[1]) if scorable(labels[:, k])]
    weights = patient_weights(opened[0].records["patient_id"], workspace.profile.bootstrap)
    found = []
    for trial in tqdm(trials, desc=f"ablations on {name}", unit="arm"):
        scored = [
            score_runs(
                encoders, trial.reader(each), [trial], lambda run: run(asked), trial.temperature
            )
            for each in films
        ]
        runs = []
        for embedder in trial.embedders:
            chosen = question.scores(*(getattr(each[embedder], trial.branch) for each in scored))
            aucs = [weighted_auc(labels[:, k], chosen[:, k], weights) for k in columns]
            runs.append(np.mean(aucs, axis=0))
        found.append(np.stack(runs))
    return found


def _pointing(
    workspace: Workspace, encoders: Sequence[Encoder], name: str, trials: list[Trial], split: str
) -> list[np.ndarray]:
    """The pointing game of each trial, (seeds, 1 + R)."""
    concept, _ = GROUNDING_DATASETS[name]
    dataset = open_split(workspace, name, split)
    hits = pointing_of_runs(encoders, dataset, film_features(workspace, dataset), concept, trials)
    patients = dataset.records["patient_id"][dataset.annotated(concept)]
    weights = patient_weights(patients, workspace.profile.bootstrap)
    return [resampled_means(each, weights) for each in hits]


def pointing_of_runs(
    encoders: Sequence[Encoder],
    dataset: ChestXrayDataset,
    films: Callable[[Encoder], ImageFeatureFile],
    concept: str,
    trials: Sequence[Trial | Method],
) -> list[np.ndarray]:
    """The pointing game of every run, each on its own encoder's maps: (seeds, n) a trial."""
    found: dict[tuple[int, int], np.ndarray] = {}  # trial, seed
    for encoder in dict.fromkeys(encoders):
        runs = [
            (t, k) for t, trial in enumerate(trials) for k in range(len(trial.embedders))
            if encoders[k] is encoder
        ]  # fmt: skip
        embeddings = torch.cat([_asked(trials[t], k, concept) for t, k in runs])
        hits = pointing_hits(encoder, dataset, films(encoder), concept, embeddings)
        found |= dict(zip(runs, hits, strict=True))
    return [
        np.stack([found[t, k] for k in range(len(trial.embedders))])
        for t, trial in enumerate(trials)
    ]


def _asked(trial: Trial | Method, seed: int, concept: str) -> Tensor:
    branch = "report" if trial.branch == "report" else "concept"
    return getattr(trial.embedders[seed]([concept]), branch)


@torch.no_grad()
def pointing_hits(
    encoder: Encoder,
    dataset: ChestXrayDataset,
    file: ImageFeatureFile,
    concept: str,
    embeddings: Tensor,
) -> np.ndarray:
    """Whether each class embedding's cosine map points into the lesion of each drawn film:
    embeddings (K, d) of one concept by K methods or seeds to (K, n) of 0 and 1.
    """
    rows = np.flatnonzero(dataset.annotated(concept))
    hits = np.zeros((len(embeddings), len(rows)))
    with tqdm(total=len(rows), desc=f"pointing on {dataset.name}", unit="film") as bar:
        for start in range(0, len(rows), BATCH):
            films = Films(encoder, dataset, file, rows[start : start + BATCH], concept)
            maps = cosine_maps(films.features.dense_features, embeddings).cpu()
            for k, row in enumerate(films.rows):
                mask = dataset.mask(row, concept)
                hits[:, start + k] = points_into(maps[k], mask, frame_of(encoder))
                bar.update()
    return hits
