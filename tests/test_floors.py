"""Floors: draws that know nothing, their range, and the rows that they become."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize
from toy_films import feature_file, radiographs

from rctpl_utils.evaluation import floors
from rctpl_utils.evaluation.floors import KINDS, VECTORS, WORDS, auc_floor, random_vectors
from rctpl_utils.evaluation.grounding import Grounding
from rctpl_utils.evaluation.table1 import Classification

COUNT, WIDTH = 200, 16
WORKSPACE = SimpleNamespace(features=None, profile=SimpleNamespace(bootstrap=1000))


@dataclass(eq=False)
class Toy:
    """An encoder of a few words, whose text features are those of its words' letters."""

    dimension: int = WIDTH
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    read: list[str] = field(default_factory=list)

    @property
    def text(self):
        names = ("lung", "heart", "opaque", "##ing", "[CLS]", "42", "of", "clear")
        return SimpleNamespace(tokenizer=SimpleNamespace(get_vocab=lambda: dict.fromkeys(names)))

    def encode_text(self, texts):
        self.read += texts
        seeds = (torch.Generator().manual_seed(crc32(text.encode())) for text in texts)
        return normalize(torch.stack([torch.randn(WIDTH, generator=g) for g in seeds]), dim=-1)


@pytest.fixture(autouse=True)
def dataset(monkeypatch):
    """Films whose features are normal noise: no vector can tell what they show."""
    found = radiographs({"Edema": np.arange(COUNT) % 2, "Mass": np.arange(COUNT) % 3 == 0})
    file = feature_file(np.random.default_rng(0).normal(size=(COUNT, WIDTH)))
    monkeypatch.setattr(floors, "image_features", lambda *_: file)
    monkeypatch.setattr(floors, "open_split", lambda *_: found)


def test_vectors_are_isotropic_units_and_repeat():
    generators = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    drawn, again = (random_vectors(Toy(), 4000, 3, each) for each in generators)
    assert drawn.shape == (4000, 3, WIDTH) and torch.equal(drawn, again)
    np.testing.assert_allclose(drawn.norm(dim=-1), 1, rtol=1e-5)
    flat = drawn.flatten(0, 1)
    np.testing.assert_allclose(flat.mean(dim=0), 0, atol=0.01)
    np.testing.assert_allclose(flat.T @ flat / len(flat), np.eye(WIDTH) / WIDTH, atol=0.005)


def test_words_are_three_whole_ones_of_the_vocabulary():
    encoder = Toy()
    drawn = floors.random_words(encoder, 50, 4, torch.Generator().manual_seed(1))
    assert drawn.shape == (50, 4, WIDTH)
    words = [text.split() for text in encoder.read]
    assert len(words) == 200 and {len(each) for each in words} == {3}
    assert {word for each in words for word in each} == {"lung", "heart", "opaque", "clear"}
    assert torch.equal(drawn[0, 0], encoder.encode_text([encoder.read[0]])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_floor_of_noise_lies_about_one_half(kind):
    values = auc_floor(WORKSPACE, (Toy(), Toy(), Toy()), "chexpert", kind)
    assert len(values) == 3 * 67 >= 200
    assert values.mean() == pytest.approx(0.5, abs=0.03)
    # one class's AUC without knowledge has this deviation (Hanley and McNeil 1982)
    one = np.sqrt((COUNT + 1) / (12 * COUNT / 2 * COUNT / 2))
    assert 0.3 * one < values.std() < 1.5 * one
    assert len(auc_floor(WORKSPACE, (Toy(),) * 3, "chexpert", kind)) == 201  # one for all seeds


def test_the_row_is_the_range_of_the_draws():
    row = {"dataset": "chexpert", "method": "RC-TPL", "metric": "auc", "value": 0.8, "n": COUNT}
    nothing = Classification(pd.DataFrame([row]), pd.DataFrame(), pd.DataFrame(), {})
    encoders = (Toy(), Toy())
    found = floors.with_auc_floor(WORKSPACE, encoders, nothing)
    rows = found.rows.set_index("method")
    assert list(rows.index) == ["RC-TPL", VECTORS, WORDS]
    for kind in KINDS:
        values = auc_floor(WORKSPACE, encoders, "chexpert", kind)
        shown = rows.loc[kind, ["value", "ci_low", "ci_high"]].astype(float)
        expected = [values.mean(), *np.percentile(values, [2.5, 97.5])]
        assert shown.tolist() == pytest.approx(expected)
        assert found.draws["chexpert", kind, "auc"].shape == (1, 1 + len(values))
    assert rows.loc[VECTORS, "seeds"] == 2 and rows.loc[VECTORS, "n"] == COUNT


def test_the_floor_of_pointing_is_the_share_of_hits(monkeypatch):
    """A draw's first coordinate decides where it points: every other film of the four."""
    monkeypatch.setattr(
        floors, "pointing_of", lambda *given: np.where(given[-1][:, :1] > 0, [1, 1, 0, 0], 0)
    )
    rows = pd.DataFrame([{"dataset": "rsna", "method": "RC-TPL", "metric": "pointing_game"}])
    outcome = Grounding(rows, {}, np.arange(4), {}, {})
    found = floors.with_pointing_floor(WORKSPACE, (Toy(), Toy()), outcome)
    series = found.draws["rsna", VECTORS, "pointing_game"][0]
    assert set(series[1:]) == {0, 0.5} and series[0] == pytest.approx(series[1:].mean())
    row = found.rows.set_index("method").loc[VECTORS]
    assert (row["ci_low"], row["ci_high"], row["n"]) == (0, 0.5, 4) and row["native"]
