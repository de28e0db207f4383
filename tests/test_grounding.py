"""The evaluation behind Tables 2 to 4 on a small data set with known answers."""

import zipfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import torchxrayvision

from rctpl_utils.datasets.masks import resize_mask
from rctpl_utils.encoders.features import ImageFeatureFile
from rctpl_utils.encoders.frame import on_film
from rctpl_utils.evaluation import grounding
from rctpl_utils.evaluation.grounding import (
    Films,
    Grounder,
    best_threshold,
    ground,
    lung_centers,
    mean_mask,
    resample,
)
from rctpl_utils.evaluation.grounding_metrics import stretch
from rctpl_utils.evaluation.metrics import patient_weights
from rctpl_utils.scoring import ClassEmbeddings
from rctpl_utils.simulation.anatomy import split_lungs, square

SIDE = 32


class Squares:
    """Films with one square lesion; the last film has none."""

    name, split, concepts, has_masks, left_out = "rsna", "test", ("Pneumonia",), True, {}

    def __init__(self, count: int = 12) -> None:
        self.records = pd.DataFrame(
            {
                "image_id": [f"f{k}" for k in range(count)],
                "patient_id": [f"p{k // 2}" for k in range(count)],
                "path": "",
            }
        )

    def __len__(self):
        return len(self.records)

    def pixels(self, index):
        return np.full((SIDE, SIDE), 0.5, np.float32)

    def annotated(self, concept):
        return np.arange(len(self)) < len(self) - 1

    def mask(self, index, concept):
        mask = np.zeros((SIDE, SIDE), bool)
        top = 2 * index
        mask[top : top + 8, 4:12] = True
        return mask


def truth(films: Films) -> torch.Tensor:
    """A map that knows the answer, in cells of 4 pixels."""
    masks = [films.dataset.mask(row, films.concept) for row in films.rows]
    return torch.from_numpy(np.stack([resize_mask(m, (8, 8)).astype(np.float32) for m in masks]))


def constant(films: Films) -> torch.Tensor:
    return torch.full((len(films.rows), 8, 8), 0.3)


@pytest.fixture(scope="module")
def outcome(encoder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grounding, "open_split", lambda workspace, name, split: Squares())
        empty = ImageFeatureFile(np.zeros((12, 4), np.float32), np.zeros((12, 8, 8, 4), np.float16))
        patch.setattr(grounding, "image_features", lambda *_: empty)
        workspace = SimpleNamespace(profile=SimpleNamespace(bootstrap=100), features=None)
        random = grounding.floors(mean_mask(Squares(), "Pneumonia"), (0, 1))
        rows = [Grounder("truth", (truth, truth)), Grounder("constant", (constant,)), *random]
        return ground(workspace, (encoder, encoder), "rsna", rows)


def value(outcome, method, metric):
    rows = outcome.rows.set_index(["method", "metric"])
    return rows.loc[(method, metric), "value"]


def test_only_films_with_a_lesion_take_part(outcome):
    assert outcome.films.tolist() == list(range(11))
    assert (outcome.rows["n"] == 11).all()


def test_a_map_that_knows_the_answer_wins_everything(outcome):
    assert value(outcome, "truth", "pointing_game") == 1
    assert value(outcome, "truth", "region_precision") == 1
    assert value(outcome, "truth", "region_recall") == 1
    assert value(outcome, "truth", "dice_validation") > 0.8


def test_a_constant_map_never_points(outcome):
    assert value(outcome, "constant", "pointing_game") == 0


def test_a_random_map_lies_between(outcome):
    assert 0 <= value(outcome, "random map", "pointing_game") < 0.6
    assert value(outcome, "random map", "dice_oracle") < value(outcome, "truth", "dice_oracle")


def test_the_oracle_is_never_below_the_honest_dice(outcome):
    wide = outcome.rows.pivot(index="method", columns="metric", values="value")
    assert (wide["dice_oracle"] >= wide["dice_validation"]).all()
    pairs = {f"{kind}_{what}" for kind in ("region", "pixel") for what in ("precision", "recall")}
    assert set(wide.columns) == pairs | {"pointing_game", "dice_oracle", "dice_validation"}


def test_every_series_holds_its_value_first(outcome):
    for row in outcome.rows.itertuples():
        series = outcome.draws["rsna", row.method, row.metric]
        assert series.shape == (row.seeds, 101)
        assert series[:, 0].mean() == pytest.approx(row.value)


def test_resampling_counts_patients_twice(outcome):
    run = outcome.measured["random map"][0]
    generator = np.random.default_rng(0)
    weights = patient_weights(pd.Series([f"p{k // 2}" for k in range(11)]), 3, generator)
    found = resample(run, 10, weights)["pointing_game"]
    films = np.repeat(np.arange(11), weights[2].astype(int))
    assert found[2] == pytest.approx(run.hits[films].mean())


def test_one_threshold_serves_the_whole_set(outcome):
    run = outcome.measured["truth"][0]
    means = run.dice.mean(axis=0)
    assert means[best_threshold(run)] == means.max()


def test_random_maps_repeat_and_differ_by_film_and_seed(encoder):
    empty = ImageFeatureFile(np.zeros((12, 4), np.float32), np.zeros((12, 8, 8, 4), np.float16))
    films = Films(encoder, Squares(), empty, np.array([0, 1]), "Pneumonia")
    (first, second) = grounding.floors(np.zeros((4, 4)), (0, 1))[0].makers
    assert torch.equal(first(films), first(films))
    assert not torch.equal(first(films)[0], first(films)[1])
    assert not torch.equal(first(films), second(films))


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


def test_a_class_is_embedded_once_for_all_batches(encoder):
    asked = []

    def embedder(concepts):
        asked.append(concepts)
        vectors = torch.nn.functional.one_hot(torch.tensor([1]), 4).float()
        return ClassEmbeddings(vectors, vectors)

    maker = grounding.dense_similarity(embedder)
    dense = np.random.default_rng(0).random((12, 8, 8, 4)).astype(np.float16)
    file = ImageFeatureFile(np.zeros((12, 4), np.float32), dense)
    for rows in ([0, 1], [2]):
        films = Films(encoder, Squares(), file, np.array(rows), "Pneumonia")
        assert maker(films).shape == (len(rows), 8, 8)
    assert asked == [["Pneumonia"]]


def test_the_mean_mask_is_the_mean_of_the_masks():
    prior = mean_mask(Squares(), "Pneumonia")
    share = np.mean([Squares().mask(k, "Pneumonia").mean() for k in range(11)])
    assert prior.mean() == pytest.approx(share, rel=1e-5)
    assert prior[:, 32:].max() == 0, "no lesion lies on the right half"


def test_the_lung_centers_are_those_of_real_outlines():
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
    assert np.mean(spreads, axis=(0, 1)) == pytest.approx(np.array(grounding.LUNG_SPREAD), abs=0.01)


def test_the_lung_prior_peaks_in_both_lungs():
    prior = lung_centers()
    assert prior[:, :32].max() == pytest.approx(prior[:, 32:].max(), abs=0.02)
    assert prior[29, 18] > 0.95 and prior[29, 32] < 0.2
