"""Every method on every classification set, by the same code (paper 4.2.1: Table 1)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.questions import QUESTIONS, Question
from rctpl_utils.datasets.splits import can_run, open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import ImageFeatureFile, image_features
from rctpl_utils.evaluation.classification import evaluate
from rctpl_utils.evaluation.metrics import patient_weights, scorable, weighted_auc
from rctpl_utils.evaluation.table1 import Classification, Split
from rctpl_utils.prompts.zero_shot import BranchScores, Embedder, Method, score_images
from rctpl_utils.scoring import IMAGE_TEMPERATURE, ClassEmbeddings
from rctpl_utils.workspace import Workspace

TABLE1_DATASETS = tuple(dict.fromkeys(each.dataset for each in QUESTIONS.values()))
SUPERVISED = "supervised reference"
SPLITS = ("test", "validation")

Scorer = Callable[[ChestXrayDataset, tuple[str, ...]], np.ndarray]  # films, L concepts: (n, L)


def classify(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    name: str,
    columns: Sequence[str],
    methods: Sequence[Method],
    others: Mapping[str, Sequence[Scorer]] | None = None,
) -> dict[str, Classification]:
    """Score a data set's test and validation images with all methods and evaluate them.

    Class embeddings of run k meet the films of encoder k; `columns` of `QUESTIONS` that ask for the
    same classes get an outcome each; `others`: rows that are no class embeddings, a function a
    seed.
    """
    embed = lru_cache(maxsize=None)(lambda embedder, asked: embedder(asked))  # once for both splits
    opened = {split: open_split(workspace, name, split) for split in SPLITS}
    asked = QUESTIONS[columns[0]].asked(opened["test"])
    raw = {
        split: _score(workspace, encoders, dataset, asked, methods, others or {}, embed)
        for split, dataset in opened.items()
    }
    return {column: _evaluated(workspace, column, opened, raw) for column in columns}


def _evaluated(
    workspace: Workspace,
    column: str,
    opened: Mapping[str, ChestXrayDataset],
    raw: Mapping[str, dict[str, list[np.ndarray]]],
) -> Classification:
    question = QUESTIONS[column]
    test, validation = (
        Split(question.labels(opened[split]), _shown(question, raw[split], raw["validation"]))
        for split in SPLITS
    )
    patients = opened["test"].records["patient_id"]
    weights = patient_weights(patients, workspace.profile.bootstrap)
    return evaluate(column, question.shown(opened["test"]), test, validation, weights)


def _shown(
    question: Question, raw: dict[str, list[np.ndarray]], held_out: dict[str, list[np.ndarray]]
) -> dict[str, list[np.ndarray]]:
    return {
        name: [question.scores(*run) for run in zip(runs, held_out[name], strict=True)]
        for name, runs in raw.items()
    }


def answerable(workspace: Workspace) -> dict[str, list[str]]:
    """The columns that can be filled, by data set; what cannot is said in a line (COVIDx's lists of
    two classes do not tell pneumonia from normal films).
    """
    found: dict[str, list[str]] = {}
    for column, question in QUESTIONS.items():
        if not can_run(workspace, f"Table 1, {column}", question.dataset):
            continue
        if question.can_ask(open_split(workspace, question.dataset, "test")):
            found.setdefault(question.dataset, []).append(column)
        else:
            print(f"Table 1, {column}: not run, {question.dataset} does not label pneumonia.")
    return found


def _score(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    dataset: ChestXrayDataset,
    asked: tuple[str, ...],
    methods: Sequence[Method],
    others: Mapping[str, Sequence[Scorer]],
    embed: Callable[[Embedder, tuple[str, ...]], ClassEmbeddings],
) -> dict[str, list[np.ndarray]]:
    """Every row's scores of the classes asked: by name, (n, classes asked) a run."""
    films = film_features(workspace, dataset)
    scored = score_runs(encoders, films, methods, lambda each: embed(each, asked))
    scores = {
        method.name: [getattr(scored[each], method.branch) for each in method.embedders]
        for method in methods
    }
    return scores | {label: [run(dataset, asked) for run in runs] for label, runs in others.items()}


def by_encoder(
    encoders: Sequence[Encoder], methods: Iterable[Method]
) -> dict[Encoder, list[Embedder]]:
    """Which class embeddings meet which encoder's films: run k of every method encoder k's.

    In the methods' order: the columns of a product decide the last bits of its entries. ValueError:
    a method with more runs than there are encoders.
    """
    found: dict[Encoder, dict[Embedder, None]] = {encoder: {} for encoder in encoders}
    for method in methods:
        if len(method.embedders) > len(encoders):
            raise ValueError(f"{len(method.embedders)} runs, but {len(encoders)} encoders")
        for encoder, embedder in zip(encoders, method.embedders, strict=False):
            found[encoder][embedder] = None
    return {encoder: list(embedders) for encoder, embedders in found.items() if embedders}


def film_features(
    workspace: Workspace, dataset: ChestXrayDataset
) -> Callable[[Encoder], ImageFeatureFile]:
    """From an encoder to a data set's cached features; the set is opened once an encoder."""
    return lru_cache(maxsize=None)(
        lambda encoder: image_features(encoder, dataset, workspace.features)
    )


def score_runs(
    encoders: Sequence[Encoder],
    films: Callable[[Encoder], ImageFeatureFile],
    methods: Iterable[Method],
    embed: Callable[[Embedder], ClassEmbeddings],
    temperature: float = IMAGE_TEMPERATURE,
) -> dict[Embedder, BranchScores]:
    """Score n films by every run of the methods, each on its own encoder's features: for each run
    the branch scores, (n, L), of the classes that `embed` gives.
    """
    scored: dict[Embedder, BranchScores] = {}
    for encoder, embedders in by_encoder(encoders, methods).items():
        embedded = {each: embed(each) for each in embedders}
        scored |= score_images(films(encoder), embedded, temperature)
    return scored


INVERSE_TEMPERATURES = (5, 10, 20, 40, 80, 160)


def temperature_sensitivity(
    workspace: Workspace, encoders: Sequence[Encoder], methods: Sequence[Method], dataset: str
) -> pd.DataFrame:
    """How much tau_c of Eq. 8 matters: the concept branch's macro AUC on validation films by 1 /
    tau_c, one row a method, first seed.
    """
    films = open_split(workspace, dataset, "validation")
    features = image_features(encoders[0], films, workspace.features)
    labels = films.records[list(films.concepts)].to_numpy(float)
    columns = [k for k in range(labels.shape[1]) if scorable(labels[:, k])]
    ones = np.ones((1, len(films)), np.float32)
    embeddings = {method.name: method.embedders[0](films.concepts) for method in methods}
    table = {}
    for inverse in INVERSE_TEMPERATURES:
        scored = score_images(features, embeddings, 1 / inverse)
        table[inverse] = {
            name: np.mean(
                [weighted_auc(labels[:, k], each.concept[:, k], ones)[0] for k in columns]
            )
            for name, each in scored.items()
        }
    return pd.DataFrame(table).rename_axis(columns="1 / tau_c")
