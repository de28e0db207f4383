"""Zero-shot classification of one data set by several methods (paper 4.2.1: Table 1, Figure 3)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.evaluation.bootstrap_samples import Draws
from rctpl_utils.evaluation.metrics import (
    best_f1_threshold,
    named_interval,
    paired_p_value,
    scorable,
    weighted_accuracy,
    weighted_auc,
)
from rctpl_utils.prompts.zero_shot import BranchScores

# columns of paired tests
TEST_COLUMNS = (
    "dataset", "method", "against", "value", "ci_low", "ci_high", "p_value", "p_holm",
)  # fmt: skip


@dataclass(frozen=True)
class Split:
    """A split's labels (n, L), 1, 0 or NaN, and each method's scores, (n, L) a seed."""

    labels: np.ndarray
    scores: dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Classification:
    """The outcome on one data set: tidy macro `rows` (dataset, method, metric, value, ci_low,
    ci_high, seeds, n, native), AUC with a `concept` likewise in `per_class`, values by seed, and
    each method's macro metrics in the sample and in every resample, (K, 1 + R).
    """

    rows: pd.DataFrame
    per_class: pd.DataFrame
    per_seed: pd.DataFrame
    draws: Draws


def evaluate(
    dataset: str,
    concepts: tuple[str, ...],
    test: Split,
    validation: Split,
    weights: np.ndarray,
) -> Classification:
    """AUC, accuracy at the oracle threshold and at the validation threshold, for each method;
    `weights` (1 + R, n). A class without both labels in either split is left out of the macro
    averages.
    """
    columns = [
        k
        for k in range(len(concepts))
        if scorable(test.labels[:, k]) and scorable(validation.labels[:, k])
    ]
    rows, per_class, per_seed, draws = [], [], [], {}
    for method, runs in test.scores.items():
        base = {"dataset": dataset, "method": method, "seeds": len(runs), "n": len(test.labels)}
        by_metric = _resample(test, validation, method, columns, weights)  # metric -> (seeds, R, L)
        for metric, values in by_metric.items():
            macro = values.mean(axis=2)
            rows.append({**base, "metric": metric, **named_interval(macro)})
            per_seed += [
                {"dataset": dataset, "method": method, "metric": metric, "seed": s, "value": v}
                for s, v in enumerate(values[:, 0].mean(axis=1))
            ]
            draws[dataset, method, metric] = macro
            if metric == "auc":
                for position, k in enumerate(columns):
                    one = values[:, :, position]
                    per_class.append(
                        {**base, "concept": concepts[k], "metric": "auc", **named_interval(one)}
                    )
    return Classification(*map(pd.DataFrame, (rows, per_class, per_seed)), draws)


def compare(outcome: Classification, method: str, others: list[str]) -> pd.DataFrame:
    """Paired bootstrap of the macro AUC: `method` minus each of `others`, same resamples."""
    dataset = outcome.rows["dataset"].iloc[0]
    rows = []
    for other in others:
        difference = outcome.draws[dataset, method, "auc"] - outcome.draws[dataset, other, "auc"]
        rows.append(
            {
                "dataset": dataset,
                "method": method,
                "against": other,
                **named_interval(difference, None),
                "p_value": paired_p_value(difference),
            }
        )
    return pd.DataFrame(rows)


def _resample(
    test: Split, validation: Split, method: str, columns: list[int], weights: np.ndarray
) -> dict[str, np.ndarray]:
    labels, held_out_labels = test.labels[:, columns], validation.labels[:, columns]
    found: dict[str, list] = {"auc": [], "acc_oracle": [], "acc_validation": []}
    for run, held_out in zip(test.scores[method], validation.scores[method], strict=True):
        scores = run[:, columns]
        aucs = [weighted_auc(*each, weights) for each in zip(labels.T, scores.T, strict=True)]
        found["auc"].append(np.stack(aucs, axis=1))  # (R, L)
        thresholds = {
            "acc_oracle": _thresholds(labels, scores),
            "acc_validation": _thresholds(held_out_labels, held_out[:, columns]),
        }
        for metric, each in thresholds.items():
            found[metric].append(weighted_accuracy(labels, scores, each, weights))
    return {metric: np.stack(values) for metric, values in found.items()}


def _thresholds(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The best F1's threshold of each class: (n, L) each to (L,)."""
    pairs = zip(labels.T, scores.T, strict=True)
    return np.array([best_f1_threshold(*each) for each in pairs])


def quick_auc(dataset: ChestXrayDataset, scores: BranchScores) -> pd.DataFrame:
    """AUC by concept and branch, without intervals: a look, not a result."""
    ones = np.ones((1, len(dataset)), np.float32)
    labels = dataset.records[list(dataset.concepts)].to_numpy(float)
    branches = {"report": scores.report, "concept": scores.concept, "both": scores.both}
    table = {
        name: [weighted_auc(labels[:, k], array[:, k], ones)[0] for k in range(labels.shape[1])]
        for name, array in branches.items()
    }
    frame = pd.DataFrame(table, index=list(dataset.concepts))
    frame.loc["mean"] = frame.mean()
    return frame
