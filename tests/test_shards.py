"""Sharded arrays: right rows, resumed where they stopped, damage found and mended alone."""

import hashlib
import multiprocessing
import time
import tracemalloc

import numpy as np
import pytest
from filelock import FileLock

from rctpl_utils.encoders.features import Plan, ShardStore, checksum, make_arrays
from rctpl_utils.errors import InputError

ORDER = np.array([5, 0, 9, 3, 7, 1, 8, 2, 6, 4])  # 3 shards of two batches of two, the last short
PLAN = Plan(ORDER, 2, 2)


class Maker:
    """Makes two arrays of ten rows, notes which rows it was asked for, and may fail."""

    def __init__(self, fails_at=None):
        self.asked, self.sizes, self.fails_at = [], [], fails_at

    def __call__(self, rows):
        if self.fails_at in rows.tolist():
            raise KeyboardInterrupt
        self.asked += rows.tolist()
        self.sizes.append(len(rows))
        return rows.astype(np.float32)[:, None] * [1, 10], (rows[:, None, None] * 2).astype("f2")


def make(folder, maker):
    paths = [folder / "a-g.npy", folder / "a-d.npy"]
    return make_arrays(paths, PLAN, maker, label="making", unit="row")


def right(arrays):
    first, second = arrays
    rows = np.arange(10)
    assert first.tolist() == [[row, 10 * row] for row in rows]
    assert second.dtype == np.float16 and second.ravel().tolist() == (2 * rows).tolist()
    assert all(isinstance(array, np.memmap) for array in arrays)


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_rows_come_in_order_and_are_made_once(tmp_path):
    maker = Maker()
    right(make(tmp_path, maker))
    assert maker.asked == ORDER.tolist()
    with FileLock(tmp_path / "a-g.lock"):  # whole arrays wait for nobody
        right(make(tmp_path, Maker(fails_at=0)))  # asked for nothing
    left = {path.name for path in tmp_path.iterdir()} - {"a-g.lock"}  # which may stay behind
    assert left == {"a-d.npy", "a-g.json", "a-g.npy"}


def test_an_interrupted_run_goes_on_at_the_shard_where_it_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, Maker(fails_at=8))  # in the second shard's second batch
    assert not (tmp_path / "a-g.npy").exists()
    maker = Maker()
    right(make(tmp_path, maker))
    assert maker.asked == [7, 1, 8, 2, 6, 4]


class Slow(Maker):
    """Takes its time, so that two programs would surely make the same rows."""

    def __call__(self, rows):
        time.sleep(0.05)
        return super().__call__(rows)


def program(folder, start, told):
    """What one of two programs does at the same time as the other."""
    maker = Slow()
    start.wait(120)
    right(make(folder, maker))
    told.put(maker.asked)


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
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, Maker(fails_at=6))
    first, second = sorted((tmp_path / "a-g.shards").iterdir())
    if damage.startswith("flip"):
        flip(first, -1 if damage == "flip data" else 3)
    else:
        data = {"truncate": first.read_bytes()[:-3], "other shard": second.read_bytes()}
        first.write_bytes(data.get(damage, b""))
    maker = Maker()
    right(make(tmp_path, maker))
    assert maker.asked == [5, 0, 9, 3, 6, 4]


@pytest.mark.parametrize("name, size, row", [("a-g.npy", 16, 9), ("a-d.npy", 2, 2)])
def test_damage_in_the_finished_file_costs_its_shard_only(tmp_path, name, size, row):
    right(make(tmp_path, Maker()))
    flip(tmp_path / name, -size * (10 - row))
    maker = Maker()
    right(make(tmp_path, maker))
    assert maker.asked == ([5, 0, 9, 3] if row == 9 else [7, 1, 8, 2])


@pytest.mark.parametrize("lost", ["a-g.json", "a-d.npy", "half of a-d.npy", "words in a-g.json"])
def test_what_cannot_be_checked_is_made_again(tmp_path, lost):
    right(make(tmp_path, Maker()))
    path = tmp_path / lost.split()[-1]
    content = {"half": path.read_bytes()[:-5], "words": b"words"}.get(lost.split()[0])
    path.unlink() if content is None else path.write_bytes(content)
    maker = Maker()
    right(make(tmp_path, maker))
    assert maker.asked == ORDER.tolist()


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
        make_arrays([tmp_path / "a.npy"], Plan(np.array([], int), 2, 2), Maker(), label="", unit="")


def test_the_checksum_is_sha256_of_rows_type_shape_and_bytes():
    rows, array = np.array([4, 1]), np.array([[1.0], [2.0]], np.float32)
    head = (4).to_bytes(8, "little") + (1).to_bytes(8, "little")
    wanted = hashlib.sha256(head + b'["<f4", [2, 1]]' + array.tobytes()).hexdigest()
    assert checksum(rows, (array,)) == wanted
    others = [(rows[::-1], array), (rows, array[::-1]), (rows, array.T), (rows, array.view("<i4"))]
    assert wanted not in [checksum(each, (other,)) for each, other in others]


@pytest.mark.parametrize("batch, shard", [(2, 1), (1, 1), (3, 2), (4, 3), (10, 1), (64, 8)])
def test_another_plan_changes_no_value_and_takes_up_no_shard(tmp_path, batch, shard):
    paths = [tmp_path / "a-g.npy", tmp_path / "a-d.npy"]
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, Maker(fails_at=6))  # leaves two shards of four rows
    maker = Maker()
    plan = Plan(ORDER, batch, shard)
    right(make_arrays(paths, plan, maker, label="making", unit="row"))
    assert maker.asked == ORDER.tolist() and max(maker.sizes) <= batch
    shards = [plan.rows(k).tolist() for k in range(len(plan))]  # every row once, in its order
    assert [row for rows in shards for row in rows] == ORDER.tolist()
    assert all(0 < len(rows) <= batch * shard for rows in shards)


def test_memory_holds_one_shard_whatever_the_corpus(tmp_path):
    width, peaks = 4096, []
    for count in (16, 256):
        plan = Plan(np.arange(count), 4, 1)
        tracemalloc.start()
        make_arrays(
            [tmp_path / f"{count}.npy"], plan,
            lambda rows: (np.repeat(rows[:, None], width, 1).astype("f4"),), label="", unit="",
        )  # fmt: skip
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    shard = 4 * width * 4
    assert peaks[1] - peaks[0] < shard  # 240 more rows, 60 shards' worth
    assert peaks[1] < 8 * shard + 200_000
