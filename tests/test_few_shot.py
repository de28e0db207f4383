"""Few labeled films a class: draws that repeat, nest and count; features of drawn films only."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from rctpl_utils.baselines.prompt_learners import (
    draw_films,
    draw_table,
    few_shot_films,
    film_labels,
)
from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.encoders.features import image_features
from rctpl_utils.errors import InputError

CONCEPTS = ("Edema", "Mass", "Hernia")
GENERATOR = np.random.default_rng(3)
LABELS = (GENERATOR.random((80, 3)) < 0.3).astype(np.float32)
LABELS[GENERATOR.random((80, 3)) < 0.1] = np.nan
LABELS[:, 2] = np.isin(np.arange(80), [7, 31])  # two films only
SAID = ["present", "absent", "uncertain", "present", "present"]
MENTIONS = [(f"s{k}", "Mass" if k == 3 else "Edema", kind) for k, kind in enumerate(SAID)]
TRIPLETS = pd.DataFrame(MENTIONS, columns=["report_id", "concept", "positive"])


def test_as_many_films_a_class_as_asked_for():
    rows = draw_films(LABELS, CONCEPTS, 4, 0)
    counts = draw_table(LABELS, CONCEPTS, (1, 4), (0, 7))
    counts = counts.set_index(["shots", "seed", "concept"])
    assert counts.loc[(4, 7), "drawn"].tolist() == [4, 4, 2]  # all the hernias there are
    assert counts.loc[(1, 0), "drawn"].tolist() == [1, 1, 1] and len(counts) == 12
    shown = (LABELS[rows] == 1).sum(axis=0)
    assert (shown >= [4, 4, 2]).all() and shown[2] == 2
    assert len(rows) <= 10 and np.array_equal(rows, np.unique(rows))
    assert (LABELS[rows] == 1).any(axis=1).all(), "a film was drawn for no class"
    both = np.ones((1, 2), np.float32)  # a film may serve several classes
    assert draw_films(both, CONCEPTS[:2], 1, 0).tolist() == [0]


def test_draws_repeat_and_nest_a_class_at_a_time_and_nothing_to_draw_is_refused():
    more, again, other = (draw_films(LABELS, CONCEPTS, 4, seed) for seed in (0, 0, 1))
    assert np.array_equal(more, again) and not np.array_equal(more, other)
    assert set(draw_films(LABELS, CONCEPTS, 1, 0)) < set(more)
    alone = draw_films(LABELS[:, :1], CONCEPTS[:1], 4, 0)
    assert len(alone) == 4 and set(alone) <= set(more)
    with pytest.raises(InputError, match="0 labeled films"):
        draw_table(LABELS, CONCEPTS, (1, 0), (0,))
    with pytest.raises(InputError, match="no film shows any of Edema, Mass, Hernia"):
        draw_table(np.zeros((5, 3)), CONCEPTS, (1,), (0,))


@pytest.fixture
def films(tmp_path):
    """Twelve random films of six studies."""
    generator, rows = np.random.default_rng(0), []
    for k in range(12):
        path = str(tmp_path / f"{k}.png")
        Image.fromarray(generator.integers(0, 255, (64, 64), np.uint8)).save(path)
        rows.append((f"film{k}", f"s{k // 2}", path, f"s{k // 2}", 0.0))
    columns = ["image_id", "patient_id", "path", "study", "Edema"]
    return ChestXrayDataset("mimic-cxr", "train", ("Edema",), pd.DataFrame(rows, columns=columns))


def test_labels_are_those_of_the_films_reports(films):
    labels = film_labels(films, TRIPLETS, ("Edema", "Mass", "Lung Opacity"))
    assert labels.dtype == np.float32
    of_studies = [[1, 0, 1], [0, 0, 0], [np.nan, 0, np.nan], [0, 1, 1], [1, 0, 1], [0, 0, 0]]
    assert np.array_equal(labels, np.repeat(of_studies, 2, axis=0), equal_nan=True)


def test_drawn_films_carry_their_own_features_and_labels(encoder, films, tmp_path):
    concepts = ("Edema", "Mass")
    labels = film_labels(films, TRIPLETS, concepts)
    everything = image_features(encoder, films, tmp_path / "all")
    for seed in (0, 1):
        draws = {shots: draw_films(labels, concepts, shots, seed) for shots in (1, 2)}
        drawn = few_shot_films(encoder, films, labels, tmp_path, draws)
        for shots, part in drawn.items():
            rows = draws[shots]
            assert len(part) == len(rows)
            assert np.array_equal(part.labels, labels[rows])
            whole, dense = everything.global_features[rows], everything.dense_features[rows]
            assert np.allclose(part.features.global_features, whole, atol=1e-5)
            assert np.allclose(part.features.dense_features, dense, atol=2e-3)  # float16
    found, of = part.batch(np.array([1, 0]), torch.device("cpu"))
    assert found.dense_features.dtype == of.dtype == torch.float32
    assert found.dense_features.shape == (2, 8, 8, encoder.dimension)
    assert np.array_equal(of.numpy(), part.labels[[1, 0]])


def test_only_drawn_films_are_opened(encoder, films, tmp_path):
    labels = film_labels(films, TRIPLETS, ("Mass",))
    draws = {shots: draw_films(labels, ("Mass",), shots, 0) for shots in (1, 2)}
    for row in set(range(len(films))) - set(draws[2].tolist()):
        Path(films.records["path"][row]).unlink()
    found = few_shot_films(encoder, films, labels, tmp_path, draws)
    assert {shots: len(part) for shots, part in found.items()} == {1: 1, 2: 2}
