"""Every method on every classification set, by the same code (paper 4.2.1: Table 1, Figure 3)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.questions import QUESTIONS
from rctpl_utils.datasets.splits import can_run, open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import ImageFeatureFile, image_features
from rctpl_utils.evaluation import metrics
from rctpl_utils.evaluation.results import Draws
from rctpl_utils.prompts.zero_shot import BranchScores, Embedder, Method, score_images
from rctpl_utils.scoring import IMAGE_TEMPERATURE, ClassEmbeddings
from rctpl_utils.workspace import Workspace

TABLE1_DATASETS = tuple(dict.fromkeys(each.dataset for each in QUESTIONS.values()))
SUPERVISED = "supervised reference"
SPLITS = ("test", "validation")
INVERSE_TEMPERATURES = (5, 10, 20, 40, 80, 160)
# columns of paired tests
TEST_COLUMNS = (
    "dataset", "method", "against", "value", "ci_low", "ci_high", "p_value", "p_holm",
)  # fmt: skip

Scorer = Callable[[ChestXrayDataset, tuple[str, ...]], np.ndarray]  # films, L concepts: (n, L)


@dataclass(frozen=True)
class Split:
    """A split's labels (n, L), 1, 0 or NaN, and each method's scores, (n, L) a seed."""

    labels: np.ndarray
    scores: dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Classification:
    """The outcome on one data set: tidy macro `rows`, AUC by `concept` likewise in `per_class`,
    values by seed, and the macro metrics' draws.
    """

    rows: pd.DataFrame
    per_class: pd.DataFrame
    per_seed: pd.DataFrame
    draws: Draws


def classify(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    name: str,
    columns: Sequence[str],
    methods: Sequence[Method],
    others: Mapping[str, Sequence[Scorer]] | None = None,
) -> dict[str, Classification]:
    """Score a data set's test and validation images with all methods and evaluate them.

    `columns` of `QUESTIONS` that ask for the same classes get an outcome each; `others`: rows that
    are no class embeddings, a function a seed.
    """
    opened = {split: open_split(workspace, name, split) for split in SPLITS}
    test = opened["test"]
    asked = QUESTIONS[columns[0]].asked(test)
    embed = lru_cache(maxsize=None)(lambda embedder: embedder(asked))  # once for both splits
    raw: dict[str, dict[str, list[np.ndarray]]] = {}  # (n, classes asked) a run
    for split, dataset in opened.items():
        scored = score_runs(encoders, film_features(workspace, dataset), methods, embed)
        raw[split] = by_method(methods, scored)
        for label, runs in (others or {}).items():
            raw[split][label] = [run(dataset, asked) for run in runs]
    weights = metrics.patient_weights(test.records["patient_id"], workspace.profile.bootstrap)
    found = {}
    for column in columns:
        question, splits = QUESTIONS[column], []
        for split in SPLITS:
            shown = {
                label: [
                    question.scores(*run)
                    for run in zip(runs, raw["validation"][label], strict=True)
                ]
                for label, runs in raw[split].items()
            }
            splits.append(Split(question.labels(opened[split]), shown))
        found[column] = evaluate(column, question.shown(test), *splits, weights)
    return found


def evaluate(
    dataset: str, concepts: tuple[str, ...], test: Split, validation: Split, weights: np.ndarray
) -> Classification:
    """AUC, accuracy at the oracle's and at the validation threshold, for each method. A class
    without both labels in either split is left out of the macro averages.
    """
    pairs = zip(test.labels.T, validation.labels.T, strict=True)
    columns = [k for k, pair in enumerate(pairs) if all(map(metrics.scorable, pair))]
    rows, per_class, per_seed, draws = [], [], [], {}
    for method, runs in test.scores.items():
        base = {"dataset": dataset, "method": method, "seeds": len(runs), "n": len(test.labels)}
        by_metric = _resample(test, validation, method, columns, weights)  # metric -> (seeds, R, L)
        for metric, values in by_metric.items():
            macro = values.mean(axis=2)
            rows.append({**base, "metric": metric, **metrics.named_interval(macro)})
            per_seed += [
                {"dataset": dataset, "method": method, "metric": metric, "seed": s, "value": v}
                for s, v in enumerate(values[:, 0].mean(axis=1))
            ]
            draws[dataset, method, metric] = macro
        per_class += [
            {**base, "concept": concepts[k], "metric": "auc", **metrics.named_interval(each)}
            for k, each in zip(columns, np.moveaxis(by_metric["auc"], 2, 0), strict=True)
        ]
    return Classification(*map(pd.DataFrame, (rows, per_class, per_seed)), draws)


def _resample(
    test: Split, validation: Split, method: str, columns: list[int], weights: np.ndarray
) -> dict[str, np.ndarray]:
    labels, held_out_labels = test.labels[:, columns], validation.labels[:, columns]
    found: dict[str, list] = {"auc": [], "acc_oracle": [], "acc_validation": []}
    for run, held_out in zip(test.scores[method], validation.scores[method], strict=True):
        scores = run[:, columns]
        pairs = zip(labels.T, scores.T, strict=True)
        aucs = [metrics.weighted_auc(*each, weights) for each in pairs]
        found["auc"].append(np.stack(aucs, axis=1))  # (R, L)
        chosen_on = {
            "acc_oracle": (labels, scores),
            "acc_validation": (held_out_labels, held_out[:, columns]),
        }
        for metric, (known, scored) in chosen_on.items():
            pairs = zip(known.T, scored.T, strict=True)
            thresholds = np.array([metrics.best_f1_threshold(*each) for each in pairs])
            found[metric].append(metrics.weighted_accuracy(labels, scores, thresholds, weights))
    return {metric: np.stack(values) for metric, values in found.items()}


def compare(outcome: Classification, method: str, others: list[str]) -> pd.DataFrame:
    """Paired bootstrap of the macro AUC: `method` minus each of `others`, same resamples."""
    dataset, draws = outcome.rows["dataset"].iloc[0], outcome.draws
    own = draws[dataset, method, "auc"]
    return pd.DataFrame([
        {"dataset": dataset, "method": method, "against": other,
         **metrics.paired_test(own, draws[dataset, other, "auc"])}
        for other in others
    ])  # fmt: skip


def answerable(workspace: Workspace) -> dict[str, list[str]]:
    """The columns that can be filled, by data set; what cannot is said in a line."""
    found: dict[str, list[str]] = {}
    for column, question in QUESTIONS.items():
        if not can_run(workspace, f"Table 1, {column}", question.dataset):
            continue
        if question.can_ask(open_split(workspace, question.dataset, "test")):
            found.setdefault(question.dataset, []).append(column)
        else:
            print(f"Table 1, {column}: not run, {question.dataset} does not label pneumonia.")
    return found


def by_encoder(
    encoders: Sequence[Encoder], methods: Iterable[Method]
) -> dict[Encoder, list[Embedder]]:
    """Which class embeddings meet which encoder's films: run k of every method encoder k's. In the
    methods' order: the columns of a product decide the last bits of its entries. ValueError: a
    method with more runs than there are encoders.
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
    """Score films by every run of the methods, on its own encoder's features: (n, L) a branch."""
    scored: dict[Embedder, BranchScores] = {}
    for encoder, embedders in by_encoder(encoders, methods).items():
        embedded = {each: embed(each) for each in embedders}
        scored |= score_images(films(encoder), embedded, temperature)
    return scored


def by_method(
    methods: Iterable[Method], scored: Mapping[Embedder, BranchScores]
) -> dict[str, list[np.ndarray]]:
    """Each method's scores by its own branch, (n, L) a run."""
    return {m.name: [getattr(scored[each], m.branch) for each in m.embedders] for m in methods}


def temperature_sensitivity(
    workspace: Workspace, encoders: Sequence[Encoder], methods: Sequence[Method], dataset: str
) -> pd.DataFrame:
    """How much tau_c of Eq. 8 matters: the concept branch's macro AUC on validation films by 1 /
    tau_c, one row a method, first seed.
    """
    films = open_split(workspace, dataset, "validation")
    features = image_features(encoders[0], films, workspace.features)
    labels = films.records[list(films.concepts)].to_numpy(float)
    embeddings = {method.name: method.embedders[0](films.concepts) for method in methods}
    table = {}
    for inverse in INVERSE_TEMPERATURES:
        scored = score_images(features, embeddings, 1 / inverse).items()
        table[inverse] = {name: metrics.macro_auc(labels, each.concept) for name, each in scored}
    return pd.DataFrame(table).rename_axis(columns="1 / tau_c")


def quick_auc(dataset: ChestXrayDataset, scores: BranchScores) -> pd.DataFrame:
    """AUC by concept and branch, without intervals: a look, not a result."""
    ones, names = np.ones((1, len(dataset)), np.float32), list(dataset.concepts)
    labels = dataset.records[names].to_numpy(float)
    branches = {name: getattr(scores, name) for name in ("report", "concept", "both")}
    table = {
        name: [metrics.weighted_auc(*each, ones)[0] for each in zip(labels.T, array.T, strict=True)]
        for name, array in branches.items()
    }
    frame = pd.DataFrame(table, index=names)
    frame.loc["mean"] = frame.mean()
    return frame
