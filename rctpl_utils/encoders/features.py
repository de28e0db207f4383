"""Cached features: every distinct text and every image goes through the frozen encoder once.

Files are keyed by content (weights, tokenization or preprocessing, inputs) and memory-mapped, so
memory does not grow with the corpus and a changed input never meets a stale feature. They are made
in shards (`encoders.shards`): an interrupted run goes on where it stopped, a damaged shard is made
again, and processes that a launcher started share the work. Of programs that want the same file at
the same time (notebooks beside each other, say) one makes it and the others wait.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from tqdm import tqdm

from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.encoders.base import Encoder, ImageFeatures
from rctpl_utils.encoders.parallel_training import Processes, processes
from rctpl_utils.encoders.shards import Arrays, Plan, ShardStore
from rctpl_utils.errors import InputError
from rctpl_utils.files import hash_of

TEXT_BATCH = 256
TEXT_SHARD = 16  # batches, 4,096 texts: 8 MB at d = 512
IMAGE_BATCH = 64
IMAGE_SHARD = 8  # batches, 512 images: 25 MB of 7 x 7 maps at d = 512


def text_features(encoder: Encoder, texts: Sequence[str], folder: Path) -> np.ndarray:
    """Features of distinct texts, computed once, in the order given.

    Encoders with a `pooled_key` share their BERT: it reads a text once for all of them, and each
    projects what was read. Texts are encoded in batches of like length (padding costs nothing),
    then put in order. The batches are the same however many processes share them, so the features
    are too.

    Args:
        texts: n distinct texts.
        folder: where the cache lives.

    Returns:
        (n, d) float32 unit vectors, memory-mapped.
    """
    if not texts:
        return np.empty((0, encoder.dimension), np.float32)
    path = folder / f"text-{hash_of(encoder.text_key, list(texts))[:20]}.npy"
    order = np.array(sorted(range(len(texts)), key=lambda i: (len(texts[i]), i)), int)

    plan = Plan(order, TEXT_BATCH, TEXT_SHARD)
    pooled = _pooled_states(encoder, texts, folder, plan)

    def encode(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        if pooled is None:
            return (encoder.encode_text([texts[i] for i in rows.tolist()]).cpu().numpy(),)
        with torch.no_grad():
            states = torch.from_numpy(pooled[rows]).to(encoder.device)
            return (encoder.text.project(states).cpu().numpy(),)

    label = "encoding texts" if pooled is None else "projecting texts"
    (features,) = make_arrays([path], plan, encode, label=label, unit="text")
    return features


def _pooled_states(
    encoder: Encoder, texts: Sequence[str], folder: Path, plan: Plan
) -> np.ndarray | None:
    """What the shared BERT makes of each text, (n, W); None for an encoder with one of its own."""
    shared = getattr(encoder, "pooled_key", None)
    if shared is None:
        return None
    path = folder / f"pooled-{hash_of(shared, list(texts))[:20]}.npy"

    def read(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        with torch.no_grad():
            return (encoder.text.pooled([texts[i] for i in rows.tolist()]).cpu().numpy(),)

    (states,) = make_arrays([path], plan, read, label="reading texts", unit="text")
    return states


@dataclass(frozen=True)
class ImageFeatureFile:
    """The features of one data set's split, in the order of its records.

    Attributes:
        global_features: f, (n, d) float32, memory-mapped.
        dense_features: F, (n, h, w, d) float16, memory-mapped.
    """

    global_features: np.ndarray
    dense_features: np.ndarray

    def __len__(self) -> int:
        """Number of images."""
        return len(self.global_features)

    def batch(self, rows: slice | np.ndarray, device: torch.device) -> ImageFeatures:
        """Some rows as float32 tensors."""
        arrays = (self.global_features[rows], self.dense_features[rows])
        return ImageFeatures(
            *(torch.from_numpy(np.array(a, np.float32)).to(device) for a in arrays)
        )


def image_features(encoder: Encoder, dataset: ChestXrayDataset, folder: Path) -> ImageFeatureFile:
    """Global and dense features of a data set, computed once, in batches."""
    key = hash_of(encoder.image_key, file_stamps(dataset), "float32")[:20]  # `evaluation`
    paths = [folder / f"image-{dataset.name}-{dataset.split}-{key}-{k}.npy" for k in "gd"]

    def encode(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        batch = torch.stack([encoder.preprocess(dataset.pixels(i)) for i in rows.tolist()])
        whole, dense = (array.float().cpu().numpy() for array in encoder.encode_image(batch))
        return whole, dense.astype(np.float16)

    plan = Plan(np.arange(len(dataset)), IMAGE_BATCH, IMAGE_SHARD)
    arrays = make_arrays(paths, plan, encode, label=f"encoding {dataset.name}", unit="image")
    return ImageFeatureFile(*arrays)


def file_stamps(dataset: ChestXrayDataset) -> list[tuple[str, int, int]]:
    """Each image with its file's size and time: a changed file is a new input."""
    stats = [(path, Path(path).stat()) for path in dataset.records["path"]]
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def make_arrays(
    paths: Sequence[Path],
    plan: Plan,
    make: Callable[[np.ndarray], Arrays],
    *,
    label: str,
    unit: str,
) -> list[np.memmap]:
    """Arrays that are made once, shard by shard, by all processes together.

    Args:
        paths: one `.npy` file an array; their names must change with all that decides the values.
        make: from row numbers to the arrays' rows; the same rows must give the same bytes.
        label: the progress bar's; `unit`: what a row is.

    Returns:
        memory-mapped, read-only; row i is what `make` gave for row number i.

    Raises:
        InputError: no row, or a disk that does not keep what is written.
    """
    if not len(plan.order):
        raise InputError(f"nothing to do ({label})", "Give at least one input.", file=paths[0])
    store, group = ShardStore(tuple(paths), plan), processes()
    with sole_maker(store, group):
        if not store.whole():
            _make_missing(store, group, make, label, unit)
    return store.open()


@contextmanager
def sole_maker(store: ShardStore, group: Processes) -> Iterator[None]:
    """Hold a store for this process and its group; others that want the same arrays wait.

    A group's first process takes the lock for all and every member starts when it has it, so that
    the members see the same files. The system frees a lock however its process ends; its file
    stays behind. A process alone locks and writes nothing where the arrays are whole.
    """
    if group.count == 1 and store.whole():
        yield
        return
    lock = FileLock(store.lock) if group.first else nullcontext()
    if group.first:
        store.lock.parent.mkdir(parents=True, exist_ok=True)
    with lock:
        group.wait()
        yield


def _make_missing(
    store: ShardStore,
    group: Processes,
    make: Callable[[np.ndarray], Arrays],
    label: str,
    unit: str,
) -> None:
    missing = store.missing()
    group.wait()  # all have seen the same list before anyone shortens it
    mine = group.share(missing)
    rows = sum(len(store.plan.rows(index)) for index in mine)
    quiet = {} if group.first else {"disable": True}
    with tqdm(total=rows, desc=label, unit=unit, **quiet) as bar:
        for index in mine:
            parts = []
            for batch in store.plan.batches(index):
                parts.append(make(batch))
                bar.update(len(batch))
            store.write(index, tuple(map(np.concatenate, zip(*parts, strict=True))))
    group.wait()
    if group.first:
        store.assemble()
    group.wait()
