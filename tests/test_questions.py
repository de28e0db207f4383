"""The columns of Table 1: which films COVID-19 is told from, and by which score."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from toy_films import radiographs

from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.datasets.questions import QUESTIONS, Question
from rctpl_utils.evaluation import ablations, table1

NORMAL, PNEUMONIA = QUESTIONS["covidx-normal"], QUESTIONS["covidx-pneumonia"]


def films(**labels: list[float]) -> ChestXrayDataset:
    return radiographs(labels, "covidx")


TWO_KINDS = films(**{"COVID-19": [1.0, 0.0]})
THREE_KINDS = films(
    **{"COVID-19": [1.0, 1.0, 0.0, 0.0, 0.0], "Pneumonia": [0.0, 0.0, 1.0, 0.0, 0.0]}
)


def test_a_sets_own_classes_are_asked_as_they_are():
    own = Question("rsna")
    dataset = films(Pneumonia=[1.0, 0.0, np.nan])
    scores = np.array([[0.3], [0.1], [0.2]])
    assert own.asked(dataset) == own.shown(dataset) == ("Pneumonia",)
    np.testing.assert_array_equal(own.labels(dataset), [[1], [0], [np.nan]])
    assert own.scores(scores, scores) is scores


def test_covid_is_told_from_one_other_kind_at_a_time():
    nan = np.nan
    assert NORMAL.labels(THREE_KINDS).ravel() == pytest.approx([1, 1, nan, 0, 0], nan_ok=True)
    assert PNEUMONIA.labels(THREE_KINDS).ravel() == pytest.approx([1, 1, 0, nan, nan], nan_ok=True)
    assert THREE_KINDS.records["COVID-19"].tolist() == [1, 1, 0, 0, 0], "the records are left alone"
    assert NORMAL.asked(THREE_KINDS) == PNEUMONIA.asked(THREE_KINDS) == ("COVID-19", "Pneumonia")
    assert NORMAL.shown(THREE_KINDS) == PNEUMONIA.shown(THREE_KINDS) == ("COVID-19",)
    assert PNEUMONIA.can_ask(THREE_KINDS)
    assert NORMAL.can_ask(TWO_KINDS) and not PNEUMONIA.can_ask(TWO_KINDS)
    assert NORMAL.labels(TWO_KINDS).ravel().tolist() == [1, 0]


def test_the_difference_is_that_of_scores_standardized_on_validation_films():
    held_out = np.array([[0.0, 10.0], [2.0, 30.0]])  # means 1 and 20, deviations 1 and 10
    scores = np.array([[2.0, 20.0], [1.0, 40.0]])
    assert PNEUMONIA.scores(scores, held_out).ravel().tolist() == [1.0, -2.0]
    assert NORMAL.scores(scores, held_out).ravel().tolist() == [2.0, 1.0]
    constant = np.array([[1.0, 10.0], [1.0, 30.0]])
    assert np.isfinite(PNEUMONIA.scores(scores, constant)).all()


def test_a_common_offset_of_a_film_cannot_pass_for_knowledge():
    generator = np.random.default_rng(0)
    offset = generator.normal(size=(400, 1))  # how diseased a film looks, whatever the disease
    labels = np.r_[np.ones(200), np.zeros(200)]
    own = np.stack([labels, 1 - labels], axis=1) + 20 * offset
    difference = PNEUMONIA.scores(own, own)[:, 0]
    assert roc_auc_score(labels, own[:, 0]) < 0.6
    assert roc_auc_score(labels, difference) > 0.99


def test_a_column_that_lists_of_two_classes_cannot_fill_is_left_out(monkeypatch, capsys):
    """As the COVIDx lists that people have, which say positive or negative."""
    opened = {"covidx": TWO_KINDS, "rsna": films(Pneumonia=[1.0, 0.0])}
    measured = []
    for module in (table1, ablations):
        monkeypatch.setattr(module, "open_split", lambda workspace, name, split: opened[name])
    monkeypatch.setattr(table1, "can_run", lambda workspace, what, name: name in opened)
    monkeypatch.setattr(ablations, "present", lambda workspace, names: tuple(names))
    monkeypatch.setattr(ablations, "_auc", lambda *given: measured.append(given[2]) or [])
    assert table1.answerable(None) == {"covidx": ["covidx-normal"], "rsna": ["rsna"]}
    assert "covidx-pneumonia: not run, covidx does not label pneumonia" in capsys.readouterr().out
    ablations.score_trials(None, (), {}, "test", tuple(QUESTIONS)[2:], ())
    assert measured == ["covidx-normal", "rsna"]
