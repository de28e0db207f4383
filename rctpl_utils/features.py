"""Cached features: every distinct text and every image goes through the frozen encoder once.

Files are keyed by content (weights, tokenization or preprocessing, inputs) and memory-mapped, so
memory does not grow with the corpus and a changed input never meets a stale feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.encoders.base import Encoder, ImageFeatures
from rctpl_utils.files import atomic_path, hash_of

TEXT_BATCH = 256
IMAGE_BATCH = 64


def text_features(encoder: Encoder, texts: Sequence[str], folder: Path) -> np.ndarray:
    """Features of distinct texts, computed once, in the order given.

    Texts are encoded in batches of like length (padding costs nothing), then put in order.

    Args:
        texts: n distinct texts.
        folder: where the cache lives.

    Returns:
        (n, d) float32 unit vectors, memory-mapped.
    """
    path = folder / f"text-{hash_of(encoder.text_key, list(texts))[:20]}.npy"
    if not path.exists():
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
        with atomic_path(path) as temporary:
            shape = (len(texts), encoder.dimension)
            array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
            with tqdm(total=len(texts), desc="encoding texts", unit="text") as bar:
                for start in range(0, len(order), TEXT_BATCH):
                    rows = order[start : start + TEXT_BATCH]
                    array[rows] = encoder.encode_text([texts[i] for i in rows]).cpu().numpy()
                    bar.update(len(rows))
            array.flush()
    return np.load(path, mmap_mode="r")


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
    key = hash_of(encoder.image_key, _files(dataset))[:20]
    paths = [folder / f"image-{dataset.name}-{dataset.split}-{key}-{k}.npy" for k in "gd"]
    if not all(path.exists() for path in paths):
        with atomic_path(paths[0]) as first, atomic_path(paths[1]) as second:
            _encode_images(encoder, dataset, first, second)
    return ImageFeatureFile(*(np.load(path, mmap_mode="r") for path in paths))


def _files(dataset: ChestXrayDataset) -> list[tuple[str, int, int]]:
    """Each image with its file's size and time: a changed file is a new input."""
    stats = [(path, Path(path).stat()) for path in dataset.records["path"]]
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def _encode_images(encoder: Encoder, dataset: ChestXrayDataset, first: Path, second: Path) -> None:
    files = None
    bar = tqdm(total=len(dataset), desc=f"encoding {dataset.name}", unit="image")
    for start in range(0, len(dataset), IMAGE_BATCH):
        rows = range(start, min(start + IMAGE_BATCH, len(dataset)))
        batch = torch.stack([encoder.preprocess(dataset.pixels(i)) for i in rows])
        features = [array.float().cpu().numpy() for array in encoder.encode_image(batch)]
        if files is None:
            files = [
                np.lib.format.open_memmap(path, "w+", dtype, (len(dataset), *array.shape[1:]))
                for path, dtype, array in zip(
                    (first, second), (np.float32, np.float16), features, strict=True
                )
            ]
        for file, array in zip(files, features, strict=True):
            file[rows.start : rows.stop] = array
        bar.update(len(rows))
    bar.close()
    for file in files or []:
        file.flush()
