"""Cached features: right values and rows, computed once, resumed, damage mended alone."""

import hashlib
import multiprocessing
import time
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.encoders.features import (
    IMAGE_BATCH,
    TEXT_BATCH,
    TEXT_SHARD,
    ShardStore,
    checksum,
    image_features,
    make_arrays,
    text_features,
)
from rctpl_utils.errors import InputError
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
    generator, paths = np.random.default_rng(0), [tmp_path / f"{number}.png" for number in range(5)]
    for path in paths:
        Image.fromarray(generator.integers(0, 255, (64, 64), np.uint8)).save(path)
    names = [path.name for path in paths]
    records = pd.DataFrame({"image_id": names, "patient_id": names, "path": map(str, paths)})
    records = records.assign(Edema=[1.0, 0, 1, 0, 0], Mass=[0.0, 1, 0, 1, 0])
    return ChestXrayDataset("toy", "test", ("Edema", "Mass"), records)


def test_texts_are_encoded_once_and_other_texts_or_weights_are_other_files(encoder, tmp_path):
    features = text_features(encoder, TEXTS, tmp_path)
    assert isinstance(features, np.memmap)
    assert np.allclose(features, encoder.encode_text(TEXTS), atol=1e-5)  # in their order
    again = text_features(Refusing(encoder), TEXTS, tmp_path)
    assert np.array_equal(features, again)
    text_features(encoder, TEXTS[::-1], tmp_path)
    assert len(list(tmp_path.glob("text-*.npy"))) == 2
    other = Refusing(encoder)
    other.text_key = "other"
    with pytest.raises(AttributeError):  # it would have to encode, which it cannot
        text_features(other, TEXTS, tmp_path)
    assert not list(tmp_path.glob(".*"))  # and leaves nothing half-written


def test_images_are_encoded_once_scored_in_batches_and_again_when_a_file_changes(
    encoder, films, tmp_path
):
    stored = image_features(encoder, films, tmp_path)
    pixels = torch.stack([encoder.preprocess(films.pixels(k)) for k in range(5)])
    direct = encoder.encode_image(pixels)
    assert len(stored) == 5
    assert np.allclose(stored.global_features, direct.global_features, atol=1e-2)
    assert np.allclose(stored.dense_features, direct.dense_features, atol=2e-2)
    embedded = encoder.encode_text(["edema", "mass"])
    two, one = ClassEmbeddings(embedded, embedded), ClassEmbeddings(embedded[:1], embedded[1:])
    scores = score_images(stored, {"two": two, "one": one})
    whole = branch_scores(stored.batch(slice(None), torch.device("cpu")), two)
    for branch, of, column in zip(("report", "concept"), whole, (0, 1), strict=True):
        assert np.allclose(getattr(scores["two"], branch), of, atol=1e-6)
        assert np.allclose(getattr(scores["one"], branch)[:, 0], of[:, column], atol=1e-6)
    table = quick_auc(films, scores["two"])
    assert table.index.tolist() == ["Edema", "Mass", "mean"]
    assert table.to_numpy().min() >= 0 and table.to_numpy().max() <= 1
    image_features(Refusing(encoder), films, tmp_path)
    Image.fromarray(np.zeros((65, 64), np.uint8)).save(films.records["path"][0])
    with pytest.raises(AttributeError):
        image_features(Refusing(encoder), films, tmp_path)


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


# --- shards

ORDER = np.array([5, 0, 9, 3, 7, 1, 8, 2, 6, 4])  # 3 shards of two batches of two, the last short
SIZE = {"batch": 2, "shard": 2}


class Maker:
    """Makes two arrays of ten rows, notes which rows it was asked for, and may fail or dawdle."""

    def __init__(self, fails_at=None, seconds=0.0):
        self.asked, self.sizes, self.fails_at, self.seconds = [], [], fails_at, seconds

    def __call__(self, rows):
        time.sleep(self.seconds)
        if self.fails_at in rows.tolist():
            raise KeyboardInterrupt
        self.asked += rows.tolist()
        self.sizes.append(len(rows))
        return rows.astype(np.float32)[:, None] * [1, 10], (rows[:, None, None] * 2).astype("f2")


def make(folder, maker, **size):
    paths = [folder / "a-g.npy", folder / "a-d.npy"]
    return make_arrays(paths, ORDER, maker, **SIZE | size, label="making", unit="row")


def made_right(folder, maker=None, **size):
    """Both arrays have their values whatever went before; returns the rows asked for."""
    maker = maker or Maker()
    first, second = arrays = make(folder, maker, **size)
    rows = np.arange(10)
    assert first.tolist() == [[row, 10 * row] for row in rows]
    assert second.dtype == np.float16 and second.ravel().tolist() == (2 * rows).tolist()
    assert all(isinstance(array, np.memmap) for array in arrays)
    return maker.asked


def interrupt(folder, row):
    with pytest.raises(KeyboardInterrupt):
        make(folder, Maker(fails_at=row))
    assert not (folder / "a-g.npy").exists()


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_rows_come_in_order_and_are_made_once(tmp_path):
    assert made_right(tmp_path) == ORDER.tolist()
    with FileLock(tmp_path / "a-g.lock"):  # whole arrays wait for nobody
        assert made_right(tmp_path) == []
    left = {path.name for path in tmp_path.iterdir()} - {"a-g.lock"}  # which may stay behind
    assert left == {"a-d.npy", "a-g.json", "a-g.npy"}


def test_an_interrupted_run_goes_on_at_the_shard_where_it_stopped(tmp_path):
    interrupt(tmp_path, 8)  # in the second shard's second batch
    assert made_right(tmp_path) == [7, 1, 8, 2, 6, 4]


def program(folder, start, told):
    """What one of two programs does, slow enough that both would surely make the same rows."""
    start.wait(120)
    told.put(made_right(folder, Maker(seconds=0.05)))


def test_of_two_programs_one_makes_the_arrays_and_the_other_waits(tmp_path):
    (tmp_path / "a-g.lock").write_bytes(b"left behind")  # by one that was killed: stops nobody
    context = multiprocessing.get_context("fork")
    arguments = tmp_path, context.Barrier(2), context.Queue()
    other = context.Process(target=program, args=arguments)
    other.start()
    program(*arguments)
    asked = sorted((arguments[-1].get(timeout=120) for _ in range(2)), key=len)
    other.join()
    assert other.exitcode == 0 and asked == [[], ORDER.tolist()]


@pytest.mark.parametrize("damage", ["flip data", "flip header", "truncate", "empty", "other shard"])
def test_a_damaged_shard_is_made_again(tmp_path, damage):
    interrupt(tmp_path, 6)
    first, second = sorted((tmp_path / "a-g.shards").iterdir())
    if damage.startswith("flip"):
        flip(first, -1 if damage == "flip data" else 3)
    else:
        data = {"truncate": first.read_bytes()[:-3], "other shard": second.read_bytes()}
        first.write_bytes(data.get(damage, b""))
    assert made_right(tmp_path) == [5, 0, 9, 3, 6, 4]


@pytest.mark.parametrize("name, size, row", [("a-g.npy", 16, 9), ("a-d.npy", 2, 2)])
def test_damage_in_the_finished_file_costs_its_shard_only(tmp_path, name, size, row):
    made_right(tmp_path)
    flip(tmp_path / name, -size * (10 - row))
    assert made_right(tmp_path) == ([5, 0, 9, 3] if row == 9 else [7, 1, 8, 2])


@pytest.mark.parametrize("lost", ["a-g.json", "a-d.npy", "half of a-d.npy", "words in a-g.json"])
def test_what_cannot_be_checked_is_made_again(tmp_path, lost):
    made_right(tmp_path)
    path = tmp_path / lost.split()[-1]
    content = {"half": path.read_bytes()[:-5], "words": b"words"}.get(lost.split()[0])
    path.unlink() if content is None else path.write_bytes(content)
    assert made_right(tmp_path) == ORDER.tolist()


def test_a_disk_that_forgets_is_told(tmp_path, monkeypatch):
    write = ShardStore.write

    def forgetful(self, index, arrays):
        write(self, index, arrays)
        if index == 1:
            flip(self.folder / "00001.safetensors", -1)

    monkeypatch.setattr(ShardStore, "write", forgetful)
    with pytest.raises(InputError, match=r"00001\.safetensors: .*only this shard"):
        make(tmp_path, Maker())
    assert not list(tmp_path.glob("*.npy"))


def test_no_row_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one"):
        make_arrays([tmp_path / "a.npy"], np.array([], int), Maker(), **SIZE, label="", unit="")


def test_the_checksum_is_sha256_of_rows_type_shape_and_bytes():
    rows, array = np.array([4, 1]), np.array([[1.0], [2.0]], np.float32)
    head = (4).to_bytes(8, "little") + (1).to_bytes(8, "little")
    wanted = hashlib.sha256(head + b'["<f4", [2, 1]]' + array.tobytes()).hexdigest()
    assert checksum(rows, (array,)) == wanted
    others = [(rows[::-1], array), (rows, array[::-1]), (rows, array.T), (rows, array.view("<i4"))]
    assert wanted not in [checksum(each, (other,)) for each, other in others]


@pytest.mark.parametrize("batch, shard", [(2, 1), (1, 1), (3, 2), (4, 3), (10, 1), (64, 8)])
def test_another_plan_changes_no_value_and_takes_up_no_shard(tmp_path, batch, shard):
    interrupt(tmp_path, 6)  # leaves two shards of four rows
    maker = Maker()
    asked = made_right(tmp_path, maker, batch=batch, shard=shard)
    assert asked == ORDER.tolist() and max(maker.sizes) <= batch
    shards = ShardStore([tmp_path / "a-g.npy", tmp_path / "a-d.npy"], ORDER, batch * shard).shards
    assert np.concatenate(shards).tolist() == ORDER.tolist()  # every row once, in its order
    assert all(0 < len(rows) <= batch * shard for rows in shards)


def test_memory_holds_one_shard_whatever_the_corpus(tmp_path):
    width, peaks = 4096, []
    for count in (16, 256):
        tracemalloc.start()
        make_arrays(
            [tmp_path / f"{count}.npy"], np.arange(count),
            lambda rows: (np.repeat(rows[:, None], width, 1).astype("f4"),),
            batch=4, shard=1, label="", unit="",
        )  # fmt: skip
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    shard = 4 * width * 4
    assert peaks[1] - peaks[0] < shard  # 240 more rows, 60 shards' worth
    assert peaks[1] < 8 * shard + 200_000
