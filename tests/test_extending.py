"""What docs/architecture.md promises: a new baseline and a new data set, each in under 60 lines."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from rctpl_utils import datasets
from rctpl_utils.baselines.registry import Competitor, grounders, scorers
from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.datasets.questions import Question
from rctpl_utils.evaluation import table1
from rctpl_utils.evaluation.grounding import Films
from rctpl_utils.workspace import Workspace

# --- a data set: a function that opens a split, a line in DATASETS, a question for Table 1


def open_toy(root, split, **options) -> ChestXrayDataset:
    """A table of films with one label; half of the patients are for validation."""
    records = pd.read_csv(root / "films.csv", dtype={"image_id": str, "patient_id": str})
    records = records[records.pop("split") == split].reset_index(drop=True)
    records["path"] = [str(root / name) for name in records["image_id"]]
    return ChestXrayDataset("toy", split, ("Edema",), records)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A run on a data root that holds the new set alone: bright films show edema."""
    root, rng = tmp_path / "data" / "toy", np.random.default_rng(0)
    root.mkdir(parents=True)
    rows = []
    for k in range(24):
        pixels = rng.integers(0, 100, (32, 32)) + 100 * (k % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{k}.png")
        rows.append((f"{k}.png", f"p{k}", ("test", "validation")[k // 12], float(k % 2)))
    columns = ["image_id", "patient_id", "split", "Edema"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "films.csv", index=False)
    monkeypatch.setitem(datasets.DATASETS, "toy", ("toy", ("validation", "test"), open_toy))
    monkeypatch.setattr(table1, "QUESTIONS", {"toy": Question("toy")})
    opened = Workspace.open("smoke", output=tmp_path, device="cpu")
    return replace(opened, data_root=tmp_path / "data")


# --- a baseline: a model behind the protocol, and how it reads a film


class Brightness:
    """Bright films show everything, at their brightest place."""

    name, published = "brightness", frozenset({"classify", "ground"})

    def classify(self, films, concepts):
        return films.mean(dim=(1, 2))[:, None].expand(-1, len(concepts))

    def ground(self, films, concept):
        return films


def reader(dataset):
    return lambda rows: torch.stack([torch.tensor(dataset.pixels(row)) for row in rows])


def test_both_reach_table_1(workspace):
    rows = scorers([Competitor("brightness", (Brightness(),), (reader,))])
    found = table1.classify(workspace, (), "toy", ["toy"], [], rows)["toy"].rows
    auc = found[(found["metric"] == "auc") & (found["method"] == "brightness")]
    assert auc["value"].item() == 1.0 and auc["n"].item() == 12
    assert auc["dataset"].item() == "toy"


def test_the_baseline_grounds(workspace):
    dataset = datasets.open_dataset("toy", workspace.data_root, "test")
    (row,) = grounders([Competitor("brightness", (Brightness(),), (reader,))])
    maps = row.makers[0](Films(None, dataset, None, np.array([1, 3]), "Edema"))
    assert row.native and np.allclose(maps[0], dataset.pixels(1))
