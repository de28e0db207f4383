"""Metrics against scikit-learn and against values worked out by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm, ttest_1samp
from scipy.stats import t as student
from sklearn.metrics import accuracy_score, precision_recall_curve, roc_auc_score

from rctpl_utils.evaluation import metrics
from rctpl_utils.evaluation.metrics import interval, paired_p_value, patient_weights

LABELS = arrays(float, 9, elements=st.sampled_from([0.0, 1.0, np.nan]))
SCORES = arrays(np.float32, 9, elements=st.sampled_from([-1.0, 0.0, 0.25, 0.5, 2.0]))


WEIGHTS = arrays(np.float32, (4, 9), elements=st.integers(0, 3).map(float))


@given(LABELS, SCORES, WEIGHTS, st.sampled_from("CF"))
def test_weighted_auc_is_the_literal_one_bit_by_bit(labels, scores, weights, layout):
    found = metrics.weighted_auc(labels, scores, np.asarray(weights, order=layout))
    for row, value in zip(weights.astype(float), found, strict=True):
        wins = pairs = 0.0
        for i, j in itertools.product(np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)):
            pairs += row[i] * row[j]
            wins += row[i] * row[j] * ((scores[i] > scores[j]) + (scores[i] == scores[j]) / 2)
        assert value == wins / pairs if pairs else np.isnan(value)


def test_accuracy_is_scikit_learns_of_each_class():
    generator = np.random.default_rng(1)
    labels = generator.choice([0, 1, np.nan], (40, 3))
    scores, cuts = generator.random((40, 3)), np.array([0.2, 0.5, 0.8])
    weights = generator.integers(0, 3, (5, 40)).astype(np.float32)
    found = metrics.weighted_accuracy(labels, scores, cuts, weights)
    assert found.shape == (5, 3)
    for (r, k), value in np.ndenumerate(found):
        known = ~np.isnan(labels[:, k])
        pair = labels[known, k], scores[known, k] >= cuts[k]
        assert value == pytest.approx(accuracy_score(*pair, sample_weight=weights[r, known]))


@given(LABELS, SCORES)
def test_best_f1_threshold_is_that_of_scikit_learns_curve(labels, scores):
    known = ~np.isnan(labels)
    if not (labels == 1).any():
        with pytest.raises(ValueError, match="positive"):
            metrics.best_f1_threshold(labels, scores)
        return
    precision, recall, thresholds = precision_recall_curve(labels[known] == 1, scores[known])
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    assert metrics.best_f1_threshold(labels, scores) == thresholds[np.argmax(f1[:-1])]


def test_patients_are_drawn_whole():
    patients = pd.Series(["a", "a", "b", "c", "c", "c"])
    weights = patient_weights(patients, 50, np.random.default_rng(0))
    counts = np.random.default_rng(0).multinomial(3, np.full(3, 1 / 3), size=50)
    expected = np.vstack([np.ones(6), counts[:, [0, 0, 1, 2, 2, 2]]])
    assert np.array_equal(weights, expected) and weights.dtype == np.float32


def test_one_run_and_several_by_hand():
    values = np.r_[0.5, np.linspace(0, 1, 101)]
    assert interval(values) == pytest.approx((0.5, 0.025, 0.975))
    assert paired_p_value(np.r_[0.1, np.full(99, 0.1)]) == pytest.approx(2 / 100)
    assert paired_p_value(np.r_[0.0, np.linspace(-1, 1, 99)]) == 1

    runs = np.array([[0.5, 0.4, 0.6], [0.6, 0.5, 0.7], [0.7, 0.6, 0.8]])
    patients, seeds = np.var([0.5, 0.7], ddof=1), 0.01 / 3
    assert metrics.variances(runs) == pytest.approx((0.6, patients, seeds))
    reach = np.sqrt(norm.isf(0.025) ** 2 * patients + student.isf(0.025, 2) ** 2 * seeds)
    assert interval(runs, None) == pytest.approx((0.6, 0.6 - reach, 0.6 + reach))
    assert interval(runs) == pytest.approx((0.6, max(0.6 - reach, 0), min(0.6 + reach, 1)))
    assert metrics.tail_p_value(-runs) == 1


def test_one_source_of_chance_alone_is_its_textbook_test():
    seeds = np.repeat([[0.1], [0.2], [0.3]], 51, axis=1)  # patients bring nothing
    assert paired_p_value(seeds) == pytest.approx(ttest_1samp([0.1, 0.2, 0.3], 0).pvalue)
    low, high = ttest_1samp([0.1, 0.2, 0.3], 0).confidence_interval(0.95)
    assert interval(seeds, None) == pytest.approx((0.2, low, high))
    patients = np.repeat([np.r_[0.2, np.linspace(0.1, 0.3, 50)]], 3, axis=0)  # seeds bring nothing
    spread = np.linspace(0.1, 0.3, 50).std(ddof=1)
    assert paired_p_value(patients) == pytest.approx(2 * norm.sf(0.2 / spread))


@given(arrays(float, (3, 41), elements=st.floats(-1, 1).map(lambda value: round(value, 3))))
def test_the_interval_excludes_zero_where_p_is_below_its_level(runs):
    _, low, high = interval(runs, None)
    if low != high and min(abs(low), abs(high)) > 1e-6:
        assert (paired_p_value(runs) < 0.05) == (not low < 0 < high)


def test_extremes_are_no_error():
    """A difference far beyond chance, resamples that are not finite, equal runs."""
    assert 0 < paired_p_value(np.array([[1, 1, 1], [1, 1 + 1e-9, 1]])) < 1e-6
    runs = np.array([[0.5, 0.4, 0.6, np.nan], [0.6, 0.5, 0.7, 0.9]])
    assert interval(runs) == interval(runs[:, :3])
    runs = np.random.default_rng(0).random((3, 101))
    assert interval(runs - runs, None) == (0, 0, 0)
    assert paired_p_value(runs - runs) == 1


PATIENTS = 60
DRAWN = np.random.default_rng(4).multinomial(PATIENTS, np.full(PATIENTS, 1 / PATIENTS), size=200)
DRAWS = np.vstack([np.ones(PATIENTS), DRAWN]).T / PATIENTS


def experiment(generator, patients, seeds, noise):
    """K = 3 runs: a metric whose true value is zero, in the sample and in 200 resamples."""
    parts = ((patients, (1, PATIENTS)), (seeds, (3, 1)), (noise, (3, PATIENTS)))
    each = sum(generator.normal(0, deviation, shape) for deviation, shape in parts)
    return each @ DRAWS


@pytest.mark.parametrize(
    ("patients", "seeds", "noise"),
    [
        (0.1, 1.0, 0.1),  # seeds dominate: a percentile bootstrap over seeds would fail
        (1.4, 1.0, 0.1),  # patients bring a tenth of the variance: Satterthwaite's would fail
        (4.5, 1.0, 0.1),  # as much as seeds
        (8.0, 0.05, 1.0),  # patients dominate
        (8.0, 1.0, 3.0),
    ],
)
def test_the_interval_covers_the_truth(patients, seeds, noise):
    generator = np.random.default_rng(1)
    drawn = [experiment(generator, patients, seeds, noise) for _ in range(1000)]
    covered = [low <= 0 <= high for _, low, high in (interval(each, None) for each in drawn)]
    assert np.mean(covered) >= 0.93
    assert np.mean([paired_p_value(each) < 0.001 for each in drawn]) <= 0.003


def test_the_macro_auc_leaves_out_classes_without_both_labels():
    labels = np.array([[1, 0, 1], [0, 0, np.nan], [1, 0, 0], [0, 0, 1]], float)
    scores = np.array([[0.9, 1, 0.2], [0.1, 2, 9.0], [0.4, 3, 0.5], [0.6, 4, 0.8]])
    known = ~np.isnan(labels)
    aucs = [roc_auc_score(labels[known[:, k], k], scores[known[:, k], k]) for k in (0, 2)]
    assert metrics.macro_auc(labels, scores) == pytest.approx(np.mean(aucs))
    assert metrics.scorable(np.array([0, 1, np.nan]))
    assert not metrics.scorable(np.array([0, np.nan]))
