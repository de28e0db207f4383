"""The evaluation on real samples, on stand-ins for them with known answers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from toy_films import feature_file, masks_of, radiographs

from rctpl_utils.evaluation import real_samples, table1
from rctpl_utils.evaluation.real_samples import sample_auc, sample_pointing, save_samples
from rctpl_utils.prompts.zero_shot import Method
from rctpl_utils.scoring import ClassEmbeddings

COUNT, SIDE = 40, 16


@pytest.fixture
def sample(monkeypatch):
    """Forty films, half with pneumonia; the first feature says which, its first cell where."""
    labels = np.arange(COUNT) % 2 == 0
    corner = np.kron([[1, 0], [0, 0]], np.ones((SIDE // 2, SIDE // 2))).astype(bool)
    dataset = radiographs(
        {"Pneumonia": labels.astype(float), "Mass": [0.0] * COUNT},
        "rsna",
        [f"p{k // 2}" for k in range(COUNT)],
        masks={"Pneumonia": masks_of([f"f{k}" for k in np.flatnonzero(labels)], lambda *_: corner)},
    )
    monkeypatch.setattr("rctpl_utils.datasets.base.image_size", lambda path: (SIDE, SIDE))
    features = np.random.default_rng(0).normal(size=(COUNT, 4))
    features[:, 0] += 2 * labels
    dense = np.zeros((COUNT, 4, 4, 4))
    dense[:, 0, 0, 0] = 1
    file = feature_file(features, dense)
    monkeypatch.setattr(table1, "image_features", lambda *_: file)
    return dataset, file.global_features


def method(direction: int) -> Method:
    def embedder(concepts):
        embedding = torch.eye(4)[[direction] * len(concepts)]
        return ClassEmbeddings(embedding, embedding)

    return Method("toy", (embedder, embedder), "report")


WORKSPACE = SimpleNamespace(features=None, profile=SimpleNamespace(bootstrap=50))


def test_the_auc_is_scikit_learns_of_classes_with_enough_films(encoder, sample):
    dataset, features = sample
    assert real_samples.scored_concepts(dataset) == ("Pneumonia",)
    rows = sample_auc(WORKSPACE, (encoder, encoder), [method(0)], {"rsna-mini": dataset})
    expected = roc_auc_score(dataset.records["Pneumonia"], features[:, 0])
    assert rows["value"].tolist() == [pytest.approx(expected)]
    assert rows["seeds"].iloc[0] == 2 and rows["n"].iloc[0] == COUNT
    assert (rows["ci_low"] < rows["value"]).all() and (rows["value"] < rows["ci_high"]).all()


def test_the_pointing_game_and_its_floors(encoder, sample):
    """A map that peaks in the box hits, and a constant one misses."""
    methods = [method(0), replace(method(1), name="constant")]
    rows = sample_pointing(WORKSPACE, (encoder, encoder), methods, {"rsna-mini": sample[0]})
    values = rows.set_index("method")["value"]
    assert values["random point"] == pytest.approx(0.25)  # 8 x 8 of 16 x 16 pixels
    assert (values["toy"], values["constant"]) == (1, 0)
    assert set(rows["n"]) == {COUNT // 2}


def test_without_samples_there_is_nothing(tmp_path, encoder):
    assert real_samples.open_samples(tmp_path) == {}
    assert sample_auc(WORKSPACE, (encoder, encoder), [method(0)], {}).empty
    assert sample_pointing(WORKSPACE, (encoder, encoder), [method(0)], {}).empty


def test_a_result_that_this_run_did_not_make_does_not_stay(tmp_path, capsys):
    path, rows = tmp_path / "real_samples.csv", pd.DataFrame({"value": [0.5]})
    workspace = SimpleNamespace(figures=tmp_path)
    save_samples(workspace, [pd.DataFrame(), pd.DataFrame()])
    assert not path.exists() and capsys.readouterr().out == ""
    save_samples(workspace, [rows, pd.DataFrame()])
    assert pd.read_csv(path).equals(rows)
    save_samples(workspace, [pd.DataFrame(), pd.DataFrame()])
    assert not path.exists()
    assert capsys.readouterr().out.startswith("real_samples.csv: removed")
