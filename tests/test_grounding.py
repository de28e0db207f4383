"""The evaluation behind Tables 2 to 4 on a small data set with known answers."""

import zipfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch
import torchxrayvision
from toy_films import feature_file, masks_of, radiographs

from rctpl_utils.datasets.masks import resize_mask
from rctpl_utils.encoders.frame import on_film
from rctpl_utils.evaluation import grounding
from rctpl_utils.evaluation.grounding import Films, Grounder, mean_mask
from rctpl_utils.evaluation.grounding_metrics import stretch
from rctpl_utils.evaluation.metrics import patient_weights
from rctpl_utils.scoring import ClassEmbeddings
from rctpl_utils.simulation.anatomy import split_lungs, square

SIDE, COUNT = 32, 12


@pytest.fixture(scope="module")
def squares():
    """Films with one square lesion each; the last film has none."""

    def draw(image, size):
        mask, top = np.zeros(size, bool), 2 * int(image[1:])
        mask[top : top + 8, 4:12] = True
        return mask

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rctpl_utils.datasets.base.image_size", lambda path: (SIDE, SIDE))
        masks = {"Pneumonia": masks_of([f"f{k}" for k in range(COUNT - 1)], draw)}
        patients = [f"p{k // 2}" for k in range(COUNT)]
        labels = {"Pneumonia": [1.0] * COUNT}
        yield radiographs(labels, "rsna", patients, masks=masks)


FEATURES = feature_file(np.zeros((COUNT, 4)), np.random.default_rng(0).random((COUNT, 8, 8, 4)))


def truth(films: Films) -> torch.Tensor:
    """A map that knows the answer, in cells of 4 pixels."""
    masks = [films.dataset.mask(row, films.concept) for row in films.rows]
    return torch.from_numpy(np.stack([resize_mask(m, (8, 8)).astype(np.float32) for m in masks]))


def constant(films: Films) -> torch.Tensor:
    return torch.full((len(films.rows), 8, 8), 0.3)


@pytest.fixture(scope="module")
def outcome(encoder, squares):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grounding, "open_split", lambda workspace, name, split: squares)
        patch.setattr(grounding, "image_features", lambda *_: FEATURES)
        workspace = SimpleNamespace(profile=SimpleNamespace(bootstrap=100), features=None)
        random = grounding.floors(mean_mask(squares, "Pneumonia"), (0, 1))
        rows = [Grounder("truth", (truth, truth)), Grounder("constant", (constant,)), *random]
        return grounding.ground(workspace, (encoder, encoder), "rsna", rows)


def test_only_films_with_a_lesion_take_part_and_better_maps_score_better(outcome):
    assert outcome.films.tolist() == list(range(11)) and (outcome.rows["n"] == 11).all()
    wide = outcome.rows.pivot(index="method", columns="metric", values="value")
    knows, random = wide.loc["truth"], wide.loc["random map"]
    assert (knows[["pointing_game", "region_precision", "region_recall"]] == 1).all()
    assert knows["dice_validation"] > 0.8
    assert wide.loc["constant", "pointing_game"] == 0, "a constant map never points"
    assert 0 <= random["pointing_game"] < 0.6 and random["dice_oracle"] < knows["dice_oracle"]
    assert (wide["dice_oracle"] >= wide["dice_validation"]).all()
    pairs = {f"{kind}_{what}" for kind in ("region", "pixel") for what in ("precision", "recall")}
    assert set(wide.columns) == pairs | {"pointing_game", "dice_oracle", "dice_validation"}


def test_every_series_holds_its_value_first_and_patients_are_drawn_with_all_films(outcome, squares):
    for row in outcome.rows.itertuples():
        series = outcome.draws["rsna", row.method, row.metric]
        assert series.shape == (row.seeds, 101)
        assert series[:, 0].mean() == pytest.approx(row.value)

    run = outcome.measured["random map"][0]
    patients = squares.records["patient_id"][:11]
    weights = patient_weights(patients, 3, np.random.default_rng(0))
    found = grounding.resample(run, 10, weights)["pointing_game"]
    films = np.repeat(np.arange(11), weights[2].astype(int))
    assert found[2] == pytest.approx(run.hits[films].mean())

    run = outcome.measured["truth"][0]  # one threshold serves the whole set
    means = run.dice.mean(axis=0)
    assert means[grounding.best_threshold(run)] == means.max()


def test_random_maps_repeat_and_differ_by_film_and_seed(encoder, squares):
    films = Films(encoder, squares, FEATURES, np.array([0, 1]), "Pneumonia")
    (first, second) = grounding.floors(np.zeros((4, 4)), (0, 1))[0].makers
    drawn = first(films)
    assert torch.equal(drawn, first(films)) and not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn, second(films))


@pytest.mark.parametrize("held", [1, 3000, 2**18])
def test_maps_measured_together_are_those_of_each_alone(monkeypatch, held):
    monkeypatch.setattr(grounding, "HELD", held)
    generator = torch.Generator().manual_seed(0)
    sides = (8, 4, 8, 8, 4)
    maps = [torch.rand(side, side, generator=generator, dtype=torch.float64) for side in sides]
    found = {}
    for part, heats in grounding.film_heats(maps, (24, SIDE)):
        assert len(part) == len(heats) and (len(part) == 1 or len(part) * SIDE**2 <= held)
        found |= dict(zip(part, heats, strict=True))
    assert sorted(found) == list(range(5))
    for which, cells in enumerate(maps):
        assert np.array_equal(found[which], stretch(on_film(cells[None], (24, SIDE)))[0].numpy())


def test_a_class_is_embedded_once_for_all_batches(encoder, squares):
    embedder = Mock(return_value=ClassEmbeddings(*(torch.eye(4)[1:2],) * 2))
    maker = grounding.dense_similarity(embedder)
    for rows in ([0, 1], [2]):
        films = Films(encoder, squares, FEATURES, np.array(rows), "Pneumonia")
        assert maker(films).shape == (len(rows), 8, 8)
    embedder.assert_called_once_with(["Pneumonia"])


def test_the_mean_mask_is_the_mean_of_the_masks(squares):
    prior = mean_mask(squares, "Pneumonia")
    share = np.mean([squares.mask(k, "Pneumonia").mean() for k in range(11)])
    assert prior.mean() == pytest.approx(share, rel=1e-5)
    assert prior[:, 32:].max() == 0, "no lesion lies on the right half"


def test_the_lung_prior_peaks_in_both_lungs_whose_centers_are_those_of_real_outlines():
    archive = Path(torchxrayvision.__file__).parent / "data" / "semantic_masks_v7labs_lungs.zip"
    centers, spreads = [], []
    with zipfile.ZipFile(archive) as stored:
        names = [name for name in stored.namelist() if not name.endswith("/")]
        for name in names[::4]:
            image = cv2.imdecode(np.frombuffer(stored.read(name), np.uint8), 0)
            pair = None if image is None else split_lungs(square(image))
            if pair is not None:
                places = [np.argwhere(lung)[:, ::-1] / 256 for lung in pair]
                centers.append([each.mean(axis=0) for each in places])
                spreads.append([each.std(axis=0) for each in places])
    assert np.mean(centers, axis=0) == pytest.approx(np.array(grounding.LUNG_CENTERS), abs=0.01)
    assert np.mean(spreads, axis=(0, 1)) == pytest.approx(grounding.LUNG_SPREAD, abs=0.01)

    prior = grounding.lung_centers()
    assert prior[:, :32].max() == pytest.approx(prior[:, 32:].max(), abs=0.02)
    assert prior[29, 18] > 0.95 and prior[29, 32] < 0.2
