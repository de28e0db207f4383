"""Consistency of text and image features, on features whose answer is known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.encoders.features import ImageFeatureFile
from rctpl_utils.evaluation import consistency, table1
from rctpl_utils.evaluation.consistency import (
    NEAREST,
    OTHERS,
    OWN,
    agreement,
    class_cosines,
    measure_consistency,
)
from rctpl_utils.evaluation.results import load_draws
from rctpl_utils.scoring import ClassEmbeddings

ONES = np.ones((1, 4))
LABELS = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], float)


def test_cosines_by_hand():
    films = np.array([[2, 0], [0, 0], [3, 4], [3, 4]], float)
    found = class_cosines(films, LABELS, np.array([[1.0, 0], [0, 5]]), ONES, centered=False)
    np.testing.assert_allclose(found, [[[1, 0], [0.6, 0.8]]])
    said = agreement(found)
    assert said[OWN] == pytest.approx([0.9]) and said[OTHERS] == pytest.approx([0.3])
    assert said[NEAREST] == pytest.approx([1])


def test_centering_takes_the_gap_away():
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
            rows = np.repeat(np.arange(30), drawn)
            one = np.ones((1, len(rows)))
            alone = class_cosines(films[rows], labels[rows], texts, one, centered)
            np.testing.assert_allclose(row, alone[0])


def test_a_class_without_films_in_a_resample_is_left_out():
    weights = np.array([[1, 1, 1, 1], [1, 1, 0, 0.0]])
    films = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], float)
    cosines = class_cosines(films, LABELS, np.eye(2), weights, centered=False)
    assert np.isnan(cosines[1, 1]).all()
    assert agreement(cosines)[NEAREST].tolist() == [1, 1]
    assert agreement(np.full((1, 2, 2), np.nan))[NEAREST].tolist() == pytest.approx(
        [np.nan], nan_ok=True
    )


def test_sets_and_seeds_are_measured_and_written(tmp_path, monkeypatch):
    """Two encoders: one whose texts are its films' classes, one whose texts are swapped."""
    records = pd.DataFrame({
        "image_id": [f"f{k}" for k in range(40)], "patient_id": [f"p{k}" for k in range(40)],
        "path": "", "Edema": np.arange(40) % 2, "Mass": 1 - np.arange(40) % 2, "Fracture": 0,
    })  # fmt: skip
    dataset = ChestXrayDataset("chexpert", "validation", ("Edema", "Mass", "Fracture"), records)
    features = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    features[:, 0] += 3 * records["Edema"]
    features[:, 1] += 3 * records["Mass"]
    file = ImageFeatureFile(features, np.zeros((40, 1, 1, 8), np.float16))
    monkeypatch.setattr(table1, "image_features", lambda *_: file)
    monkeypatch.setattr(consistency, "open_split", lambda *_: dataset)
    monkeypatch.setattr(consistency, "present", lambda *_: ("chexpert",))

    def embed(encoder, concepts):
        assert concepts == ["Edema", "Mass"]  # no film has a fracture
        texts = torch.eye(8)[[0, 1] if encoder == "right" else [1, 0]]
        return ClassEmbeddings(texts, texts)

    monkeypatch.setattr(consistency, "TEXTS", {"class names": embed})
    workspace = SimpleNamespace(
        features=None, profile=SimpleNamespace(bootstrap=50), results=tmp_path, figures=tmp_path
    )
    table = measure_consistency(workspace, ("right", "swapped"))
    draws = load_draws(tmp_path, "consistency")
    own = draws["chexpert", f"class names, {OWN}", "centered_cosine"]
    assert own.shape == (2, 51)
    assert (own[0] > 0.5).all() and (own[1] < -0.5).all()
    assert draws["chexpert", f"class names, {NEAREST}", "cosine"][:, 0].tolist() == [1, 0]
    assert set(table["metric"]) == {"cosine", "centered_cosine"}
    assert (table["n"] == 40).all() and (table["classes"] == 2).all()
    assert len(pd.read_csv(tmp_path / "consistency.csv")) == len(table) == 6
