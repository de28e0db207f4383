"""Every method on every classification set, by the same code (paper 4.2.1: Table 1)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.special import softmax

from rctpl_utils.classification import Classification, Split, evaluate
from rctpl_utils.datasets import ChestXrayDataset, open_dataset
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.features import ImageFeatureFile, image_features
from rctpl_utils.metrics import patient_weights, weighted_auc
from rctpl_utils.scoring import IMAGE_TEMPERATURE, ClassEmbeddings
from rctpl_utils.vocabulary import NO_FINDING
from rctpl_utils.workspace import Workspace
from rctpl_utils.zero_shot import BranchScores, score_images

TABLE1_DATASETS = ("chestxray14", "chexpert", "covidx", "rsna")
BOOTSTRAP_SEED = 2024
SUPERVISED = "supervised reference"
COVID_FILMS = (NO_FINDING, "Pneumonia", "COVID-19")  # what a film of the COVID set can show

Embedder = Callable[[Sequence[str]], ClassEmbeddings]
Scorer = Callable[[ChestXrayDataset, Sequence[str]], np.ndarray]  # films, L concepts: (n, L)


@dataclass(frozen=True)
class Method:
    """A row of Table 1.

    Attributes:
        name: as the table prints it.
        embedders: from concepts to class embeddings; run k belongs to encoder k.
        branch: "report", "concept" or "both".
    """

    name: str
    embedders: tuple[Embedder, ...]
    branch: str = "both"


def classify(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    dataset: str,
    methods: Sequence[Method],
    others: Mapping[str, Sequence[Scorer]] | None = None,
) -> Classification:
    """Score one data set's test and validation images with all methods and evaluate them.

    Args:
        encoders: one a seed; class embeddings of run k meet the films of encoder k.
        others: rows that are no class embeddings, by name: one function a seed.
    """
    embed = lru_cache(maxsize=None)(lambda embedder, asked: embedder(asked))  # once for both splits
    given = methods, others or {}, embed
    concepts, test = _score(workspace, encoders, dataset, "test", *given)
    _, validation = _score(workspace, encoders, dataset, "validation", *given)
    patients = open_split(workspace, dataset, "test").records["patient_id"]
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    weights = patient_weights(patients, workspace.profile.bootstrap, generator)
    return evaluate(dataset, concepts, test, validation, weights)


def _score(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    name: str,
    split: str,
    methods: Sequence[Method],
    others: Mapping[str, Sequence[Scorer]],
    embed: Callable[[Embedder, tuple[str, ...]], ClassEmbeddings],
) -> tuple[tuple[str, ...], Split]:
    dataset = open_split(workspace, name, split)
    asked, shown = asked_concepts(dataset), shown_concepts(dataset)
    films = film_features(workspace, dataset)
    scored = score_runs(encoders, films, methods, lambda each: embed(each, asked))
    scores = {
        method.name: [
            shown_scores(scored[each], method.branch, asked, shown) for each in method.embedders
        ]
        for method in methods
    }
    for label, runs in others.items():
        scores[label] = [run(dataset, shown) for run in runs]
    return shown, Split(dataset.records[list(shown)].to_numpy(float), scores)


def by_encoder(
    encoders: Sequence[Encoder], methods: Iterable[Method]
) -> dict[Encoder, list[Embedder]]:
    """Which class embeddings meet which encoder's films: run k of every method encoder k's.

    In the methods' order: the columns of a product decide the last bits of its entries.

    Raises:
        ValueError: a method with more runs than there are encoders.
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
    """Score films by every run of the methods, each on its own encoder's features.

    Args:
        encoders: one a seed.
        films: an encoder's features of the n films.
        embed: a run's class embeddings of the L classes asked for.

    Returns:
        for each run its branch scores, (n, L).
    """
    scored: dict[Embedder, BranchScores] = {}
    for encoder, embedders in by_encoder(encoders, methods).items():
        embedded = {each: embed(each) for each in embedders}
        scored |= score_images(films(encoder), embedded, temperature)
    return scored


def open_split(workspace: Workspace, name: str, split: str) -> ChestXrayDataset:
    """A split of a data set, opened as the run's options and profile say.

    CheXpert's two depend on how many films a class 5x200 takes; of a validation split at most
    `Profile.validation_films` are kept.

    Raises:
        InputError: as `datasets.open_dataset`.
    """
    options = {"skip_bad": workspace.skip_bad, "allow_partial": workspace.allow_partial}
    if workspace.profile.world is not None and name in ("chexpert", "chexpert5x200"):
        options["per_class"] = workspace.profile.world.chexpert_5x200
    dataset = open_dataset(name, workspace.data_root, split, **options)
    limit = workspace.profile.validation_films if split == "validation" else None
    return dataset if limit is None else dataset.sample(limit)


def asked_concepts(dataset: ChestXrayDataset) -> tuple[str, ...]:
    """The class names put to the model: the set's own, or the kinds of COVID film."""
    return COVID_FILMS if "COVID-19" in dataset.concepts else dataset.concepts


def shown_concepts(dataset: ChestXrayDataset) -> tuple[str, ...]:
    """The concepts that are evaluated: COVID-19 alone where it is among them."""
    return ("COVID-19",) if "COVID-19" in dataset.concepts else dataset.concepts


def shown_scores(
    scores: BranchScores, branch: str, asked: Sequence[str], shown: Sequence[str]
) -> np.ndarray:
    """Scores (n, L); where the films exclude each other, the softmax over their kinds.

    "COVID-19 against all others" would mislead: subtle films resemble each other more than any
    word resembles COVID-19.
    """
    chosen = getattr(scores, branch)
    if tuple(asked) != tuple(shown):
        chosen = softmax(chosen / IMAGE_TEMPERATURE, axis=1)
    return chosen[:, [list(asked).index(concept) for concept in shown]]


def single_name_auc(
    workspace: Workspace, encoders: Sequence[Encoder], methods: Sequence[Method]
) -> pd.DataFrame:
    """AUC of COVID-19 against all other films from its own score alone, without the softmax."""
    dataset = open_split(workspace, "covidx", "test")
    films = film_features(workspace, dataset)
    scored = score_runs(encoders, films, methods, lambda each: each(COVID_FILMS))
    labels = dataset.records["COVID-19"].to_numpy(float)
    ones = np.ones((1, len(dataset)), np.float32)
    rows = {}
    for method in methods:
        values = [
            weighted_auc(labels, getattr(scored[each], method.branch)[:, -1], ones)[0]
            for each in method.embedders
        ]
        rows[method.name] = np.mean(values)
    return pd.Series(rows, name="AUC, one name").to_frame()
