"""Cached arrays of the frozen towers: every distinct text and every image goes through them once.

Files are keyed by content (weights, tokenization or preprocessing, inputs) and memory-mapped, so
memory does not grow with the corpus and a changed input never meets a stale feature.

While an array is made, each shard is a small file of its own that carries the SHA-256 of its
arrays, so an interrupted run goes on with the shards that are missing, and several processes (on
one machine or on several that share a folder) write beside each other. When all are there, they
become one `.npy` file an array, with the shards' checksums beside it; a shard that no longer fits
its checksum is made again, alone. Of programs that want the same file at the same time (notebooks
beside each other, say) one makes it and the others wait.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor
from tqdm import tqdm

from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.encoders.base import (
    MAX_TOKENS,
    Encoder,
    ImageFeatures,
    autocast,
    fast_dtype,
    masked_mean,
)
from rctpl_utils.encoders.parallel_training import processes
from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path, hash_of, read_json, write_json

if TYPE_CHECKING:  # its BERT takes seconds to import
    from rctpl_utils.encoders.text_tower import TextTower

TEXT_BATCH = 256
TEXT_SHARD = 16  # batches, 4,096 texts: 8 MB at d = 512
IMAGE_BATCH = 64
IMAGE_SHARD = 8  # batches, 512 images: 25 MB of 7 x 7 maps at d = 512
WORD_SHARD = 1  # batch, 256 texts, 15 MB: small, for it is written and read back as a whole
MASKED_SHARE = 0.15  # of the words, as BERT (Devlin et al. 2019, section 3.1)
Arrays = tuple[np.ndarray, ...]
_whole: set[tuple] = set()  # files that this process has checked, with their size and time


@dataclass(frozen=True)
class ImageFeatureFile:
    """The features of one data set's split, in the order of its records, memory-mapped."""

    global_features: np.ndarray  # f, (n, d) float32
    dense_features: np.ndarray  # F, (n, h, w, d) float16

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

    def encode(rows: np.ndarray) -> Arrays:
        batch = torch.stack([encoder.preprocess(dataset.pixels(i)) for i in rows.tolist()])
        whole, dense = (array.float().cpu().numpy() for array in encoder.encode_image(batch))
        return whole, dense.astype(np.float16)

    arrays = make_arrays(
        paths, np.arange(len(dataset)), encode, batch=IMAGE_BATCH, shard=IMAGE_SHARD,
        label=f"encoding {dataset.name}", unit="image",
    )  # fmt: skip
    return ImageFeatureFile(*arrays)


def file_stamps(dataset: ChestXrayDataset) -> list[tuple[str, int, int]]:
    """Each image with its file's size and time: a changed file is a new input."""
    stats = [(path, Path(path).stat()) for path in dataset.records["path"]]
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]


@torch.no_grad()
def text_features(encoder: Encoder, texts: Sequence[str], folder: Path) -> np.ndarray:
    """Features of n distinct texts, computed once, in their order: (n, d) unit vectors, float32.

    Encoders with a `pooled_key` share their BERT: it reads a text once for all of them, and each
    projects what was read. Texts are encoded in batches of like length (padding costs nothing),
    then put in order. The batches are the same however many processes share them, so the features
    are too.
    """
    if not texts:
        return np.empty((0, encoder.dimension), np.float32)
    order = np.array(sorted(range(len(texts)), key=lambda i: (len(texts[i]), i)), int)
    size = {"batch": TEXT_BATCH, "shard": TEXT_SHARD}

    def made(name: str, key: str, label: str, make: Callable[[np.ndarray], Tensor]) -> np.ndarray:
        path = folder / f"{name}-{hash_of(key, list(texts))[:20]}.npy"
        (array,) = make_arrays(
            [path],
            order,
            lambda rows: (make(rows).cpu().numpy(),),
            **size,
            label=label,
            unit="text",
        )
        return array

    def chosen(rows: np.ndarray) -> list[str]:
        return [texts[i] for i in rows.tolist()]

    def project(rows: np.ndarray) -> Tensor:
        return encoder.text.project(torch.from_numpy(pooled[rows]).to(encoder.device))

    key, shared = encoder.text_key, getattr(encoder, "pooled_key", None)
    if shared is None:
        return made("text", key, "encoding texts", lambda rows: encoder.encode_text(chosen(rows)))
    pooled = made("pooled", shared, "reading texts", lambda rows: encoder.text.pooled(chosen(rows)))
    return made("text", key, "projecting texts", project)


class Words(NamedTuple):
    """A batch of B texts, padded to its longest."""

    states: Tensor  # (B, T, W), the last hidden states
    seen: Tensor  # (B, T), true for words and special tokens
    ids: Tensor  # (B, T), the tokens' numbers in the vocabulary

    def pooled(self) -> Tensor:
        """The mean over what is seen, (B, W): the frozen tower's own pooling."""
        return masked_mean(self.states, self.seen)


@dataclass(frozen=True)
class WordFile:
    """Word states of n texts, memory-mapped or on a device."""

    states: np.ndarray | Tensor  # (n, 77, W) float16, zero beyond a text's end
    ids: np.ndarray | Tensor  # (n, 77), token numbers
    lengths: np.ndarray  # (n,), tokens in each text

    def batch(self, rows: np.ndarray, device: torch.device) -> Words:
        """Some texts, by row."""
        longest = int(self.lengths[rows].max())
        states, ids = (gather(each, rows)[:, :longest] for each in (self.states, self.ids))
        seen = torch.from_numpy(np.arange(longest) < self.lengths[rows][:, None])
        return Words(states.to(device).float(), seen.to(device), ids.to(device).long())

    def on(self, device: torch.device) -> "WordFile":
        """The same, its arrays held by the device: for training on an accelerator."""
        states, ids = (torch.from_numpy(each).to(device) for each in (self.states, self.ids))
        return replace(self, states=states, ids=ids)

    def means(self, rows: np.ndarray) -> np.ndarray:
        """Each text's mean state over what is seen, by row, a batch at a time: (m, W) float32."""
        found = np.empty((len(rows), self.states.shape[-1]), np.float32)
        order = np.argsort(self.lengths[rows], kind="stable")  # texts of like length together
        for start in range(0, len(order), TEXT_BATCH):
            part = order[start : start + TEXT_BATCH]
            found[part] = self.batch(rows[part], torch.device("cpu")).pooled().numpy()
        return found


def gather(array: np.ndarray | Tensor, *rows: np.ndarray) -> Tensor:
    """Index an array in memory, on disk or on a device; the result stays where the array is."""
    if isinstance(array, Tensor):
        return array[tuple(torch.from_numpy(each).to(array.device) for each in rows)]
    return torch.from_numpy(array[rows])


@torch.no_grad()
def word_states(
    tower: "TextTower", texts: Sequence[str], folder: Path, masked_by: int | None = None
) -> tuple[WordFile, np.ndarray]:
    """Word states of n texts, computed once, and which words were hidden, (n, 77) bool.

    Pre-training and the baselines ask for the same texts (`pretraining.training_texts`) and share
    one file: its name holds what decides the states (`TextTower.bert_key`), and no projection does.
    With a seed, `masked_by`, 15 % of each text's words are hidden from the frozen BERT behind its
    mask token, and `ids` still tell what they were.
    """
    ids, lengths, special = _tokens(tower, texts)
    hidden = np.zeros(ids.shape, bool)
    if masked_by is not None:
        generator = np.random.default_rng(masked_by)
        hidden = (generator.random(ids.shape) < MASKED_SHARE) & ~special
    given = np.where(hidden, tower.tokenizer.mask_token_id, ids)
    dtype = str(fast_dtype(tower.device))
    key = hash_of(tower.bert_key, list(texts), masked_by, MASKED_SHARE, dtype)[:20]

    def encode(rows: np.ndarray) -> Arrays:
        longest = int(lengths[rows].max())
        tokens = torch.from_numpy(given[rows, :longest]).to(tower.device)
        seen = torch.from_numpy((np.arange(longest) < lengths[rows][:, None]).astype(np.int64))
        with autocast(tower.device):
            states = tower.bert(input_ids=tokens, attention_mask=seen.to(tower.device))
        found = states.last_hidden_state.float().cpu().numpy()
        full = np.zeros((len(rows), MAX_TOKENS, found.shape[-1]), np.float16)
        full[:, :longest] = found * seen.unsqueeze(-1).numpy()
        return (full,)

    order, paths = np.argsort(lengths, kind="stable"), [folder / f"words-{key}.npy"]
    size = {"batch": TEXT_BATCH, "shard": WORD_SHARD}
    (states,) = make_arrays(paths, order, encode, **size, label="reading words", unit="text")
    return WordFile(states, ids, lengths), hidden


def _tokens(tower: "TextTower", texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token numbers (n, 77), lengths (n,), and which tokens are special or padding, (n, 77) bool.

    A batch at a time: the tokenizer's own records of a text take a hundred times its tokens.
    """
    ids = np.empty((len(texts), MAX_TOKENS), np.int64)
    lengths, special = np.empty(len(texts), np.int64), np.empty(ids.shape, bool)
    for start in range(0, len(texts), TEXT_BATCH):
        part = slice(start, start + TEXT_BATCH)
        encoded = tower.tokenizer(
            list(texts[part]), padding="max_length", truncation=True, max_length=MAX_TOKENS,
            return_tensors="np", return_special_tokens_mask=True,
        )  # fmt: skip
        ids[part] = encoded["input_ids"]
        lengths[part] = encoded["attention_mask"].sum(axis=1)
        special[part] = encoded["special_tokens_mask"]
    return ids, lengths, special


def make_arrays(
    paths: Sequence[Path],
    order: np.ndarray,
    make: Callable[[np.ndarray], Arrays],
    *,
    batch: int,
    shard: int,
    label: str,
    unit: str,
) -> list[np.memmap]:
    """Arrays that are made once, shard by shard, by all processes together.

    `paths` has one `.npy` file an array; their names must change with all that decides the values.
    `make` gives the arrays' rows of some row numbers; the same rows must give the same bytes. It is
    called with all row numbers in their `order`, a `batch` at a time, `shard` batches in a shard,
    whatever the number of processes. The arrays are memory-mapped, read-only. An `InputError` tells
    of no row, or of a disk that does not keep what is written.

    A group's first process takes the lock for all and every member starts when it has it, so that
    the members see the same files. The system frees a lock however its process ends; its file stays
    behind. A process alone locks and writes nothing where the arrays are whole.
    """
    if not len(order):
        raise InputError(f"nothing to do ({label})", "Give at least one input.", file=paths[0])
    store, group = ShardStore(paths, order, batch * shard), processes()
    if group.count == 1 and store.whole():
        return store.open()
    if group.first:
        store.lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(store.lock) if group.first else nullcontext():
        group.wait()
        if not store.whole():
            missing = [index for index in range(len(store.shards)) if store.read(index) is None]
            group.wait()  # all have seen the same list before anyone shortens it
            mine = group.share(missing)
            rows = sum(len(store.shards[index]) for index in mine)
            quiet = {} if group.first else {"disable": True}
            with tqdm(total=rows, desc=label, unit=unit, **quiet) as bar:
                for index in mine:
                    parts = []
                    for part in _pieces(store.shards[index], batch):
                        parts.append(make(part))
                        bar.update(len(part))
                    store.write(index, tuple(map(np.concatenate, zip(*parts, strict=True))))
            group.wait()
            if group.first:
                store.assemble()
            group.wait()
    return store.open()


def _pieces(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


class ShardStore:
    """The files of one or more arrays with the same n rows."""

    def __init__(self, paths: Sequence[Path], order: np.ndarray, size: int) -> None:
        """`paths`: the finished `.npy` files, one an array; `size`: rows in a shard."""
        self.paths, self.count, self.shards = tuple(paths), len(order), _pieces(order, size)
        self.ledger = paths[0].with_suffix(".json")  # the shards' checksums
        self.folder = paths[0].with_suffix(".shards")  # those not part of the finished files yet
        self.lock = paths[0].with_suffix(".lock")  # held by who makes the arrays; may stay behind

    def open(self) -> list[np.memmap]:
        """The finished arrays, read-only."""
        return [np.load(path, mmap_mode="r") for path in self.paths]

    def whole(self) -> bool:
        """Whether the files are there and all shards fit their checksums, once a process each."""
        files = (*self.paths, self.ledger)
        if not all(path.exists() for path in files):
            return False
        stamp = tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
        if stamp not in _whole:
            if any(self._finished(index) is None for index in range(len(self.shards))):
                return False
            _whole.add(stamp)
        return True

    def read(self, index: int) -> Arrays | None:
        """A shard from its own file or from the finished ones; None if neither holds it whole."""
        try:
            with safe_open(self._shard(index), "np") as stored:
                arrays = tuple(stored.get_tensor(str(k)) for k in range(len(self.paths)))
                wanted = (stored.metadata() or {}).get("sha256")
        except (OSError, SafetensorError):  # absent, or its header is damaged
            return self._finished(index)
        fits = checksum(self.shards[index], arrays) == wanted
        return arrays if fits else self._finished(index)

    def write(self, index: int, arrays: Arrays) -> None:
        """Keep a shard in a file of its own."""
        with atomic_path(self._shard(index)) as temporary:
            named = {str(k): np.ascontiguousarray(array) for k, array in enumerate(arrays)}
            save_file(named, temporary, {"sha256": checksum(self.shards[index], arrays)})

    def assemble(self) -> None:
        """Put all shards into the finished files, one at a time; their own files then go.

        A shard that is not what was written (a bad disk) is an `InputError`.
        """
        sums, files = [], []
        with ExitStack() as stack:
            temporary = [stack.enter_context(atomic_path(path)) for path in self.paths]
            for index in range(len(self.shards)):
                rows, arrays = self.shards[index], self.read(index)
                if arrays is None:
                    raise InputError(
                        "a shard does not hold what was just written",
                        "Check the disk and its free space, then run again: only this shard is "
                        "made.",
                        file=self._shard(index),
                    )
                sums.append(checksum(rows, arrays))
                files = files or [
                    np.lib.format.open_memmap(
                        path, "w+", array.dtype, (self.count, *array.shape[1:])
                    )
                    for path, array in zip(temporary, arrays, strict=True)
                ]
                for file, array in zip(files, arrays, strict=True):
                    file[rows] = array
            for file in files:
                file.flush()
        write_json(self.ledger, {"sha256": sums})
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _shard(self, index: int) -> Path:
        return self.folder / f"{index:05d}.safetensors"

    def _finished(self, index: int) -> Arrays | None:
        """A shard's rows in the finished files, if they fit the ledger."""
        try:
            wanted = read_json(self.ledger)["sha256"][index]
            arrays = tuple(file[self.shards[index]] for file in self.open())
        except (OSError, ValueError, LookupError, TypeError):  # absent, truncated or no array
            return None
        return arrays if checksum(self.shards[index], arrays) == wanted else None


def checksum(rows: np.ndarray, arrays: Arrays) -> str:
    """SHA-256 over the row numbers, then each array's type, shape and bytes.

    The row numbers are in it so that a shard of another plan (or another shard's file) never fits.
    """
    digest = hashlib.sha256(np.ascontiguousarray(rows, "<i8").data)
    for array in arrays:
        digest.update(json.dumps([array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
