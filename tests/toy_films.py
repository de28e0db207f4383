"""Small sets of films and features that several test files make."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rctpl_utils.datasets.base import ChestXrayDataset, TableMasks
from rctpl_utils.encoders.features import ImageFeatureFile


def radiographs(
    labels: Mapping[str, Sequence[float]],
    name: str = "chexpert",
    patients: Sequence[str] | None = None,
    split: str = "test",
    masks: Mapping[str, TableMasks] | None = None,
) -> ChestXrayDataset:
    """Films f0, f1, ... of patients p0, p1, ..., whose files are never read."""
    count = len(next(iter(labels.values())))
    names = {"image_id": [f"f{k}" for k in range(count)], "path": "unread"}
    names["patient_id"] = patients or [f"p{k}" for k in range(count)]
    records = pd.DataFrame({**names, **labels})
    return ChestXrayDataset(name, split, tuple(labels), records, masks=masks)


def masks_of(images: Sequence[str], draw: Callable[[str, tuple[int, int]], np.ndarray]):
    """Lesions in these images: `draw` makes a mask of an image's name and size."""
    names = pd.Series(list(images))
    return TableMasks(Path("made.csv"), names, names, lambda image, size, **_: draw(image, size))


def feature_file(features: np.ndarray, dense: np.ndarray | None = None) -> ImageFeatureFile:
    """Global features (n, d) with a dense map, by default of one empty cell."""
    if dense is None:
        dense = np.zeros((len(features), 1, 1, features.shape[1]))
    return ImageFeatureFile(features.astype(np.float32), dense.astype(np.float16))
