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


@pytest.fixture
def labels():
    generator = np.random.default_rng(3)
    drawn = (generator.random((80, 3)) < 0.3).astype(np.float32)
    drawn[:, 2] = 0
    drawn[[7, 31], 2] = 1  # two films only
    drawn[generator.random((80, 3)) < 0.1] = np.nan
    drawn[[7, 31], 2] = 1
    return drawn


def test_as_many_films_a_class_as_asked_for(labels):
    draw = draw_films(labels, CONCEPTS, 4, 0)
    shown = (labels[draw.rows] == 1).sum(axis=0)
    assert draw.drawn == {"Edema": 4, "Mass": 4, "Hernia": 2}  # all the hernias there are
    assert (shown >= [4, 4, 2]).all() and shown[2] == 2
    assert len(draw.rows) <= 10 and np.array_equal(draw.rows, np.unique(draw.rows))
    assert (labels[draw.rows] == 1).any(axis=1).all(), "a film was drawn for no class"


def test_a_film_may_serve_several_classes():
    both = np.ones((1, 2), np.float32)
    draw = draw_films(both, CONCEPTS[:2], 1, 0)
    assert draw.rows.tolist() == [0] and draw.drawn == {"Edema": 1, "Mass": 1}


def test_a_seed_repeats_itself_and_others_differ(labels):
    first, again, other = (draw_films(labels, CONCEPTS, 4, seed).rows for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_draws_nest_and_classes_do_not_depend_on_each_other(labels):
    few, more = (draw_films(labels, CONCEPTS, shots, 0).rows for shots in (1, 4))
    assert set(few) < set(more)
    alone = draw_films(labels[:, :1], CONCEPTS[:1], 4, 0).rows
    assert len(alone) == 4 and set(alone) <= set(more)


def test_nothing_to_draw_is_refused(labels):
    with pytest.raises(InputError, match="0 labeled films"):
        draw_films(labels, CONCEPTS, 0, 0)
    with pytest.raises(InputError, match="no film shows any of Edema, Mass, Hernia"):
        draw_films(np.zeros((5, 3)), CONCEPTS, 1, 0)


@pytest.fixture
def films(tmp_path):
    """Twelve random films of six studies."""
    generator, paths = np.random.default_rng(0), []
    for number in range(12):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(generator.integers(0, 255, (64, 64), np.uint8)).save(paths[-1])
    names = [f"film{number}" for number in range(12)]
    studies = [f"s{number // 2}" for number in range(12)]
    records = {"image_id": names, "patient_id": studies, "path": paths, "study": studies}
    records["Edema"] = 0.0
    return ChestXrayDataset("mimic-cxr", "train", ("Edema",), pd.DataFrame(records))


@pytest.fixture
def triplets():
    mentions = [
        ("s0", "Edema", "present"),
        ("s1", "Edema", "absent"),
        ("s2", "Edema", "uncertain"),
        ("s3", "Mass", "present"),
        ("s4", "Edema", "present"),
    ]
    return pd.DataFrame(mentions, columns=["report_id", "concept", "positive"])


def test_labels_are_those_of_the_films_reports(films, triplets):
    labels = film_labels(films, triplets, ("Edema", "Mass", "Lung Opacity"))
    assert labels.dtype == np.float32 and labels.shape == (12, 3)
    of_studies = [[1, 0, 1], [0, 0, 0], [np.nan, 0, np.nan], [0, 1, 1], [1, 0, 1], [0, 0, 0]]
    assert np.array_equal(labels, np.repeat(of_studies, 2, axis=0), equal_nan=True)


def test_drawn_films_carry_their_own_features_and_labels(encoder, films, triplets, tmp_path):
    concepts = ("Edema", "Mass")
    labels = film_labels(films, triplets, concepts)
    everything = image_features(encoder, films, tmp_path)
    draws = {(k, s): draw_films(labels, concepts, k, s) for k in (1, 2) for s in (0, 1)}
    drawn = {
        (k, s): few_shot_films(encoder, films, labels, concepts, tmp_path, {k: draws[k, s]})[k]
        for k, s in draws
    }
    for (shots, seed), part in drawn.items():
        rows = draws[shots, seed].rows
        assert part.shots == shots and part.concepts == concepts
        assert np.array_equal(part.labels, labels[rows])
        whole, dense = everything.global_features[rows], everything.dense_features[rows]
        assert np.allclose(part.features.global_features, whole, atol=1e-5)
        assert np.allclose(part.features.dense_features, dense, atol=2e-3)  # float16
    counts = draw_table(draws).set_index(["shots", "seed", "concept"])["drawn"]
    assert counts[2, 1, "Mass"] == 2 and counts[1, 0, "Edema"] == 1 and len(counts) == 8


def test_only_drawn_films_are_opened(encoder, films, triplets, tmp_path):
    labels = film_labels(films, triplets, ("Mass",))
    draws = {shots: draw_films(labels, ("Mass",), shots, 0) for shots in (1, 2)}
    for row in set(range(len(films))) - set(draws[2].rows.tolist()):
        Path(films.records["path"][row]).unlink()
    found = few_shot_films(encoder, films, labels, ("Mass",), tmp_path, draws)
    assert {shots: len(part) for shots, part in found.items()} == {1: 1, 2: 2}


def test_a_batch_is_float32_with_its_labels(encoder, films, triplets, tmp_path):
    labels = film_labels(films, triplets, ("Edema",))
    draws = {4: draw_films(labels, ("Edema",), 4, 0)}
    (part,) = few_shot_films(encoder, films, labels, ("Edema",), tmp_path, draws).values()
    assert len(part) == 4
    batch = part.batch(np.array([2, 0]), torch.device("cpu"))
    assert batch.features.dense_features.dtype == batch.labels.dtype == torch.float32
    assert batch.features.dense_features.shape == (2, 8, 8, encoder.dimension)
    assert np.array_equal(batch.labels.numpy(), part.labels[[2, 0]])
