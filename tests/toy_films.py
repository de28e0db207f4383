"""Small sets of films and features that several test files make."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.encoders.features import ImageFeatureFile


def radiographs(
    labels: Mapping[str, Sequence[float]],
    name: str = "chexpert",
    patients: Sequence[str] | None = None,
    split: str = "test",
    **masks: Mapping,
) -> ChestXrayDataset:
    """Films f0, f1, ... of patients p0, p1, ..., whose files are never read."""
    count = len(next(iter(labels.values())))
    names = {"image_id": [f"f{k}" for k in range(count)], "path": "unread"}
    names["patient_id"] = patients or [f"p{k}" for k in range(count)]
    return ChestXrayDataset(name, split, tuple(labels), pd.DataFrame({**names, **labels}), **masks)


def feature_file(features: np.ndarray, dense: np.ndarray | None = None) -> ImageFeatureFile:
    """Global features (n, d) with a dense map, by default of one empty cell."""
    if dense is None:
        dense = np.zeros((len(features), 1, 1, features.shape[1]))
    return ImageFeatureFile(features.astype(np.float32), dense.astype(np.float16))
