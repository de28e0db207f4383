"""Cached features: right values, right order, computed once, never stale."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.encoders.features import (
    IMAGE_BATCH,
    TEXT_BATCH,
    TEXT_SHARD,
    image_features,
    text_features,
)
from rctpl_utils.evaluation.table1 import quick_auc
from rctpl_utils.prompts.zero_shot import branch_scores, score_images
from rctpl_utils.scoring import ClassEmbeddings

TEXTS = ["edema", "a much longer text about the pleura and the lungs", "mass", "no edema"]


class Refusing:
    """An encoder that may be asked for its keys only."""

    def __init__(self, encoder):
        self.text_key, self.image_key = encoder.text_key, encoder.image_key
        self.dimension = encoder.dimension


@pytest.fixture
def films(tmp_path):
    generator, paths = np.random.default_rng(0), []
    for number in range(5):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(generator.integers(0, 255, (64, 64), np.uint8)).save(paths[-1])
    records = pd.DataFrame(
        {
            "image_id": [path.name for path in paths],
            "patient_id": [path.name for path in paths],
            "path": [str(path) for path in paths],
            "Edema": [1.0, 0, 1, 0, 0],
            "Mass": [0.0, 1, 0, 1, 0],
        }
    )
    return ChestXrayDataset("toy", "test", ("Edema", "Mass"), records)


def test_texts_keep_their_order_and_are_encoded_once(encoder, tmp_path):
    features = text_features(encoder, TEXTS, tmp_path)
    assert isinstance(features, np.memmap)
    assert np.allclose(features, encoder.encode_text(TEXTS), atol=1e-5)
    again = text_features(Refusing(encoder), TEXTS, tmp_path)
    assert np.array_equal(features, again)


def test_other_texts_or_weights_are_other_files(encoder, tmp_path):
    text_features(encoder, TEXTS, tmp_path)
    text_features(encoder, TEXTS[::-1], tmp_path)
    assert len(list(tmp_path.glob("text-*.npy"))) == 2
    other = Refusing(encoder)
    other.text_key = "other"
    with pytest.raises(AttributeError):  # it would have to encode, which it cannot
        text_features(other, TEXTS, tmp_path)
    assert not list(tmp_path.glob(".*"))  # and leaves nothing half-written


def test_images_are_encoded_once_and_again_when_a_file_changes(encoder, films, tmp_path):
    stored = image_features(encoder, films, tmp_path)
    direct = encoder.encode_image(
        torch.stack([encoder.preprocess(films.pixels(k)) for k in range(5)])
    )
    assert len(stored) == 5
    assert np.allclose(stored.global_features, direct.global_features, atol=1e-2)
    assert np.allclose(stored.dense_features, direct.dense_features, atol=2e-2)
    image_features(Refusing(encoder), films, tmp_path)
    Image.fromarray(np.zeros((65, 64), np.uint8)).save(films.records["path"][0])
    with pytest.raises(AttributeError):
        image_features(Refusing(encoder), films, tmp_path)


def test_scoring_in_batches_is_scoring_at_once(encoder, films, tmp_path):
    stored = image_features(encoder, films, tmp_path)
    embedded = encoder.encode_text(["edema", "mass"])
    methods = {
        "two": ClassEmbeddings(embedded, embedded),
        "one": ClassEmbeddings(embedded[:1], embedded[1:]),
    }
    scores = score_images(stored, methods)
    whole = branch_scores(stored.batch(slice(None), torch.device("cpu")), methods["two"])
    assert np.allclose(scores["two"].report, whole[0], atol=1e-6)
    assert np.allclose(scores["two"].concept, whole[1], atol=1e-6)
    assert np.allclose(scores["one"].report[:, 0], whole[0][:, 0], atol=1e-6)
    assert np.allclose(scores["one"].concept[:, 0], whole[1][:, 1], atol=1e-6)
    table = quick_auc(films, scores["two"])
    assert table.index.tolist() == ["Edema", "Mass", "mean"]
    assert table.to_numpy().min() >= 0 and table.to_numpy().max() <= 1


class Counting:
    """A text encoder whose vectors depend on the batch, so that another batching would show."""

    text_key, dimension = "counting", 2

    def encode_text(self, texts):
        total = sum(map(len, texts))
        return torch.tensor([[len(text), total] for text in texts], dtype=torch.float32)


def test_texts_are_batched_by_length_as_one_process_always_did(tmp_path):
    generator = np.random.default_rng(0)
    count = TEXT_BATCH * TEXT_SHARD + 300  # two shards
    texts = ["x" * int(size) + str(k) for k, size in enumerate(generator.integers(0, 9, count))]
    wanted = np.zeros((count, 2), np.float32)
    order = sorted(range(count), key=lambda i: (len(texts[i]), i))
    for start in range(0, count, TEXT_BATCH):
        rows = order[start : start + TEXT_BATCH]
        wanted[rows] = Counting().encode_text([texts[i] for i in rows]).numpy()
    found = text_features(Counting(), texts, tmp_path)
    assert np.array_equal(found, wanted) and found.dtype == np.float32
    assert not list(tmp_path.glob("pooled-*"))  # it shares its tower with no other
    assert text_features(Counting(), [], tmp_path).shape == (0, 2)
    assert IMAGE_BATCH == 64  # scoring reads in the same batches
