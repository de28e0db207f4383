"""Consistency of text and image features, on features whose answer is known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from toy_films import feature_file, radiographs

from rctpl_utils.evaluation import consistency, table1
from rctpl_utils.evaluation.consistency import NEAREST, OTHERS, OWN, agreement, class_cosines
from rctpl_utils.evaluation.results import load_draws
from rctpl_utils.scoring import ClassEmbeddings

ONES = np.ones((1, 4))
LABELS = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], float)


def test_cosines_by_hand_and_centering_takes_the_gap_away():
    films = np.array([[2, 0], [0, 0], [3, 4], [3, 4]], float)
    found = class_cosines(films, LABELS, np.array([[1.0, 0], [0, 5]]), ONES, centered=False)
    np.testing.assert_allclose(found, [[[1, 0], [0.6, 0.8]]])
    said = agreement(found)
    assert said[OWN] == pytest.approx([0.9]) and said[OTHERS] == pytest.approx([0.3])
    assert said[NEAREST] == pytest.approx([1])

    gap = np.array([0, 0, 50.0])
    films = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]]) + gap
    texts = np.array([[1, 0, 0], [0, 1, 0]]) - gap
    plain, free = (class_cosines(films, LABELS, texts, ONES, each) for each in (False, True))
    assert agreement(plain)[OWN] < -0.9  # two cones
    np.testing.assert_allclose(free, [[[1, -1], [-1, 1]]], atol=1e-12)


def test_every_resample_is_that_of_the_repeated_films():
    generator = np.random.default_rng(0)
    films, texts = generator.normal(size=(30, 5)), generator.normal(size=(4, 5))
    labels = (generator.random((30, 4)) < 0.4).astype(float)
    labels[0, 1] = np.nan  # unknown is not counted
    weights = generator.integers(0, 3, size=(6, 30)).astype(float)
    for centered in (False, True):
        found = class_cosines(films, labels, texts, weights, centered)
        for row, drawn in zip(found, weights.astype(int), strict=True):
            alone = (np.repeat(each, drawn, axis=0) for each in (films, labels))
            alone = class_cosines(*alone, texts, np.ones((1, drawn.sum())), centered)
            np.testing.assert_allclose(row, alone[0])


def test_a_class_without_films_in_a_resample_is_left_out():
    weights = np.array([[1, 1, 1, 1], [1, 1, 0, 0.0]])
    films = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], float)
    cosines = class_cosines(films, LABELS, np.eye(2), weights, centered=False)
    assert np.isnan(cosines[1, 1]).all()
    assert agreement(cosines)[NEAREST].tolist() == [1, 1]
    assert np.isnan(agreement(np.full((1, 2, 2), np.nan))[NEAREST]).all()


def test_sets_and_seeds_are_measured_and_written(tmp_path, monkeypatch):
    """Two encoders: one whose texts are its films' classes, one whose texts are swapped."""
    edema = np.arange(40) % 2
    dataset = radiographs({"Edema": edema, "Mass": 1 - edema, "Fracture": [0] * 40})
    features = np.random.default_rng(1).normal(size=(40, 8))
    features[:, :2] += 3 * np.stack([edema, 1 - edema], axis=1)
    monkeypatch.setattr(table1, "image_features", lambda *_: feature_file(features))
    monkeypatch.setattr(consistency, "open_split", lambda *_: dataset)
    monkeypatch.setattr(consistency, "present", lambda *_: ("chexpert",))

    def embed(encoder, concepts):
        assert concepts == ["Edema", "Mass"]  # no film has a fracture
        texts = torch.eye(8)[[0, 1] if encoder == "right" else [1, 0]]
        return ClassEmbeddings(texts, texts)

    monkeypatch.setattr(consistency, "TEXTS", {"class names": embed})
    folders = {"results": tmp_path, "figures": tmp_path, "features": None}
    workspace = SimpleNamespace(profile=SimpleNamespace(bootstrap=50), **folders)
    table = consistency.measure_consistency(workspace, ("right", "swapped"))
    draws = load_draws(tmp_path, "consistency")
    own = draws["chexpert", f"class names, {OWN}", "centered_cosine"]
    assert own.shape == (2, 51)
    assert (own[0] > 0.5).all() and (own[1] < -0.5).all()
    assert draws["chexpert", f"class names, {NEAREST}", "cosine"][:, 0].tolist() == [1, 0]
    assert set(table["metric"]) == {"cosine", "centered_cosine"}
    assert (table["n"] == 40).all() and (table["classes"] == 2).all()
    assert len(pd.read_csv(tmp_path / "consistency.csv")) == len(table) == 6
