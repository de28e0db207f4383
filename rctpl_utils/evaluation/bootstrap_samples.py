"""Bootstrap draws on disk, so that claims are tested on the very resamples behind the tables.

A series belongs to (dataset, method, metric): for each of K runs (seeds) the value in the sample,
then one a resample. All methods and runs meet the same resampled patients, run k of each stands on
encoder k: differences are paired. A method with one run meets every run of another.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path

Key = tuple[str, str, str]  # dataset, method, metric
Draws = dict[Key, np.ndarray]  # (K, 1 + R) each
_SUFFIX = "_draws.parquet"


def save_draws(folder: Path, name: str, draws: Mapping[Key, np.ndarray]) -> Path:
    """Write `folder/<name>_draws.parquet`, one row a series."""
    rows = [
        (*key, np.atleast_2d(np.asarray(series, np.float64)).tolist())
        for key, series in draws.items()
    ]
    path = folder / f"{name}{_SUFFIX}"
    with atomic_path(path) as temporary:
        frame = pd.DataFrame(rows, columns=["dataset", "method", "metric", "draws"])
        frame.to_parquet(temporary, index=False)
    return path


def load_draws(folder: Path, name: str) -> Draws:
    """Read what `save_draws` wrote; InputError: the notebook that makes the file has not run."""
    path = folder / f"{name}{_SUFFIX}"
    if not path.exists():
        raise InputError("no results there", "Run the notebooks before this one first.", file=path)
    rows = pd.read_parquet(path).itertuples(index=False)
    return {(row.dataset, row.method, row.metric): np.stack(row.draws) for row in rows}
