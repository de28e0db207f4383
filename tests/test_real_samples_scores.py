"""The evaluation on real samples, on stand-ins for them with known answers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.encoders.features import ImageFeatureFile
from rctpl_utils.evaluation import table1
from rctpl_utils.evaluation.real_samples import (
    open_samples,
    sample_auc,
    sample_pointing,
    save_samples,
    scored_concepts,
)
from rctpl_utils.prompts.zero_shot import Method
from rctpl_utils.scoring import ClassEmbeddings

COUNT, SIDE = 40, 16


def mask_of(record: pd.Series, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[:8, :8] = True
    return mask


@pytest.fixture
def sample(monkeypatch):
    """Forty films, half with pneumonia; the first feature says which, its first cell where."""
    labels = np.arange(COUNT) % 2 == 0
    records = pd.DataFrame(
        {
            "image_id": [f"f{k}" for k in range(COUNT)],
            "patient_id": [f"p{k // 2}" for k in range(COUNT)],
            "path": "",
            "Pneumonia": labels.astype(float),
            "Mass": 0.0,
        }
    )
    dataset = ChestXrayDataset(
        "rsna", "test", ("Pneumonia", "Mass"), records,
        masks={"Pneumonia": mask_of}, annotated={"Pneumonia": labels},
    )  # fmt: skip
    monkeypatch.setattr("rctpl_utils.datasets.base.image_size", lambda path: (SIDE, SIDE))
    generator = np.random.default_rng(0)
    features = generator.normal(size=(COUNT, 4)).astype(np.float32)
    features[:, 0] += 2 * labels
    dense = np.zeros((COUNT, 4, 4, 4), np.float16)
    dense[:, 0, 0, 0] = 1
    file = ImageFeatureFile(features, dense)
    monkeypatch.setattr(table1, "image_features", lambda *_: file)
    return dataset, features


def method(direction: int) -> Method:
    def embedder(concepts):
        embedding = torch.zeros(len(concepts), 4)
        embedding[:, direction] = 1
        return ClassEmbeddings(embedding, embedding)

    return Method("toy", (embedder, lambda concepts: embedder(concepts)), "report")


def workspace() -> SimpleNamespace:
    return SimpleNamespace(features=None, profile=SimpleNamespace(bootstrap=50))


def test_a_class_without_enough_films_is_not_scored(sample):
    assert scored_concepts(sample[0]) == ("Pneumonia",)


def test_the_auc_is_scikit_learns(encoder, sample):
    dataset, features = sample
    rows = sample_auc(workspace(), (encoder, encoder), [method(0)], {"rsna-mini": dataset})
    expected = roc_auc_score(dataset.records["Pneumonia"], features[:, 0])
    assert rows["value"].tolist() == [pytest.approx(expected)]
    assert rows["seeds"].iloc[0] == 2 and rows["n"].iloc[0] == COUNT
    assert (rows["ci_low"] < rows["value"]).all() and (rows["value"] < rows["ci_high"]).all()


def test_the_pointing_game_and_its_floors(encoder, sample):
    """A map that peaks in the box hits, and a constant one misses."""
    methods = [method(0), replace(method(1), name="constant")]
    rows = sample_pointing(workspace(), (encoder, encoder), methods, {"rsna-mini": sample[0]})
    values = rows.set_index("method")["value"]
    assert values["random point"] == pytest.approx(0.25)  # 8 x 8 of 16 x 16 pixels
    assert (values["toy"], values["constant"]) == (1, 0)
    assert set(rows["n"]) == {COUNT // 2}


def test_without_samples_there_is_nothing(tmp_path, encoder):
    assert open_samples(tmp_path) == {}
    assert sample_auc(workspace(), (encoder, encoder), [method(0)], {}).empty
    assert sample_pointing(workspace(), (encoder, encoder), [method(0)], {}).empty


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
