"""Cached features: every distinct text and every image goes through the frozen encoder once.

Files are keyed by content (weights, tokenization or preprocessing, inputs) and memory-mapped, so
memory does not grow with the corpus and a changed input never meets a stale feature. They are made
in shards (`encoders.shards`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.encoders.base import Encoder, ImageFeatures
from rctpl_utils.encoders.shards import Plan, make_arrays
from rctpl_utils.files import hash_of

TEXT_BATCH = 256
TEXT_SHARD = 16  # batches, 4,096 texts: 8 MB at d = 512
IMAGE_BATCH = 64
IMAGE_SHARD = 8  # batches, 512 images: 25 MB of 7 x 7 maps at d = 512


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
    plan = Plan(order, TEXT_BATCH, TEXT_SHARD)

    def made(name: str, key: str, label: str, make: Callable[[np.ndarray], Tensor]) -> np.ndarray:
        path = folder / f"{name}-{hash_of(key, list(texts))[:20]}.npy"
        arrays = make_arrays(
            [path], plan, lambda rows: (make(rows).cpu().numpy(),), label=label, unit="text"
        )
        return arrays[0]

    def chosen(rows: np.ndarray) -> list[str]:
        return [texts[i] for i in rows.tolist()]

    def project(rows: np.ndarray) -> Tensor:
        return encoder.text.project(torch.from_numpy(pooled[rows]).to(encoder.device))

    key, shared = encoder.text_key, getattr(encoder, "pooled_key", None)
    if shared is None:
        return made("text", key, "encoding texts", lambda rows: encoder.encode_text(chosen(rows)))
    pooled = made("pooled", shared, "reading texts", lambda rows: encoder.text.pooled(chosen(rows)))
    return made("text", key, "projecting texts", project)


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
